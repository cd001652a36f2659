"""What a graph can return: the outputs that have one row for each row that goes in."""

from dataclasses import dataclass

import numpy as np
import onnxruntime

_DTYPES = {
    "tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16", "tensor(bool)": "bool",
    "tensor(int8)": "int8", "tensor(int16)": "int16", "tensor(int32)": "int32", "tensor(int64)": "int64",
    "tensor(uint8)": "uint8", "tensor(uint16)": "uint16", "tensor(uint32)": "uint32", "tensor(uint64)": "uint64",
}  # fmt: skip


@dataclass(frozen=True)
class OutputSpec:
    """One output of the graph. dtype: as numpy names it. shape: of one row, None where the graph does not say."""

    dtype: str
    shape: tuple[int | None, ...]


def numeric(session: onnxruntime.InferenceSession) -> tuple[str, ...]:
    """Return the names of the outputs that are arrays of numbers, in the order of the graph."""
    return tuple(node.name for node in session.get_outputs() if node.type in _DTYPES)


def specs(session: onnxruntime.InferenceSession, answers: dict[str, np.ndarray], rows: int) -> dict[str, OutputSpec]:
    """Return the outputs that have a row per row, by name; answers: what the graph gave for `rows` rows."""
    nodes = [node for node in session.get_outputs() if node.name in answers]
    return {node.name: _spec(node, answers[node.name]) for node in nodes if _by_row(node, answers[node.name], rows)}


def _by_row(node: onnxruntime.NodeArg, answer: np.ndarray, rows: int) -> bool:
    fixed = bool(node.shape) and isinstance(node.shape[0], int)
    return not fixed and answer.shape[:1] == (rows,)


def _spec(node: onnxruntime.NodeArg, answer: np.ndarray) -> OutputSpec:
    said = node.shape[1:] if len(node.shape) == answer.ndim else [None] * (answer.ndim - 1)
    return OutputSpec(_DTYPES[node.type], tuple(size if isinstance(size, int) else None for size in said))
