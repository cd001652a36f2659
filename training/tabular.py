"""CSV files -> rows, with every refusal naming row and column."""

import csv
from pathlib import Path

import numpy as np

from registry.errors import DataError
from training.config import Data
from training.raw import Raw


def read(path: Path, data: Data) -> Raw:
    """Return the rows and labels of a table in a file."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            lines = [line for line in csv.reader(file) if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path}: not a CSV file in UTF-8: {error}") from error
    if len(lines) < 2:
        raise DataError(f"{path}: {len(lines)} lines; a header and at least one row are needed")
    header, rows = lines[0], lines[1:]
    _check_header(path, header, data)
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise DataError(f"{path}: row {number} has {len(row)} cells; the header has {len(header)}")
    left = [c for c, name in enumerate(header) if name not in (data.target, data.id, data.group)]
    x = np.array([[_number(path, header[c], n, row[c]) for c in left] for n, row in enumerate(rows, start=2)])
    labels = np.array([row[header.index(data.target)] for row in rows])
    group = tuple(row[header.index(data.group)] for row in rows) if data.group else ()
    return Raw(str(path), x, labels, tuple(header[c] for c in left), group=group)


def _check_header(path: Path, header: list[str], data: Data) -> None:
    if repeated := sorted({name for name in header if header.count(name) > 1}):
        raise DataError(f"{path}: columns appear twice: {', '.join(repeated)}; give each its own name")
    for key in ("target", "id", "group"):
        name = getattr(data, key)
        if name and name not in header:
            raise DataError(f"{path}: no column '{name}' (data.{key}); found {', '.join(header)}")
    if len(header) == len({data.target, data.id, data.group} - {""}):
        raise DataError(f"{path}: no column is left to learn from; found {', '.join(header)}")


def _number(path: Path, column: str, row: int, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise DataError(
            f"{path}: row {row}, column '{column}': {text!r} is not a number; accepted are finite numbers: "
            "fill or drop the row, encode the column, or name it as data.id"
        ) from None
