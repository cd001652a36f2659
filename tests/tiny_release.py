"""Tiny but real releases: a linear softmax classifier as ONNX, with its reference and held-out rows."""

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from monitoring import reference
from registry.release import Draft, InputSpec

IMAGE = InputSpec("uint8", (8, 8))
TABLE = InputSpec("float32", (3,), ("age", "height", "weight"))
DIGITS = tuple("0123456789")


def onnx_bytes(spec, classes, seed):
    """Return a linear softmax classifier on raw rows, as ONNX."""
    size = int(np.prod(spec.shape))
    weights = np.random.default_rng(seed).standard_normal((size, classes)).astype(np.float32) * 0.05
    kind = {"uint8": TensorProto.UINT8, "float32": TensorProto.FLOAT}[spec.dtype]
    shape = ["batch", *spec.shape]
    nodes = [
        helper.make_node("Cast", ["input"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["float"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "W"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1),
    ]
    outputs = [helper.make_tensor_value_info(n, 1, ["batch", classes]) for n in ("probabilities", "logits")]
    inputs = [helper.make_tensor_value_info("input", kind, shape)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [onnx.numpy_helper.from_array(weights, "W")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


def rows_of(spec, count, seed=1):
    generator = np.random.default_rng(seed)
    if spec.dtype == "uint8":
        return generator.integers(0, 17, (count, *spec.shape)).astype(np.uint8)
    return generator.standard_normal((count, *spec.shape)).astype(np.float32)


def make_files(folder, spec=IMAGE, classes=DIGITS, seed=0, right=1.0, rows=300):
    """Write the files of a release; `right`: the share of held-out rows whose truth is what the model says."""
    folder.mkdir(parents=True)
    content = onnx_bytes(spec, len(classes), seed)
    (folder / "model.onnx").write_bytes(content)
    x = rows_of(spec, rows)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    probabilities = session.run(["probabilities"], {"input": x})[0]
    y = probabilities.argmax(axis=1)
    wrong = np.random.default_rng(2).random(rows) >= right
    y[wrong] = (y[wrong] + 1) % len(classes)
    settings = reference.ReferenceSettings()
    (folder / "reference.json").write_bytes(reference.build(settings, spec, x, probabilities).to_json())
    keys = np.arange(rows, dtype=np.uint64)
    np.savez(folder / "heldout.npz", key=keys, x=x, y=y, probabilities=probabilities)
    (folder / "card.md").write_text(f"# A tiny model {seed}\n")
    return folder


def make_draft(name="tiny", spec=IMAGE, classes=DIGITS, accuracy=1.0, **changed):
    said = {
        "name": name,
        "created": "2026-11-24T11:00:00Z",
        "purpose": "a test",
        "task": "classification",
        "input": spec,
        "classes": classes,
        "metrics": {"accuracy": {"value": accuracy, "lower": accuracy - 0.02, "upper": 1.0}},
        "baselines": {},
        "parity": {"max_difference": 1e-6, "limit": 1e-4},
        "gate": {"margin": 0.02, "confidence": 0.95, "beats_baselines": True},
        "quality": {"metric": "accuracy", "floor": 0.9},
        "data": {},
        "config": {},
        "code": {},
    }
    return Draft(**said | changed)
