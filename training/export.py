"""Turn a trained model into one ONNX file that is known to agree with it."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

from registry.errors import ExportError
from registry.release import InputSpec
from training import models

OPSET = 20  # the exporter's default in torch 2.13; below 18 it falls back to 18 without raising
PROVIDER = "CPUExecutionProvider"
BATCH_ROWS = (1, 2, 7, 64, 256)
MOST_ROWS = 2000
OUTPUTS = ("probabilities", "logits")
Signature = list[tuple[str, int, tuple[str | int, ...]]]  # name, element type, shape
_ELEMENT = {"uint8": onnx.TensorProto.UINT8, "float32": onnx.TensorProto.FLOAT}


@dataclass(frozen=True)
class Asked:
    """What the file must look like from outside."""

    input: InputSpec
    classes: tuple[str, ...]


def export(model: models.Classifier, asked: Asked, path: Path, facts: dict[str, str]) -> None:
    """Write `model` to `path` as a single file with the same bytes on every machine, and check it.

    facts: stored in the file's `metadata_props`, readable at run time (data digest, classes, ...).
    Raises ExportError if the graph is not what was asked for; see `check`.
    """
    model.eval()
    sample = torch.zeros((3, *asked.input.shape), dtype=getattr(torch, asked.input.dtype))
    with _quiet():
        program = torch.onnx.export(
            model, (sample,), dynamo=True, opset_version=OPSET, verbose=False, external_data=False,
            input_names=[asked.input.name], output_names=list(OUTPUTS),
            dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
        )  # fmt: skip
    if program is None:
        raise ExportError(f"{path}: the exporter returned no program; a network of torch.nn layers is accepted")
    proto = program.model_proto
    strip(proto)
    onnx.helper.set_model_props(proto, dict(sorted(facts.items())))
    check(proto, asked, str(path))
    path.write_bytes(proto.SerializeToString(deterministic=True))


def check(proto: onnx.ModelProto, asked: Asked, place: str) -> None:
    """Raise ExportError unless the graph is valid and has the opset, input and outputs of a release.

    The batch must be free, every other dimension fixed, every weight finite and inside the file.
    """
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"{place}: not a valid ONNX graph: {error}") from error
    opsets = {entry.domain: entry.version for entry in proto.opset_import}
    if opsets != {"": OPSET}:
        raise ExportError(f"{place}: opsets are {opsets}; accepted is ONNX {OPSET} alone")
    spec, classes = asked.input, len(asked.classes)
    wanted_input: Signature = [(spec.name, _ELEMENT[spec.dtype], ("batch", *spec.shape))]
    wanted_outputs: Signature = [(name, onnx.TensorProto.FLOAT, ("batch", classes)) for name in OUTPUTS]
    for side, found, wanted in (
        ("input", _signature(proto.graph.input), wanted_input),
        ("output", _signature(proto.graph.output), wanted_outputs),
    ):
        if found != wanted:
            raise ExportError(f"{place}: {side} is {_words(found)}; accepted is {_words(wanted)}")
    for tensor in proto.graph.initializer:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise ExportError(f"{place}: weight '{tensor.name}' lies in another file; accepted is one file")
        values = onnx.numpy_helper.to_array(tensor)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise ExportError(f"{place}: weight '{tensor.name}' is not finite; train again with a lower schedule.peak")


def certify(model: models.Classifier, path: Path, rows: np.ndarray, limit: float) -> dict[str, Any]:
    """Return the parity certificate: `model` and the file at `path` answer alike on raw rows (n, *shape).

    Every row is run in every batch size of BATCH_ROWS. The difference is the largest absolute one
    over probabilities and logits: relative would be judged where a logit is near 0.
    Raises ExportError above `limit`; below it a top class can change only where two are all but equal.
    """
    rows = rows[:MOST_ROWS]
    expected = models.predict(model, rows)
    session = session_of(path.read_bytes())
    gaps, changes = [], 0
    for size in BATCH_ROWS:
        answers = run(session, rows, size, str(path))
        gaps += [np.abs(got - want) for got, want in zip(answers, expected, strict=True)]
        changes += int((answers[0].argmax(axis=1) != expected[0].argmax(axis=1)).sum())
    largest = float(np.max([gap.max() for gap in gaps]))
    if not largest <= limit:  # NaN is above any limit
        raise ExportError(
            f"{path}: differs from the PyTorch model by {largest:.3g}, limit {limit:.3g}; the top class "
            f"changes in {changes} of {len(rows) * len(BATCH_ROWS)} answers; the model was not published"
        )
    return {
        "provider": PROVIDER, "precision": "fp32", "rows": len(rows), "batch_rows": list(BATCH_ROWS),
        "max_difference": largest, "mean_difference": float(np.mean([gap.mean() for gap in gaps])),
        "top_class_changes": changes, "limit": limit, "versions": versions(),
    }  # fmt: skip


def session_of(content: bytes) -> onnxruntime.InferenceSession:
    """Return a session on the CPU with one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(content, options, providers=[PROVIDER])


def run(
    session: onnxruntime.InferenceSession, rows: np.ndarray, batch_rows: int, place: str = "model"
) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities and logits of every row, run in batches of exactly `batch_rows`.

    The last batch is filled up with the first rows, again and again if there are too few.
    Raises ExportError if the graph does not run.
    """
    count = -(-len(rows) // batch_rows) * batch_rows
    filled = rows[np.arange(count) % len(rows)]
    name = session.get_inputs()[0].name
    try:
        parts = [session.run(list(OUTPUTS), {name: filled[i : i + batch_rows]}) for i in range(0, count, batch_rows)]
    except Exception as error:  # onnxruntime has a class of its own for each kind of failure
        raise ExportError(f"{place}: does not run with {batch_rows} rows: {error}") from error
    probabilities, logits = (np.concatenate([part[number] for part in parts])[: len(rows)] for number in (0, 1))
    return probabilities, logits


def versions() -> dict[str, str]:
    """Return the versions a certificate holds for."""
    return {"torch": torch.__version__, "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}


def strip(proto: onnx.ModelProto) -> None:
    """Remove what the exporter wrote about the machine: stack traces with absolute paths in every node.

    They tell outsiders about the build and change the bytes between checkouts.
    """
    graph = proto.graph
    for values in (
        graph.node,
        graph.input,
        graph.output,
        graph.value_info,
        graph.initializer,
        [graph],
        proto.functions,
    ):
        for value in values:
            del value.metadata_props[:]
    for function in proto.functions:
        for node in function.node:
            del node.metadata_props[:]
    del proto.metadata_props[:]
    graph.doc_string = ""


def _signature(values: Any) -> Signature:
    found = []
    for value in values:
        tensor = value.type.tensor_type
        shape = tuple(d.dim_param or int(d.dim_value) for d in tensor.shape.dim)
        found.append((value.name, int(tensor.elem_type), shape))
    return found


def _words(signature: Signature) -> str:
    kinds = onnx.TensorProto.DataType
    return ", ".join(f"{n} {kinds.Name(kind).lower()} {shape}" for n, kind, shape in signature) or "nothing"


@contextmanager
def _quiet() -> Iterator[None]:
    # torch 2.13 warns about its own use of LeafSpec, and logs that torchvision is absent.
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
            yield
    finally:
        logger.setLevel(level)
