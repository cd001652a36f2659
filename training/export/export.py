"""Turn a trained model into one ONNX file that is what a release promises, with the same bytes everywhere."""

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import torch

from registry import graph
from registry.errors import ExportError, ReleaseError
from registry.release import EMBEDDING, OUTPUTS, InputSpec

OPSET = 20  # the exporter's default in torch 2.13; below 18 it falls back to 18 without raising
PROVIDER = "CPUExecutionProvider"
MOST_INSIDE_BYTES = 2**31 - 2**26  # protobuf ends at 2 GiB; 64 MiB are left for the graph itself
LEAST_OUTSIDE_BYTES = 1024  # smaller tensors stay in the graph, where shape inference reads them
Signature = list[tuple[str, int, tuple[str | int, ...]]]  # name, element type, shape
_OPTIONS = {"CUDAExecutionProvider": {"use_tf32": "0"}}  # 10 bits of mantissa are not fp32
_ELEMENT = {"uint8": onnx.TensorProto.UINT8, "float32": onnx.TensorProto.FLOAT}


@dataclass(frozen=True)
class Asked:
    """What the file must look like from outside.

    classes: () in a regression. unit: of a regression, the standard deviation of the target over the
    training rows; differences are measured in it, so that one limit fits euros and light years. embedding: the numbers
    in a row of the embedding that is given out, 0 without one.
    """

    input: InputSpec
    classes: tuple[str, ...] = ()
    task: str = "classification"
    unit: float = 1.0
    embedding: int = 0

    @property
    def outputs(self) -> tuple[str, ...]:
        """Return the names of the outputs, the one that answers first."""
        return tuple(self.widths)

    @property
    def widths(self) -> dict[str, int]:
        """Return the numbers in one row of each output, by its name and in their order."""
        found = dict.fromkeys((OUTPUTS[self.task],), len(self.classes) or 1)
        found |= {"logits": len(self.classes)} if self.task == "classification" else {}
        return found | ({EMBEDDING: self.embedding} if self.embedding else {})


def export(
    model: torch.nn.Module, asked: Asked, path: Path, facts: dict[str, str], most_inside: int = MOST_INSIDE_BYTES
) -> None:
    """Write `model` to `path` with the same bytes on every machine, and check it.

    The model takes raw rows and answers `asked.outputs`, as a tensor or a tuple of them.
    facts: stored in the file's `metadata_props`, readable at run time (data digest, classes, ...).
    Weights of more than `most_inside` bytes go into one file beside it, `path` with `.data` added.
    Raises ExportError if the graph is not what was asked for; see `check`.
    """
    model.eval()
    sample = torch.zeros((3, *asked.input.shape), dtype=getattr(torch, asked.input.dtype))
    try:
        with _quiet():
            program = torch.onnx.export(
                model, (sample,), dynamo=True, opset_version=OPSET, verbose=False, external_data=False,
                input_names=[asked.input.name], output_names=list(asked.outputs),
                dynamic_shapes=({0: torch.export.Dim("batch", min=1)},),
            )  # fmt: skip
    except torch.onnx.OnnxExporterError as error:
        raise ExportError(
            f"{path}: PyTorch cannot export this network: {error.__cause__ or error}; accepted are torch.nn layers "
            "and operations whose course does not depend on the numbers in the rows"
        ) from error
    if program is None:
        raise ExportError(f"{path}: the exporter returned no program; a network of torch.nn layers is accepted")
    _put_outside(program.model, path, most_inside)
    write(onnx_ir.serde.serialize_model(program.model), path, facts)
    check(path, asked)


def write(proto: onnx.ModelProto, path: Path, facts: Mapping[str, str]) -> None:
    """Write `proto` with `facts` as its only words about itself; equal graphs give equal bytes."""
    strip(proto)
    onnx.helper.set_model_props(proto, dict(sorted(facts.items())))
    path.write_bytes(proto.SerializeToString(deterministic=True))


def check(path: Path, asked: Asked) -> None:
    """Raise ExportError unless the file is a valid graph with the opset, input and outputs of a release.

    The batch must be free, every other dimension fixed, every weight finite and in this file or, of
    a large model, in the one beside it.
    """
    content = path.read_bytes()
    try:
        outside = graph.weights(content, _files(path), str(path))
        onnx.checker.check_model(str(path), full_check=True)
    except ReleaseError as error:
        raise ExportError(str(error)) from error
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"{path}: not a valid ONNX graph: {error}") from error
    proto = onnx.ModelProto.FromString(content)
    opsets = {entry.domain: entry.version for entry in proto.opset_import}
    if opsets != {"": OPSET}:
        raise ExportError(f"{path}: opsets are {opsets}; accepted is ONNX {OPSET} alone")
    _check_signature(proto, asked, str(path))
    _check_weights(proto, outside, str(path))


