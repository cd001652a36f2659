"""Three models of very different cost, as ONNX and as real releases: tiny, cnn and resnet.

Their weights are random: what is measured is how they are served, not what they know.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from monitoring.shift import reference
from registry import aliases, store
from registry.release import Draft, InputSpec

CLASSES = tuple("0123456789")
HELDOUT_ROWS = 300
WIDTHS = (40, 80, 160, 320)


@dataclass
class Graph:
    """Layers added one after the other; a layer is named by what it puts out."""

    seed: int
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)

    @cached_property
    def _generator(self) -> np.random.Generator:
        return np.random.default_rng(self.seed)

    def add(self, kind: str, *inputs: str, **attributes: object) -> str:
        """Add a node and return the name of its output."""
        name = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def weight(self, *shape: int, scale: float) -> str:
        """Add random weights and return their name."""
        name = f"weight{len(self.weights)}"
        values = (self._generator.standard_normal(shape) * scale).astype(np.float32)
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def dense(self, x: str, width: int, out: int) -> str:
        """Add a dense layer from `width` to `out`."""
        return self.add("Gemm", x, self.weight(width, out, scale=width**-0.5), self.weight(out, scale=0.1))

    def conv(self, x: str, channels: int, out: int, size: int, stride: int = 1) -> str:
        """Add a convolution that keeps the image's size, or divides it by `stride`."""
        weight = self.weight(out, channels, size, size, scale=(2 / (channels * size * size)) ** 0.5)
        pads = [size // 2] * 4
        return self.add("Conv", x, weight, self.weight(out, scale=0.1), pads=pads, strides=[stride] * 2)

    def relu(self, x: str) -> str:
        """Add a rectifier."""
        return self.add("Relu", x)

    def pool(self, x: str) -> str:
        """Halve the image, taking the largest."""
        return self.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])

    def to_bytes(self, x: str, shape: tuple[int, ...]) -> bytes:
        """Return the ONNX file with a softmax over `x`."""
        self.nodes.append(helper.make_node("Softmax", [x], ["probabilities"], axis=-1))
        inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", *shape])]
        outputs = [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["batch", len(CLASSES)])]
        graph = helper.make_graph(self.nodes, "served", inputs, outputs, self.weights)
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        content: bytes = made.SerializeToString()
        return content


def tiny(seed: int) -> bytes:
    """Return a dense network 64-128-10: 9,472 multiply-adds."""
    graph = Graph(seed)
    return graph.to_bytes(graph.dense(graph.relu(graph.dense("input", 64, 128)), 128, 10), (64,))


def cnn(seed: int) -> bytes:
    """Return two convolutions and two dense layers on 1 x 28 x 28: 409,000 multiply-adds."""
    graph = Graph(seed)
    x = graph.pool(graph.relu(graph.conv("input", 1, 8, 3)))
    x = graph.add("Flatten", graph.pool(graph.relu(graph.conv(x, 8, 16, 3))), axis=1)
    return graph.to_bytes(graph.dense(graph.relu(graph.dense(x, 784, 160)), 160, 10), (1, 28, 28))


def resnet(seed: int) -> bytes:
    """Return a ResNet-18 of 40 to 320 channels, normalisation folded in, on 3 x 64 x 64: 60 million multiply-adds."""
    graph = Graph(seed)
    x, channels = graph.pool(graph.relu(graph.conv("input", 3, WIDTHS[0], 7, stride=2))), WIDTHS[0]
    for width in WIDTHS:
        for block in range(2):
            stride = 2 if block == 0 and width > channels else 1
            beside = graph.conv(x, channels, width, 1, stride) if width > channels else x
            inner = graph.conv(graph.relu(graph.conv(x, channels, width, 3, stride)), width, width, 3)
            x, channels = graph.relu(graph.add("Add", inner, beside)), width
    x = graph.add("Flatten", graph.add("GlobalAveragePool", x), axis=1)
    return graph.to_bytes(graph.dense(x, WIDTHS[-1], 10), (3, 64, 64))


MODELS: dict[str, tuple[Callable[[int], bytes], tuple[int, ...]]] = {
    "tiny": (tiny, (64,)),
    "cnn": (cnn, (1, 28, 28)),
    "resnet": (resnet, (3, 64, 64)),
}


@dataclass(frozen=True)
class Model:
    """name: of the release. content: the ONNX file. shape: of one row."""

    name: str
    content: bytes
    shape: tuple[int, ...]

    def rows(self, count: int, seed: int = 1) -> np.ndarray:
        """Return random rows from 0 to 1, as images have, float32 (count, *shape)."""
        return np.random.default_rng(seed).random((count, *self.shape), np.float32)

    @cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        return onnxruntime.InferenceSession(self.content, providers=["CPUExecutionProvider"])

    def answers(self, rows: np.ndarray) -> np.ndarray:
        """Return what every server must answer, float32 (n, 10)."""
        answers: np.ndarray = self._session.run(["probabilities"], {"input": rows})[0]
        return answers


def make(name: str, seed: int = 0) -> Model:
    """Return one of MODELS; another seed gives other weights."""
    build, shape = MODELS[name]
    return Model(name, build(seed), shape)


def publish(model: Model, folder: Path) -> str:
    """Publish `model` as a release with its reference and held-out rows, and return its tag."""
    files = folder / f"{model.name}-{hashlib.sha256(model.content).hexdigest()[:8]}"
    files.mkdir(parents=True)
    (files / "model.onnx").write_bytes(model.content)
    x = model.rows(HELDOUT_ROWS)
    answers = model.answers(x)
    spec = InputSpec("float32", model.shape, tuple(f"c{i}" for i in range(64)) if len(model.shape) == 1 else ())
    normal = reference.build(reference.ReferenceSettings(), reference.HeldOut(spec, x, answers))
    (files / "reference.json").write_bytes(normal.to_json())
    keys = np.arange(len(x), dtype=np.uint64)
    np.savez(files / "heldout.npz", key=keys, x=x, y=answers.argmax(axis=1), probabilities=answers)
    (files / "card.md").write_text("# A model with random weights, for measuring\n")
    return store.publish(_draft(model.name, spec), files).tag


@contextmanager
def served_from(home: Path) -> Iterator[None]:
    """Make `home` the store of this process meanwhile."""
    before = os.environ.get("BENTOML_HOME")
    os.environ["BENTOML_HOME"] = str(home)
    try:
        yield
    finally:
        os.environ.pop("BENTOML_HOME")
        if before is not None:
            os.environ["BENTOML_HOME"] = before


def publish_and_promote(model: Model, home: Path) -> str:
    """Publish `model` into the store at `home`, make it the champion, and return its tag."""
    with served_from(home):
        tag = publish(model, home / "files")
        aliases.promote(tag, "measured", force=True)
    return tag


def _draft(name: str, spec: InputSpec) -> Draft:
    return Draft(
        name=name,
        created=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        purpose="measuring how models are served",
        task="classification",
        input=spec,
        classes=CLASSES,
        metrics={"accuracy": {"value": 1.0, "lower": 0.99, "upper": 1.0}},
        baselines={},
        parity={"max_difference": 0.0, "limit": 1e-4},
        gate={"margin": 0.02, "confidence": 0.95, "beats_baselines": False},
        quality={"metric": "accuracy", "floor": 0.9},
        data={},
        config={},
        code={},
    )
