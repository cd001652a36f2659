"""One column of a table as it grows batch by batch: numbers, text or times, and which cells were empty."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Protocol

import numpy as np

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
    """A column of numbers or of ISO 8601 dates; values(): float64 (n,), dates as Unix seconds, NaN if empty."""

    as_text = False

    def __init__(self) -> None:
        self.dates: bool | None = None
        self.count, self.parts = 0, list[np.ndarray]()

    def add(self, cells: Cells) -> None:
        """Append cells; the first that is not empty decides between numbers and dates."""
        if self.dates is None and not isinstance(cells, np.ndarray):
            first = next((cell for cell in cells if cell.strip() not in EMPTY), None)
            self.dates = None if first is None else not is_number(first)
        values = _dates(cells, self.count) if self.dates else _floats(cells, self.count)
        if np.isinf(values).any():
            raise CellError(self.count + int(np.isinf(values).argmax()), "an infinite time", "accepted are numbers")
        self.parts.append(values)
        self.count += len(values)

    def values(self) -> np.ndarray:
        """Return the whole column."""
        return np.concatenate(self.parts)


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


def is_date(cell: str) -> bool:
    """Return whether a cell holds a date or time, as `Times` reads it."""
    try:
        moment(cell)
    except ValueError:
        return False
    return True


def moment(cell: str) -> float:
    """Return an ISO 8601 date or time as Unix seconds, in UTC unless it says otherwise; raises ValueError."""
    when = datetime.fromisoformat(cell.strip())
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


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


def _dates(cells: Cells, before: int) -> np.ndarray:
    if isinstance(cells, np.ndarray):
        raise CellError(before, "a number among dates", "accepted is one kind")
    return np.fromiter(map(_date, cells, range(before, before + len(cells))), np.float64, len(cells))


def _date(cell: str, row: int) -> float:
    if cell.strip() in EMPTY:
        return np.nan
    try:
        return moment(cell)
    except ValueError:
        raise CellError(
            row, f"{cell!r} is not an ISO 8601 date", "accepted are 2026-01-31 and 2026-01-31T08:00:00Z"
        ) from None
