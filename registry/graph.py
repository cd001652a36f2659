"""What an ONNX file refers to, read from its bytes alone: operator domains and other files.

The service has no `onnx` package, and a file must be judged before ONNX Runtime opens what it names.
Field numbers are those of onnx.proto (ONNX 1.23); only the fields that can hold a domain, a
location or a further graph are followed, the rest is stepped over, weights included.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from registry.errors import ReleaseError

DOMAINS = frozenset({"", "ai.onnx"})  # ONNX's own operators: no code from elsewhere is ever called

_MESSAGES = {  # message -> field -> message inside
    "model": {7: "graph", 8: "opset", 20: "training", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
    "function": {7: "node", 9: "opset", 11: "attribute"},
    "training": {1: "graph", 2: "graph"},
    "opset": {}, "entry": {},
}  # fmt: skip
_DOMAIN_FIELD = {"node": 7, "opset": 1, "function": 10}


@dataclass(frozen=True)
class References:
    """domains: of every operator and function. files: every location of a weight outside the file."""

    domains: frozenset[str]
    files: frozenset[str]


def references(content: bytes, place: str) -> References:
    """Return what the ONNX file with these bytes refers to; raises ReleaseError if they are not protobuf."""
    domains, files = set(), set()
    waiting = [("model", memoryview(content))]
    try:
        while waiting:
            kind, message = waiting.pop()
            held: dict[int, str] = {}
            for field, value in _fields(message):
                if field == _DOMAIN_FIELD.get(kind):
                    domains.add(str(value, "utf-8"))
                elif field in _MESSAGES[kind]:
                    waiting.append((_MESSAGES[kind][field], value))
                elif kind == "entry":
                    held[field] = str(value, "utf-8")
            if held.get(1) == "location":
                files.add(held.get(2, ""))
    except (ValueError, IndexError) as error:
        raise ReleaseError(f"{place}: not an ONNX file: {error}; export the model again") from error
    return References(frozenset(domains), frozenset(files))


def check(content: bytes, files: frozenset[str], place: str) -> None:
    """Raise ReleaseError if the ONNX file needs an operator that is not ONNX's, or a file not in `files`."""
    found = references(content, place)
    if not found.domains <= DOMAINS:
        strange = ", ".join(sorted(found.domains - DOMAINS))
        raise ReleaseError(f"{place}: uses operators of the domain {strange}; accepted are those of ONNX itself")
    if not found.files <= files:
        strange = ", ".join(repr(name) for name in sorted(found.files - files))
        known = ", ".join(sorted(files)) or "none: weights are inside the file"
        raise ReleaseError(f"{place}: takes weights from {strange}; accepted are {known}")


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview]]:
    # Yields the fields that carry bytes: text, messages, packed numbers.
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        field, wire = key >> 3, key & 7
        if wire == 0:
            _, at = _varint(message, at)
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
