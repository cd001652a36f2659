"""digits, breast_cancer, NPZ and CSV -> Table: raw rows, labels and what identifies them."""

import csv
import hashlib
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from registry.errors import DataError
from training.config import Data


@dataclass(frozen=True)
class Table:
    """Rows as they will be sent to the service, before any pre-processing.

    x:     uint8 or float32 (n, *shape), all finite.    y: int64 (n,), index into `classes`.
    names: of the columns; () unless a row is a vector.  digest: SHA-256 of all of the above.
    key:   uint64 (n,), hash of the row alone.           unit: uint64 (n,), hash of the group, else `key`.
    """

    x: np.ndarray
    y: np.ndarray
    names: tuple[str, ...]
    classes: tuple[str, ...]
    key: np.ndarray
    unit: np.ndarray
    digest: str


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation of rows, float32: (columns,) for a table, () for images."""

    mean: np.ndarray
    std: np.ndarray


@dataclass(frozen=True)
class _Raw:
    place: str
    x: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    group: tuple[str, ...] = ()


def load(data: Data, folder: Path) -> Table:
    """Return the rows that `data` names; a relative path starts at `folder`.

    Raises DataError if the file is absent or does not hold rows and labels of one shape,
    if a value is missing or not finite, or if there is only one class.
    """
    raw = _read(data, folder)
    if data.first_rows:
        n = data.first_rows
        raw = _Raw(raw.place, raw.x[:n], raw.labels[:n], raw.names, raw.classes, raw.group[:n])
    return _table(raw)


def moments(x: np.ndarray) -> Moments:
    """Return the moments of x (n, *shape); a column that never changes gets a deviation of 1."""
    axis = 0 if x.ndim == 2 else None
    std = np.asarray(x.std(axis=axis, dtype=np.float64))
    mean = np.asarray(x.mean(axis=axis, dtype=np.float64))
    return Moments(mean.astype(np.float32), np.where(std > 0, std, 1.0).astype(np.float32))


def row_keys(x: np.ndarray) -> np.ndarray:
    """Return uint64 (n,): a hash of the content of each row of x (n, *shape), the same on every machine."""
    plain = np.ascontiguousarray(x if x.dtype == np.uint8 else (x + 0.0).astype("<f4"))  # -0.0 equals 0.0
    start = hashlib.blake2b(f"{plain.dtype.str}{plain.shape[1:]}".encode(), digest_size=8)
    return _hashes(start, [row.tobytes() for row in plain])


def _hashes(start: "hashlib.blake2b", contents: Sequence[bytes]) -> np.ndarray:
    keys = np.empty(len(contents), dtype=np.uint64)
    for position, content in enumerate(contents):
        state = start.copy()
        state.update(content)
        keys[position] = int.from_bytes(state.digest(), "little")
    return keys


def _read(data: Data, folder: Path) -> _Raw:
    if data.source == "digits":
        return _digits()
    if data.source == "breast_cancer":
        return _breast_cancer()
    path = folder / data.path
    if not path.is_file():
        raise DataError(f"{path}: no such file; data.path is relative to the folder of the TOML file")
    return _npz(path) if data.source == "npz" else _csv(path, data)


def _digits() -> _Raw:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return _Raw("digits", bunch.images.astype(np.uint8), bunch.target, classes=tuple("0123456789"))


def _breast_cancer() -> _Raw:
    from sklearn.datasets import load_breast_cancer

    bunch = load_breast_cancer()
    names = tuple(name.replace(" ", "_") for name in bunch.feature_names)
    return _Raw("breast_cancer", bunch.data, bunch.target, names, tuple(bunch.target_names))


def _npz(path: Path) -> _Raw:
    try:
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except (ValueError, OSError, zipfile.BadZipFile, AttributeError) as error:
        raise DataError(f"{path}: not an NPZ file of plain arrays: {error}; np.savez(path, x=..., y=...)") from error
    if missing := [name for name in ("x", "y") if name not in found]:
        raise DataError(f"{path}: no array {' and '.join(missing)}; found {', '.join(found)}; accepted are x and y")
    names, classes = (tuple(map(str, found.get(key, ()))) for key in ("names", "classes"))
    return _Raw(str(path), found["x"], found["y"], names, classes)


def _csv(path: Path, data: Data) -> _Raw:
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
    return _Raw(str(path), x, labels, tuple(header[c] for c in left), group=group)


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


def _table(raw: _Raw) -> Table:
    _check_shape(raw)
    names = _names(raw)
    rows = _finite_rows(raw, names)
    y, classes = _labels(raw)
    key = row_keys(rows)
    unit = _hashes(hashlib.blake2b(b"group", digest_size=8), [g.encode() for g in raw.group])
    facts = repr((rows.dtype.str, rows.shape, names, classes)).encode()
    digest = hashlib.sha256(facts + rows.tobytes() + y.astype("<i8").tobytes()).hexdigest()
    return Table(rows, y, names, classes, key, unit if raw.group else key, digest)


def _check_shape(raw: _Raw) -> None:
    x = raw.x
    if x.ndim not in (2, 3, 4) or not x.size or x.dtype.kind not in "uifb":
        raise DataError(
            f"{raw.place}: x is {x.dtype} of shape {x.shape}; accepted are numbers of shape (rows, columns), "
            "(rows, height, width) or (rows, height, width, channels)"
        )
    if raw.labels.shape != (len(x),):
        raise DataError(
            f"{raw.place}: y has shape {raw.labels.shape}, x has {len(x)} rows; one label per row is needed"
        )


def _names(raw: _Raw) -> tuple[str, ...]:
    columns = raw.x.shape[1] if raw.x.ndim == 2 else 0
    names = raw.names or tuple(f"x{column}" for column in range(columns))
    if len(names) != columns or len(set(names)) != columns:
        raise DataError(
            f"{raw.place}: {len(set(names))} different names for rows of shape {raw.x.shape[1:]}; "
            "accepted is one per column, none for images"
        )
    return names


def _finite_rows(raw: _Raw, names: tuple[str, ...]) -> np.ndarray:
    x = raw.x
    if x.ndim == 2 or x.dtype != np.uint8:
        with np.errstate(over="ignore"):
            x = x.astype(np.float32)
    finite = np.isfinite(x).reshape(len(x), -1)
    if not finite.all():
        row, cell = (int(i) for i in np.argwhere(~finite)[0])
        column = f"column '{names[cell]}'" if names else f"value {cell}"
        raise DataError(
            f"{raw.place}: row {row} (of 0 to {len(x) - 1}), {column} is not a finite float32 "
            f"({int((~finite).sum())} such values in all); fill or drop them"
        )
    return np.ascontiguousarray(x)


def _labels(raw: _Raw) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the labels as int64 indexes with the names of the classes.

    Named classes are taken in their order, and the labels are then indexes; else the classes are
    the values that occur, sorted.
    """
    labels = raw.labels
    if labels.dtype.kind not in "uibUS":
        raise DataError(f"{raw.place}: y is {labels.dtype}; accepted are whole numbers or text, one class per row")
    values, index = np.unique(labels, return_inverse=True)
    if len(values) < 2:
        raise DataError(f"{raw.place}: one class only ({values[0]!s}) in {len(labels)} rows; at least two are needed")
    if not raw.classes:
        return index.astype(np.int64), tuple(str(value) for value in values)
    if labels.dtype.kind in "US" or values[0] < 0 or values[-1] >= len(raw.classes):
        raise DataError(
            f"{raw.place}: y goes from {values[0]!s} to {values[-1]!s}; with {len(raw.classes)} named "
            f"classes accepted are whole numbers from 0 to {len(raw.classes) - 1}"
        )
    return labels.astype(np.int64), raw.classes
