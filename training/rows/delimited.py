"""CSV files: the separator is found, rows come in batches, and a refusal names the line."""

import csv
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from registry.errors import DataError
from training.rows.columns import Batch

SEPARATORS = {",": "comma", ";": "semicolon", "\t": "tab"}
_BATCH_ROWS = 16_384
_SAMPLE_CHARACTERS, _SAMPLE_ROWS = 65_536, 50


@dataclass(frozen=True)
class Delimited:
    """A CSV file in UTF-8 with a header; empty lines do not count."""

    path: Path
    separator: str
    columns: tuple[str, ...]

    @property
    def kind(self) -> str:
        """Return what the file is, for a message."""
        return f"CSV, separated by {SEPARATORS[self.separator]}"

    def batches(self, names: Iterable[str]) -> Iterator[Batch]:
        """Yield the cells of all columns, as text."""
        position = {name: number for number, name in enumerate(self.columns)}
        with _reader(self.path, self.separator) as lines:
            rows = (row for row in lines if row)
            next(rows)
            done = 0
            while batch := list(islice(rows, _BATCH_ROWS)):
                if {len(row) for row in batch} != {len(self.columns)}:
                    self._refuse_width(batch, done)
                cells = list(zip(*batch, strict=True))
                yield lambda name, as_text, cells=cells: cells[position[name]]  # type: ignore[misc]
                done += len(batch)

    def place(self, row: int) -> str:
        """Return the line on which row `row` (from 0) begins."""
        with _reader(self.path, self.separator) as lines:
            before, seen = 0, -2
            for cells in lines:
                seen += bool(cells)
                if seen == row and cells:
                    break
                before = lines.line_num
        return f"line {before + 1}"

    def _refuse_width(self, batch: list[list[str]], done: int) -> None:
        row, found = next((n, len(cells)) for n, cells in enumerate(batch) if len(cells) != len(self.columns))
        raise DataError(
            f"{self.path}: {self.place(done + row)} has {found} cells; the header has {len(self.columns)} "
            f"({self.kind}): mend the line, or quote a cell that holds a separator"
        )


def open_rows(path: Path) -> Delimited:
    """Return the CSV file at `path`, its first line the names; a column without one is called unnamed_<its place>.

    Raises DataError if it is not UTF-8 or has no header.
    """
    separator = _separator(path)
    with _reader(path, separator) as lines:
        header = next((row for row in lines if row), None)
    if header is None:
        raise DataError(f"{path}: 0 lines; a header and at least one row are needed")
    columns = tuple(name.strip() or f"unnamed_{place}" for place, name in enumerate(header, start=1))
    return Delimited(path, separator, columns)


def _separator(path: Path) -> str:
    """Return the separator that cuts the first rows into the same number of cells, the more the better."""
    with _text(path) as file:
        sample = file.read(_SAMPLE_CHARACTERS)
        whole = not file.read(1)
    lines = sample.splitlines(keepends=True)
    found = {}
    for separator in SEPARATORS:
        try:
            rows = list(islice(csv.reader(lines if whole else lines[:-1], delimiter=separator), _SAMPLE_ROWS))
        except csv.Error:
            continue
        widths = [len(row) for row in rows if row]
        found[separator] = (len(set(widths)) == 1 and widths[0] > 1, max(widths[:1], default=0))
    return max(found, key=lambda separator: found[separator], default=",")


@contextmanager
def _text(path: Path) -> Iterator[TextIO]:
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            yield file
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not a CSV file in UTF-8: {error}; save it as UTF-8") from error


@contextmanager
def _reader(path: Path, separator: str) -> Iterator[Any]:
    with _text(path) as file:
        reader = csv.reader(file, delimiter=separator, strict=True)
        try:
            yield reader
        except csv.Error as error:
            place = f"line {reader.line_num}"
            raise DataError(f"{path}: not a CSV file: {place}: {error}; quote the cell or mend the line") from error
