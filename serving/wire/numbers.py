"""Numbers in JSON lists -> arrays."""

import itertools
import struct
from typing import Any

import numpy as np

from serving.wire.request import kind, refuse
from serving.wire.rows import Layout, cast

Shape = tuple[int, ...]
MOST_LETTERS = 32


def array_of(given: list[Any], suspect: bool, layout: Layout, field: str = "rows") -> np.ndarray:
    """Return a list of rows, nested as the model's shape, as an array (n, *shape) of its dtype.

    suspect: whether the text holds what numbers must not be, see `is_suspect`. Raises RequestError that names the
    row and the place in it.
    """
    packed = None if suspect else _packed(given, layout)
    return _searched(given, suspect, layout, field) if packed is None else packed


def is_suspect(text: bytes, loose: bool) -> bool:
    """Return whether a JSON text may hold what counts as a number in Python: true, false; if loose, NaN."""
    return loose or _says(text, b"true") or _says(text, b"false")


def _says(body: bytes, word: bytes) -> bool:
    # One letter is found ten times faster than a word, and numbers have none of these.
    letter, tried = word[0], 0
    at = body.find(letter)
    while at >= 0 and tried < MOST_LETTERS:
        if body.startswith(word, at):
            return True
        at, tried = body.find(letter, at + 1), tried + 1
    return at >= 0 and word in body


def _packed(given: list[Any], layout: Layout) -> np.ndarray | None:
    # About 7 ns a number, a third of what numpy takes, which looks for the shape and the type that are known here.
    # None: something is wrong, or whole numbers are written as 1.0; struct says neither what nor where. JSON has
    # only finite numbers, and struct refuses those that are too large for the type.
    pack, lists = layout.innermost.pack, given
    try:
        for length in layout.shape[:-1]:
            if set(map(len, lists)) != {length}:
                return None
            lists = list(itertools.chain.from_iterable(lists))
        content = pack(*lists[0]) if len(lists) == 1 else b"".join([pack(*values) for values in lists])
    except (struct.error, TypeError, OverflowError):
        return None
    return np.ndarray((len(given), *layout.shape), layout.dtype, content)


def _searched(given: list[Any], suspect: bool, layout: Layout, field: str) -> np.ndarray:
    try:
        values = np.array(given)
    except (ValueError, OverflowError):  # ragged rows, or an int beyond 64 bits
        values = np.array(None)
    if suspect or values.dtype.kind not in "iuf" or values.shape[1:] != layout.shape:
        for i, row in enumerate(given):
            _check(row, layout.shape, f"{field}", i, layout.spec.columns)
    return cast(values, layout, field)


def _check(value: Any, shape: Shape, field: str, row: int, columns: tuple[str, ...], place: str = "") -> None:
    if not shape:
        if isinstance(value, bool) or not isinstance(value, int | float):
            refuse(field, row, f"must be a number, found {kind(value)}", "dtype", place)
        if isinstance(value, int) and not -(2**63) <= value < 2**64:
            refuse(field, row, "is out of range", "range", place)
        return
    if not isinstance(value, list):
        refuse(field, row, f"must be a list of {shape[0]}, found {kind(value)}", "shape", place)
    if len(value) != shape[0]:
        refuse(field, row, f"must hold {shape[0]} values, found {len(value)}", "shape", place)
    for i, inner in enumerate(value):
        _check(inner, shape[1:], field, row, (), f"['{columns[i]}']" if columns else f"{place}[{i}]")