def beside(path: Path) -> Path:
    """Return the file that holds the weights of a large model at `path`; see `export`."""
    return path.with_name(path.name + ".data")


def open_file(path: Path, provider: str = PROVIDER) -> onnxruntime.InferenceSession:
    """Return a session of the file at `path` and, if there is one, the file of weights beside it."""
    return session_of(path.read_bytes(), _files(path), provider)


def session_of(
    content: bytes, files: Mapping[str, bytes] | None = None, provider: str = PROVIDER
) -> onnxruntime.InferenceSession:
    """Return a session with one thread; files: the bytes of the files of weights that the graph names."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4  # a provider that is not to be had is seen from get_providers()
    outside = graph.weights(content, files or {}, "model")
    # Not add_external_initializers_from_files_in_memory, which refuses a single weight of more than 2 GiB.
    held = [onnxruntime.OrtValue.ortvalue_from_numpy(values) for values in outside.values()]
    options.add_external_initializers(list(outside), held)
    wanted = [(provider, _OPTIONS.get(provider, {}))]
    session = onnxruntime.InferenceSession(content, options, providers=wanted, enable_fallback=0)
    session.held = held  # ONNX Runtime reads these where they are, as long as the session lives
    return session


def run(
    session: onnxruntime.InferenceSession, rows: np.ndarray, batch_rows: int, place: str = "model"
) -> tuple[np.ndarray, ...]:
    """Return every output for every row, run in batches of exactly `batch_rows`.

    The last batch is filled up with the first rows, again and again if there are too few.
    Raises ExportError if the graph does not run.
    """
    count = -(-len(rows) // batch_rows) * batch_rows
    filled = rows[np.arange(count) % len(rows)]
    name = session.get_inputs()[0].name
    try:
        parts = [session.run(None, {name: filled[i : i + batch_rows]}) for i in range(0, count, batch_rows)]
    except Exception as error:  # onnxruntime has a class of its own for each kind of failure
        raise ExportError(f"{place}: does not run with {batch_rows} rows: {error}") from error
    return tuple(np.concatenate(output)[: len(rows)] for output in zip(*parts, strict=True))


def versions() -> dict[str, str]:
    """Return the versions that an export depends on."""
    return {"torch": torch.__version__, "onnx": onnx.__version__, "onnxruntime": onnxruntime.__version__}


def strip(proto: onnx.ModelProto) -> None:
    """Remove what the exporter wrote about the machine: stack traces with absolute paths in every node.

    They tell outsiders about the build and change the bytes between checkouts.
    """
    main = proto.graph
    for values in (
        main.node, main.input, main.output, main.value_info, main.initializer, [main], proto.functions,
    ):  # fmt: skip
        for value in values:
            del value.metadata_props[:]
    for function in proto.functions:
        for node in function.node:
            del node.metadata_props[:]
    del proto.metadata_props[:]
    main.doc_string = ""


def _files(path: Path) -> dict[str, bytes]:
    side = beside(path)
    return {side.name: side.read_bytes()} if side.exists() else {}


def _put_outside(model: onnx_ir.Model, path: Path, most_inside: int) -> None:
    # In the order of the graph, one after the other: the same model gives the same bytes.
    beside(path).unlink(missing_ok=True)
    held = [(value, value.const_value) for value in model.graph.initializers.values() if value.const_value is not None]
    if sum(tensor.nbytes for _, tensor in held) <= most_inside:
        return
    large = [(value, tensor) for value, tensor in held if tensor.nbytes >= LEAST_OUTSIDE_BYTES]
    moved = onnx_ir.external_data.convert_tensors_to_external(
        [tensor for _, tensor in large], path.parent, beside(path).name, max_workers=1
    )
    for (value, _), tensor in zip(large, moved, strict=True):
        value.const_value = tensor


def _check_weights(proto: onnx.ModelProto, outside: Mapping[str, np.ndarray], place: str) -> None:
    for tensor in proto.graph.initializer:
        values = outside[tensor.name] if tensor.name in outside else onnx.numpy_helper.to_array(tensor)
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise ExportError(f"{place}: weight '{tensor.name}' is not finite; train again with a lower schedule.peak")


def _check_signature(proto: onnx.ModelProto, asked: Asked, place: str) -> None:
    spec = asked.input
    wanted_input: Signature = [(spec.name, _ELEMENT[spec.dtype], ("batch", *spec.shape))]
    wanted_outputs: Signature = [(n, onnx.TensorProto.FLOAT, ("batch", width)) for n, width in asked.widths.items()]
    for side, found, wanted in (
        ("input", _signature(proto.graph.input), wanted_input),
        ("output", _signature(proto.graph.output), wanted_outputs),
    ):
        if found != wanted:
            raise ExportError(f"{place}: {side} is {_words(found)}; accepted is {_words(wanted)}")


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
