"""One column of a table as it grows batch by batch: numbers, text or times, and which cells were empty."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

import numpy as np

from training.rows import dates

EMPTY = frozenset({"", "NA", "N/A", "NaN", "nan", "NULL", "null", "?"})
MOST_CATEGORIES = 1000  # each is an input of the network
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+")

Cells = Sequence[str] | np.ndarray  # text, as in the file; or float64, NaN where a cell is empty
Batch = Callable[[str, bool], Cells]  # (column, must be text) -> the cells of that column in the next rows


class Rows(Protocol):
    """A file of rows that can be read again and again."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Return the names of all columns."""
        ...

    @property
    def kind(self) -> str:
        """Return what the file is, for a message."""
        ...

    def batches(self, names: Iterable[str]) -> Iterator[Batch]:
        """Yield the named columns, some thousand rows at a time."""
        ...

    def place(self, row: int) -> str:
        """Return where `row` (from 0) is in the file, for a message."""
        ...


class CellError(Exception):
    """A cell that does not fit its column; row: from 0 in the file. cure: "" if it depends on the role."""

    def __init__(self, row: int, found: str, cure: str = "") -> None:
        super().__init__(found)
        self.row, self.cure = row, cure


class Numbers:
    """A column of finite numbers; values(): (n,) of `dtype`, NaN where a cell was empty."""

    as_text = False

    def __init__(self, dtype: str = "float32") -> None:
        self.dtype, self.count, self.parts = dtype, 0, list[np.ndarray]()

    def add(self, cells: Cells) -> None:
        """Append cells; raises CellError for text, infinities and what `dtype` cannot hold."""
        wide = _floats(cells, self.count)
        with np.errstate(over="ignore"):
            values = wide.astype(self.dtype)
        if np.isinf(values).any():
            at = int(np.isinf(values).argmax())
            found = f"{cells[at]} is not a finite {self.dtype}"
            raise CellError(self.count + at, found, "accepted are finite numbers")
        self.parts.append(values)
        self.count += len(values)

    def values(self) -> np.ndarray:
        """Return the whole column, and let go of its parts."""
        whole = np.concatenate(self.parts)
        self.parts.clear()
        return whole


class Texts:
    """A column of text or codes, kept as small numbers."""

    as_text = True

    def __init__(self) -> None:
        self.index, self.parts = dict[str, int](), list[np.ndarray]()

    def add(self, cells: Cells) -> None:
        """Append cells."""
        index = self.index
        codes = (index.setdefault(cell, len(index)) for cell in cells)
        self.parts.append(np.fromiter(codes, np.int32, len(cells)))

    def coded(self) -> tuple[np.ndarray, tuple[str, ...]]:
        """Return codes int32 (n,), -1 where a cell was empty, and the text of each code, in order."""
        codes = np.concatenate(self.parts)
        self.parts.clear()
        return recode(codes, [cell.strip() for cell in self.index])


class Times:
    """A column of numbers or of dates of one form; values(): float64 (n,), dates as Unix seconds, NaN if empty.

    What every date of the column allows is its form, of `dates.FORMS`; values() raises CellError where it allows two.
    """

    as_text = False

    def __init__(self) -> None:
        self.dates: bool | None = None
        self.count = 0
        self.parts: dict[str, list[np.ndarray]] = {form: [] for form in dates.FORMS}  # by the form that still may be
        self.first = (0, "")  # date of the column, and its row

    def add(self, cells: Cells) -> None:
        """Append cells; the first that is not empty decides between numbers and dates."""
        if self.dates is None and not isinstance(cells, np.ndarray):
            at, first = next(((n, c) for n, c in enumerate(cells) if c.strip() not in EMPTY), (0, None))
            self.dates = None if first is None else not is_number(first)
            self.first = (self.count + at, first or "")
        read = self._dates(cells) if self.dates else dict.fromkeys(self.parts, _floats(cells, self.count))
        for form, values in read.items():
            if np.isinf(values).any():
                raise CellError(self.count + int(np.isinf(values).argmax()), "an infinite time", "accepted are numbers")
            self.parts[form].append(values)
        self.parts = {form: self.parts[form] for form in read}
        self.count += len(cells)

    def values(self) -> np.ndarray:
        """Return the whole column."""
        if self.dates and len(self.parts) > 1:
            row, cell = self.first
            said = f"{cell!r} is {' or '.join(self.parts)}: no date of the column tells which"
            raise CellError(row, said, "write 2026-01-31")
        return np.concatenate(next(iter(self.parts.values())))

    def _dates(self, cells: Cells) -> dict[str, np.ndarray]:
        if isinstance(cells, np.ndarray):
            raise CellError(self.count, "a number among dates", "accepted is one kind")
        read = {form: _dates(cells, form) for form in self.parts}
        whole = {form: values for form, values in read.items() if len(values) == len(cells)}
        if not whole:
            form = max(read, key=lambda form: len(read[form]))
            at = len(read[form])
            kind = "an ISO 8601 date" if form == dates.ISO else f"a date as {form}, which those before it are"
            written = "2026-01-31, 31.01.2026, 31/01/2026 and 01/31/2026"
            accepted = f"accepted is one of {written}, alone or with a time of day as {dates.CLOCKS}"
            raise CellError(self.count + at, f"{cells[at]!r} is not {kind}", accepted)
        return whole


Column = Numbers | Texts | Times


def in_order(values: Iterable[str]) -> list[str]:
    """Return the values sorted: as numbers if all of them are, else as text."""
    found = list(values)
    if all(is_number(value) for value in found):
        return sorted(found, key=lambda value: (float(value), value))
    return sorted(found)


def recode(codes: np.ndarray, texts: Sequence[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return codes int32 (n,) into the different texts, in order; -1 where texts[code] stands for an empty cell."""
    values = in_order(set(texts) - EMPTY)
    place = {value: number for number, value in enumerate(values)}
    table = np.array([place.get(text, -1) for text in texts], dtype=np.int32)
    return table[codes], tuple(values)


def is_number(cell: str) -> bool:
    """Return whether a cell holds a finite number, as `Numbers` reads it."""
    try:
        return "_" not in cell and bool(np.isfinite(float(cell)))
    except ValueError:
        return False


def has_decimal_comma(cell: str) -> bool:
    """Return whether a cell holds a number as half the world writes it, which `Numbers` refuses."""
    return bool(_DECIMAL_COMMA.fullmatch(cell.strip()))


def _floats(cells: Cells, before: int) -> np.ndarray:
    if isinstance(cells, np.ndarray):
        return cells
    if "_" not in "".join(cells):  # which float() accepts between digits
        try:
            return np.fromiter(map(float, cells), np.float64, len(cells))
        except ValueError:
            pass
    return np.fromiter(map(_float, cells, range(before, before + len(cells))), np.float64, len(cells))


def _float(cell: str, row: int) -> float:
    if cell.strip() in EMPTY:
        return np.nan
    try:
        if "_" not in cell:
            return float(cell)
    except ValueError:
        pass
    if has_decimal_comma(cell):
        raise CellError(row, f"{cell!r} has a decimal comma", f"accepted is a point: {cell.replace(',', '.')}")
    raise CellError(row, f"{cell!r} is not a number")


def _dates(cells: Sequence[str], form: str) -> np.ndarray:
    # Up to the first that is no date of this form.
    values = np.full(len(cells), np.nan)
    for at, cell in enumerate(cells):
        if cell.strip() in EMPTY:
            continue
        try:
            values[at] = dates.moment(cell, form)
        except ValueError:
            return values[:at]
    return values
