"""Rows as arrays: what one row of a release is in memory, and the checks that every encoding shares.

Nothing is reshaped, cast or guessed. A good request passes in about a microsecond; only a bad one is
searched for the cell to name.
"""

import math
import struct
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NoReturn

import numpy as np
import orjson

from registry.release import InputSpec, Release
from serving.wire.request import refuse

MOST_PRODUCT = 8192
MOST_KEPT = 256  # things remembered per release
MOST_LAYOUTS = 32  # releases known at a time; each model holds two or three


@dataclass(frozen=True)
class Layout:
    """How a row of a model lies in memory. kept: what codecs remember of requests that repeat."""

    spec: InputSpec
    model: str = ""
    version: str = ""
    classes: tuple[str, ...] = ()
    kept: dict[bytes, Any] = field(default_factory=dict)

    @cached_property
    def named(self) -> tuple[tuple[bytes, bytes], ...]:
        """What a binary answer says of the model, as headers."""
        return (b"vigil-model", self.model.encode()), (b"vigil-version", self.version.encode())

    @cached_property
    def opening(self) -> bytes:
        """How an answer in JSON begins; next comes the id."""
        return orjson.dumps({"model": self.model, "version": self.version})[:-1] + b',"id":'

    @cached_property
    def said(self) -> list[bytes]:
        """What comes between the id of a row and its probability in JSON, for each class."""
        return [b',"class":%b,"probability":' % orjson.dumps(name) for name in self.classes]

    def keep(self, key: bytes, value: Any) -> None:
        """Remember `value`, of a client that repeats itself; what clients send does not grow it without end."""
        if len(self.kept) >= MOST_KEPT:
            self.kept.clear()
        self.kept[key] = value

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.spec.dtype)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        return self.spec.shape

    @cached_property
    def size(self) -> int:
        """Values per row."""
        return math.prod(self.shape)

    @cached_property
    def row_bytes(self) -> int:
        return self.size * self.dtype.itemsize

    @cached_property
    def innermost(self) -> struct.Struct:
        """The values of the last axis, which `pack` counts, types and converts in one go."""
        return struct.Struct(f"<{self.shape[-1]}{self.dtype.char}")

    @cached_property
    def floating(self) -> bool:
        return self.dtype.kind == "f"

    @cached_property
    def coded(self) -> tuple[tuple[int, int], ...]:
        """Of each column of text its place and how many values it has."""
        spec = self.spec
        return tuple((spec.columns.index(column), len(values)) for column, values in spec.categories.items())

    @cached_property
    def fills(self) -> tuple[tuple[int, float], ...]:
        """Of each column that may be empty its place and the number that then stands there."""
        return tuple((self.spec.columns.index(column), fill) for column, fill in self.spec.fills.items())

    def name(self, place: list[int]) -> str:
        """Return where in its row a value is: the column's name, or the indices."""
        return f"['{self.spec.columns[place[0]]}']" if self.spec.columns else "".join(f"[{i}]" for i in place)


def layout_of(release: Release) -> Layout:
    """Return the layout of `release`, which is worked out once."""
    found = _layouts.get(id(release))
    if found is None or found[0] is not release:
        if len(_layouts) >= MOST_LAYOUTS:
            _layouts.clear()
        found = _layouts[id(release)] = (
            release,
            Layout(release.manifest.input, release.name, release.version, release.manifest.classes),
        )
    return found[1]


_layouts: dict[int, tuple[Release, Layout]] = {}


def finite(values: np.ndarray) -> bool:
    """Return whether every value is a finite number."""
    # A product with itself is finite only if all are, and is the fastest test; where it has grown too large, all
    # are looked at. vdot, because dot and inner warn of that; few, because BLAS spreads many over threads.
    if values.size <= MOST_PRODUCT and math.isfinite(np.vdot(values, values)):
        return True
    return bool(np.count_nonzero(np.isfinite(values)) == values.size)


def view(body: bytes, start: int, count: int, layout: Layout) -> np.ndarray:
    """Return `count` rows (n, *shape), of the model's dtype, that lie in `body` from `start` on."""
    shape = (count, *layout.shape)
    if start % layout.dtype.itemsize:  # ONNX Runtime wants numbers at addresses that are multiples of their size
        return np.ndarray(shape, layout.dtype, body[start : start + count * layout.row_bytes])
    return np.ndarray(shape, layout.dtype, body, start)


def settle(values: np.ndarray, layout: Layout, field: str = "rows") -> np.ndarray:
    """Return rows (n, *shape) of the model's dtype, as they came in a binary form, when all may be answered.

    In a column that may be empty, NaN stands for no value and takes its fill; a column of text holds the index
    of one of its values. Raises RequestError that names the row and the place.
    """
    if layout.fills:
        values = _filled(values, layout)
    if layout.floating and not finite(values):
        refuse_first(~np.isfinite(values), values, layout, field)
    if layout.coded:
        demand_codes(values, layout, field)
    return values


def demand_codes(values: np.ndarray, layout: Layout, field: str) -> None:
    """Raise RequestError unless each column of text, in rows (n, columns), holds indices of its values."""
    for column, count in layout.coded:
        codes = values[:, column]
        wrong = ~((codes >= 0) & (codes < count) & (codes == np.floor(codes)))
        if wrong.any():
            row = int(wrong.argmax())
            why = f"must be the index of one of its {count} values, found {codes[row]}"
            refuse(field, row, why, "unknown_category", layout.name([column]))


def cast(values: np.ndarray, layout: Layout, field: str = "rows") -> np.ndarray:
    """Return numbers of any dtype, (n, *shape), in the model's, when that changes none of them by more than rounding.

    Raises RequestError that names the row and the place.
    """
    if layout.floating:
        with np.errstate(over="ignore"):
            values = values.astype(layout.dtype)
        wrong = ~np.isfinite(values)
    else:
        limits = np.iinfo(layout.dtype)
        wrong = ~((values >= limits.min) & (values <= limits.max) & (values == np.floor(values)))
    if wrong.any():
        refuse_first(wrong, values, layout, field)
    return values.astype(layout.dtype, copy=False)


def refuse_first(wrong: np.ndarray, values: np.ndarray, layout: Layout, field: str) -> NoReturn:
    """Raise RequestError that names the first value of rows (n, *shape) that is `wrong`."""
    row, *place = np.argwhere(wrong)[0].tolist()
    found = values[(row, *place)]
    if layout.floating:
        needed = f"a finite {layout.dtype}"
    else:
        limits = np.iinfo(layout.dtype)
        needed = f"a whole number from {limits.min} to {limits.max}"
    reason = "range" if np.isfinite(found) else "non_finite"
    refuse(field, row, f"must be {needed}, found {found}", reason, layout.name(place))


def demand_finite(outputs: np.ndarray) -> None:
    """Raise RequestError naming the first row whose answer, in outputs (n, ...), is not finite."""
    if not finite(outputs):
        row = int(np.argwhere(~np.isfinite(outputs))[0][0])
        refuse("rows", row, "holds numbers so extreme that the model's answer is not finite", "no_answer")


def _filled(values: np.ndarray, layout: Layout) -> np.ndarray:
    for column, fill in layout.fills:
        empty = np.isnan(values[:, column])
        if empty.any():
            values = values if values.flags.writeable else values.copy()
            values[empty, column] = fill
    return values
