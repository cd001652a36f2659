"""Where a user finds a row of a Table: the file of an image, the line of a CSV file, else its number."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import compress, islice
from pathlib import Path

import numpy as np

from training.config import Config, Data
from training.rows import images, tabular
from training.rows.data import Table

Place = Callable[[int], str]


@dataclass(frozen=True)
class Outside:
    """What the file knows and the table does not. place: row number -> where a user finds the row.

    ids: float64 (n,), ids as numbers, texts by their alphabetical order; None if there are none.
    """

    place: Place
    ids: np.ndarray | None = None


def outside(config: Config, folder: Path, table: Table) -> Outside:
    """Return what the file of a table knows besides; a relative data.path starts at `folder`."""
    return Outside(finder(config, folder, table), _ids(config.data, folder, table))


def finder(config: Config, folder: Path, table: Table) -> Place:
    """Return a function that says where a row is; it opens the file only when it is asked."""

    @cache
    def place() -> Place:
        return _place(config.data, folder / config.data.path, table)

    return lambda row: place()(row)


def _place(data: Data, path: Path, table: Table) -> Place:
    if data.source == "images":
        broken = {entry.split(": ", 1)[0] for entry in table.skipped}
        names = [image.name for image in images.find(path) if image.name not in broken]
        if len(names) == len(table.y) or data.first_rows:
            return lambda row: names[row]
    kept = _kept(table)
    in_file = np.flatnonzero(kept)
    if data.source == "csv":
        if _one_line_each(path, len(kept)):
            return lambda row: f"line {in_file[row] + 2}"
        opened = tabular.open_rows(path, data.source)
        return lambda row: opened.place(int(in_file[row]))
    return lambda row: f"row {in_file[row]} (from 0)"


def _kept(table: Table) -> np.ndarray:
    """Return which of the rows that were read are in the table, bool."""
    return np.ones(len(table.y), dtype=bool) if table.kept is None else table.kept


def _one_line_each(path: Path, rows: int) -> bool:
    """Return whether the file has a header, then one line per row, and no line more that holds anything."""
    with open(path, "rb") as file:
        return all(line.strip() for line in islice(file, rows + 1)) and not any(line.strip() for line in file)


def _ids(data: Data, folder: Path, table: Table) -> np.ndarray | None:
    """Return the column data.id, or None if there is none."""
    if not data.id or data.source not in ("csv", "parquet"):
        return None
    rows, kept = tabular.open_rows(folder / data.path, data.source), _kept(table)
    read = (str(cell) for batch in rows.batches({data.id}) for cell in batch(data.id, True))
    cells = list(compress(read, kept))
    if all(cell.isdecimal() for cell in cells):
        return np.array(cells, dtype=np.float64)
    return np.unique(cells, return_inverse=True)[1].astype(np.float64)
