"""What an ONNX file refers to, read from its bytes alone: operator domains and other files.

The service has no `onnx` package, and a file must be judged before ONNX Runtime opens what it names.
Field numbers are those of onnx.proto (ONNX 1.23); only the fields that can hold a domain, a
location or a further graph are followed, the rest is stepped over, weights included.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np

from registry.errors import ReleaseError

DOMAINS = frozenset({"", "ai.onnx"})  # ONNX's own operators: no code from elsewhere is ever called

_MESSAGES = {  # message -> field -> message inside; a weight is a tensor among the initializers of the main graph
    "model": {7: "main", 8: "opset", 20: "training", 25: "function"},
    "main": {1: "node", 5: "weight", 15: "sparse"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "function": {7: "node", 9: "opset", 11: "attribute"},
    "training": {1: "graph", 2: "graph"},
    "opset": {},
}  # fmt: skip
_DOMAIN_FIELD = {"node": 7, "opset": 1, "function": 10}
_DIMS, _DATA_TYPE, _NAME, _EXTERNAL = 1, 2, 8, 13  # fields of a tensor
_TYPES = {1: "f4", 2: "u1", 3: "i1", 4: "u2", 5: "i2", 6: "i4", 7: "i8", 9: "?", 10: "f2", 11: "f8", 12: "u4", 13: "u8"}


@dataclass(frozen=True)
class Outside:
    """A weight of the main graph whose values lie in another file; dtype: as numpy names it, "" if unknown."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    offset: int
    size_bytes: int


@dataclass(frozen=True)
class References:
    """domains: of every operator and function. weights: that lie outside. hidden: files named anywhere else."""

    domains: frozenset[str]
    weights: tuple[Outside, ...]
    hidden: frozenset[str]

    @property
    def files(self) -> frozenset[str]:
        """Return every file that the graph names."""
        return self.hidden | {weight.file for weight in self.weights}


def references(content: bytes, place: str) -> References:
    """Return what the ONNX file with these bytes refers to; raises ReleaseError if they are not protobuf."""
    domains, hidden, weights = set(), set(), []
    waiting = [("model", memoryview(content))]
    try:
        if content[4:8] == b"ORTM":  # ONNX Runtime would then read it in its own format, whatever else it is
            raise ValueError("it is marked as a file in the format of ONNX Runtime")
        while waiting:
            kind, message = waiting.pop()
            if kind in ("tensor", "weight"):
                outside = _outside(message)
                if outside is not None and kind == "weight":
                    weights.append(outside)
                elif outside is not None:
                    hidden.add(outside.file)
                continue
            for field, value in _fields(message):
                if isinstance(value, int):
                    continue
                if field == _DOMAIN_FIELD.get(kind):
                    domains.add(str(value, "utf-8"))
                elif field in _MESSAGES[kind]:
                    waiting.append((_MESSAGES[kind][field], value))
    except (ValueError, IndexError) as error:
        raise ReleaseError(f"{place}: not an ONNX file: {error}; export the model again") from error
    return References(frozenset(domains), tuple(weights), frozenset(hidden))


def weights(content: bytes, files: Mapping[str, bytes], place: str) -> dict[str, np.ndarray]:
    """Return the weights that lie outside an ONNX file, by name, as views of the bytes in `files`.

    With these handed over, ONNX Runtime opens no file. Raises ReleaseError if the graph needs an
    operator that is not ONNX's own, a file not in `files`, or bytes that a file does not have.
    """
    found = references(content, place)
    if not found.domains <= DOMAINS:
        strange = ", ".join(sorted(found.domains - DOMAINS))
        raise ReleaseError(f"{place}: uses operators of the domain {strange}; accepted are those of ONNX itself")
    refused = sorted((found.files - files.keys()) | found.hidden)
    if refused:
        known = f"weights of the main graph from {', '.join(sorted(files))}" if files else "weights inside the file"
        raise ReleaseError(f"{place}: takes weights from {', '.join(map(repr, refused))}; accepted are {known}")
    return {weight.name: _view(weight, files[weight.file], place) for weight in found.weights}


def _outside(message: memoryview) -> Outside | None:
    name, dtype, shape, said = "", "", [], {}
    for field, value in _fields(message):
        if field == _DIMS:
            shape += [value] if isinstance(value, int) else _packed(value)
        elif field == _DATA_TYPE and isinstance(value, int):
            dtype = _TYPES.get(value, "")
        elif field == _NAME and not isinstance(value, int):
            name = str(value, "utf-8")
        elif field == _EXTERNAL and not isinstance(value, int):
            entry = {key: str(text, "utf-8") for key, text in _fields(value) if not isinstance(text, int)}
            said[entry.get(1, "")] = entry.get(2, "")
    if not said:
        return None
    offset, size = int(said.get("offset", "0")), int(said.get("length", "-1"))
    return Outside(name, dtype, tuple(shape), said.get("location", ""), offset, size)


def _view(weight: Outside, content: bytes, place: str) -> np.ndarray:
    count = prod(weight.shape)
    needed = count * np.dtype(weight.dtype).itemsize if weight.dtype else -1
    if not (weight.offset >= 0 <= needed == weight.size_bytes <= len(content) - weight.offset):
        raise ReleaseError(
            f"{place}: weight '{weight.name}' needs {needed} bytes and names {weight.size_bytes} from "
            f"{weight.offset} on of the {len(content)} in {weight.file}; export the model again"
        )
    return np.frombuffer(content, weight.dtype, count, weight.offset).reshape(weight.shape)


def _packed(message: memoryview) -> list[int]:
    found, at = [], 0
    while at < len(message):
        value, at = _varint(message, at)
        found.append(value)
    return found


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    # Yields numbers of variable length, and the fields that carry bytes: text, messages, packed numbers.
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        field, wire = key >> 3, key & 7
        if field == 0 or key >= 2**32:  # others keep the lower 32 bits of a key, and would read another field
            raise ValueError("a field without a valid number")
        if wire == 0:
            value, at = _varint(message, at)
            yield field, value
        elif wire in (1, 5):
            at += 8 if wire == 1 else 4
        elif wire == 2:
            length, at = _varint(message, at)
            yield field, message[at : at + length]
            at += length
        else:
            raise ValueError(f"wire type {wire}")
        if at > len(message):
            raise ValueError("a field ends after its message")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while True:
        byte = message[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
