"""One exported file in another precision: fp16 or int8, with inputs and outputs unchanged."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir

from registry.errors import ExportError
from training.export import export

HEAVY = ("Conv", "ConvTranspose", "Gemm", "MatMul")
CALIBRATION_ROWS, CALIBRATION_BATCH = 512, 64


def fp16(source: Path, target: Path) -> None:
    """Write `source` with weights and arithmetic in half precision; inputs and outputs keep their types.

    What lies before the first and after the last layer stays in fp32: raw rows and targets may be
    larger than 65,504, the largest number of fp16.
    """
    from onnxruntime.transformers import float16

    proto = onnx.load(source)
    facts, layers = facts_of(proto), layers_of(proto)
    if not layers:
        raise ExportError(f"{source}: has no layer to convert; fp16 needs one of {', '.join(HEAVY)}")
    # Cut out, converted and put back: the converter takes what lies between nodes left alone through fp16.
    part = _cut(proto, layers)
    half = float16.convert_float_to_float16(part.model, keep_io_types=True).graph
    _rename(half, {tensor.name for tensor in part.weights})
    whole = onnx.helper.make_graph(
        [*part.before, *half.node, *part.after], proto.graph.name, proto.graph.input, proto.graph.output,
        [*part.weights, *half.initializer],
    )  # fmt: skip
    proto.graph.CopyFrom(whole)
    ordered = onnx_ir.serde.deserialize_model(proto)
    ordered.graph.sort()  # the converter puts its casts at the end
    export.write(onnx_ir.serde.serialize_model(ordered), target, facts)


def int8(source: Path, target: Path, calibration: np.ndarray) -> None:
    """Write `source` with 8-bit weights (per channel) and activations, as static QDQ.

    Ranges come from at most CALIBRATION_ROWS of the raw rows `calibration`. The last layer stays in
    fp32: it is small, and its answer is the one that counts. Weights take 7 of the 8 bits, so that
    the sums of a processor without 8-bit dot products cannot overflow: a release answers alike on both.
    Raises ExportError if there is no layer but the last.
    """
    from onnxruntime import quantization

    proto = onnx.load(source)
    facts, layers = facts_of(proto), layers_of(proto)
    inside = layers[:-1]
    if not inside:
        raise ExportError(f"{source}: has one layer, which stays in fp32; int8 needs two of {', '.join(HEAVY)}")
    with _quiet():
        quantization.quantize_static(
            str(source), str(target), _Calibration(proto.graph.input[0].name, calibration[:CALIBRATION_ROWS]),
            quant_format=quantization.QuantFormat.QDQ, per_channel=True, reduce_range=True,
            activation_type=quantization.QuantType.QUInt8, weight_type=quantization.QuantType.QInt8,
            nodes_to_exclude=[node.name for node in proto.graph.node if node.name not in inside],
        )  # fmt: skip
    export.write(onnx.load(target), target, facts)


def layers_of(proto: onnx.ModelProto) -> list[str]:
    """Return the names of the nodes from the first layer with weights to the last, in the order they run."""
    nodes = list(proto.graph.node)
    heavy = [place for place, node in enumerate(nodes) if node.op_type in HEAVY]
    return [node.name for node in nodes[heavy[0] : heavy[-1] + 1]] if heavy else []


def facts_of(proto: onnx.ModelProto) -> dict[str, str]:
    """Return the `metadata_props` of a file."""
    return {entry.key: entry.value for entry in proto.metadata_props}


@dataclass(frozen=True)
class _Part:
    # The layers as a model of their own, and the nodes and weights that lie around them.
    model: onnx.ModelProto
    before: list[onnx.NodeProto]
    after: list[onnx.NodeProto]
    weights: list[onnx.TensorProto]


def _cut(proto: onnx.ModelProto, layers: list[str]) -> _Part:
    main = proto.graph
    first = next(place for place, node in enumerate(main.node) if node.name == layers[0])
    last = first + len(layers)
    before, inside, after = list(main.node[:first]), main.node[first:last], list(main.node[last:])
    weights = {tensor.name for tensor in main.initializer}
    made = {name for node in inside for name in node.output}
    taken = dict.fromkeys(name for node in inside for name in node.input if name not in made | weights | {""})
    asked = {name for node in after for name in node.input} | {value.name for value in main.output}
    given = [name for node in inside for name in node.output if name in asked]
    around = {name for node in (*before, *after) for name in node.input}
    kept = [tensor for tensor in main.initializer if tensor.name in around]
    return _Part(onnx.utils.Extractor(proto).extract_model([*taken], given), before, after, kept)


def _rename(graph: onnx.GraphProto, names: set[str]) -> None:
    # A weight that both sides use exists twice afterwards, in two types.
    for tensor in graph.initializer:
        tensor.name = f"{tensor.name}.fp16" if tensor.name in names else tensor.name
    for node in graph.node:
        node.input[:] = [f"{name}.fp16" if name in names else name for name in node.input]


class _Calibration:
    """The reader that quantize_static asks for batches until there is none."""

    def __init__(self, name: str, rows: np.ndarray) -> None:
        starts = range(0, len(rows), CALIBRATION_BATCH)
        self._batches = iter([{name: rows[start : start + CALIBRATION_BATCH]} for start in starts])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._batches, None)


@contextmanager
def _quiet() -> Iterator[None]:
    # onnxruntime.quantization advises, on the root logger, to fold and infer shapes first: the exporter has.
    root = logging.getLogger()
    handlers = root.handlers[:]
    root.handlers[:] = [logging.NullHandler()]
    try:
        yield
    finally:
        root.handlers[:] = handlers
