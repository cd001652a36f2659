"""Tiny but real releases: a linear softmax classifier or regressor as ONNX, with its reference and held-out rows."""

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper

from monitoring.judge.estimates import Estimation
from monitoring.shift import reference
from registry.release import Draft, InputSpec

IMAGE = InputSpec("uint8", (8, 8))
TABLE = InputSpec("float32", (3,), ("age", "height", "weight"))
HOMES = InputSpec(
    "float32", (3,), ("area", "city", "heating"),
    {"city": ("Bern", "Oslo", "Rome"), "heating": ("gas", "wood")}, {"area": 80.0, "heating": 1.0},
)  # fmt: skip
DIGITS = tuple("0123456789")


def onnx_bytes(spec, classes, seed):
    """Return a linear softmax classifier on raw rows, as ONNX; without classes a linear regressor."""
    size, width = int(np.prod(spec.shape)), max(1, classes)
    weights = np.random.default_rng(seed).standard_normal((size, width)).astype(np.float32) * (0.05 if classes else 1)
    kind = {"uint8": TensorProto.UINT8, "float32": TensorProto.FLOAT}[spec.dtype]
    shape = ["batch", *spec.shape]
    nodes = [
        helper.make_node("Cast", ["input"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["float"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "W"], ["logits" if classes else "prediction"]),
    ]
    if classes:
        nodes.append(helper.make_node("Softmax", ["logits"], ["probabilities"], axis=-1))
    names = ("probabilities", "logits") if classes else ("prediction",)
    outputs = [helper.make_tensor_value_info(n, 1, ["batch", width]) for n in names]
    inputs = [helper.make_tensor_value_info("input", kind, shape)]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [onnx.numpy_helper.from_array(weights, "W")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10).SerializeToString()


def rows_of(spec, count, seed=1):
    generator = np.random.default_rng(seed)
    if spec.dtype == "uint8":
        return generator.integers(0, 17, (count, *spec.shape)).astype(np.uint8)
    rows = generator.standard_normal((count, *spec.shape)).astype(np.float32)
    for column, values in spec.categories.items():
        rows[:, spec.columns.index(column)] = generator.integers(0, len(values), count)
    return rows


def run(content, x, output):
    return onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]).run([output], {"input": x})[0]


def make_files(folder, spec=IMAGE, classes=DIGITS, seed=0, right=1.0, truth=None, rows=300):
    """Write the files of a release; `right`: the share of held-out rows whose truth is what the model says.

    classes: () makes a regression, whose wrong rows are off by 10. truth: the seed of the model that
    knows the truth; the model itself if None.
    """
    output = "probabilities" if classes else "prediction"
    folder.mkdir(parents=True)
    content = onnx_bytes(spec, len(classes), seed)
    (folder / "model.onnx").write_bytes(content)
    x = rows_of(spec, rows)
    answers = run(content, x, output)
    known = answers if truth is None else run(onnx_bytes(spec, len(classes), truth), x, output)
    wrong = np.random.default_rng(2).random(rows) >= right
    y = known.argmax(axis=1) if classes else known[:, 0].astype(np.float64)
    y[wrong] = (y[wrong] + 1) % len(classes) if classes else y[wrong] + 10
    settings = reference.ReferenceSettings()
    built = reference.build(settings, reference.HeldOut(spec, x, answers))
    estimation = Estimation.fit(answers, y) if classes else None
    (folder / "reference.json").write_bytes(replace(built, estimation=estimation).to_json())
    keys = np.arange(rows, dtype=np.uint64)
    np.savez(folder / "heldout.npz", key=keys, x=x, y=y, **{output: answers})
    (folder / "card.md").write_text(f"# A tiny model {seed}\n")
    return folder


def make_draft(name="tiny", spec=IMAGE, classes=DIGITS, accuracy=1.0, **changed):
    metric = "accuracy" if classes else "within_tolerance"
    said = {
        "name": name,
        "created": "2026-11-24T11:00:00Z",
        "purpose": "a test",
        "task": "classification" if classes else "regression",
        "input": spec,
        "classes": classes,
        "metrics": {metric: {"value": accuracy, "lower": accuracy - 0.02, "upper": 1.0}},
        "baselines": {},
        "parity": {"max_difference": 1e-6, "limit": 1e-4},
        "gate": {"margin": 0.02, "confidence": 0.95, "beats_baselines": True},
        "quality": {"metric": metric, "floor": 0.9} | ({} if classes else {"tolerance": 2.5}),
        "data": {},
        "config": {},
        "code": {},
    }
    return Draft(**said | changed)
