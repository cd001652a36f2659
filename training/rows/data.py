"""A source of rows -> Table: checked rows, labels and what identifies them."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from registry.errors import DataError
from registry.release import InputSpec
from training.config import Data
from training.rows import sources
from training.rows.raw import Raw

_CHUNK_ROWS = 4096
_MOST_CHANNELS = 4  # of an image


@dataclass(frozen=True)
class Table:
    """Rows as they will be sent to the service, before any pre-processing.

    x:     uint8 or float32 (n, *shape); perhaps a memory map, so take rows, not the whole. Finite, but for NaN
           in the cells that `empty` names until they are `filled`.
    y:     int64 (n,), index into `classes`; in a regression float64 (n,), and `classes` is ().
    names: of the columns; () unless a row is a vector.  digest: SHA-256 of the fields as loaded, but the last two.
    key:   uint64 (n,), hash of the row alone.           unit: uint64 (n,), hash of the group, else `key`.
    categories, fills: see InputSpec.                    slices: per column of text or numbers, text (n,).
    empty: per column that had empty cells, bool (n,).
    time:  float64 (n,) or None.                         given_test: bool (n,), rows of a given test set, or None.
    skipped: what could not be read, "place: reason".    kept: see Raw.
    """

    x: np.ndarray
    y: np.ndarray
    names: tuple[str, ...]
    classes: tuple[str, ...]
    key: np.ndarray
    unit: np.ndarray
    digest: str
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    fills: Mapping[str, float] = field(default_factory=dict)
    slices: Mapping[str, np.ndarray] = field(default_factory=dict)
    time: np.ndarray | None = None
    given_test: np.ndarray | None = None
    empty: Mapping[str, np.ndarray] = field(default_factory=dict)
    skipped: tuple[str, ...] = ()
    kept: np.ndarray | None = None

    @property
    def task(self) -> str:
        """Return "classification" or "regression"."""
        return "classification" if self.classes else "regression"

    @property
    def spec(self) -> InputSpec:
        """Return what one raw row looks like."""
        return InputSpec(self.x.dtype.name, self.x.shape[1:], self.names, dict(self.categories), dict(self.fills))


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation of rows, float32: (columns,) for a table, () for images."""

    mean: np.ndarray
    std: np.ndarray


def load(data: Data, folder: Path, task: str = "classification") -> Table:
    """Return the rows that `data` names; a relative path starts at `folder`.

    Raises DataError if the file is absent or does not hold rows and labels of one shape,
    if a value is missing or not finite, or if there is nothing to tell apart.
    """
    raw = sources.read(data, folder, task)
    if data.first_rows:
        raw = _first(raw, data.first_rows)
    return _table(raw, task)


def filled(table: Table, rows: np.ndarray) -> Table:
    """Return the table with every empty cell filled by what `rows`, those of training, say; others have no part in it.

    A column of numbers gets their median, a categorical one their most frequent value. A table that is
    filled is returned as it is. Raises DataError if all of `rows` are empty in a column.
    """
    if table.fills or not table.empty:
        return table
    x, fills = table.x.copy(), {}
    for name, empty in table.empty.items():
        place = table.names.index(name)
        full = table.x[rows[~empty[rows]], place]
        if not len(full):
            raise DataError(f"data: column '{name}' is empty in all {len(rows)} training rows; name it in data.drop")
        frequent = np.bincount(full.astype(np.int64)).argmax if name in table.categories else None
        fills[name] = float(frequent() if frequent else np.median(full).astype(np.float32))
        x[empty, place] = fills[name]
    return replace(table, x=x, fills=fills)


def moments(x: np.ndarray) -> Moments:
    """Return the moments of x (n, *shape); a column that never changes gets a deviation of 1."""
    axes = 0 if x.ndim == 2 else tuple(range(x.ndim))
    count, total = 0, np.zeros(x.shape[1:] if x.ndim == 2 else ())
    spread = np.zeros_like(total)
    for chunk in _chunks(x):  # a part at a time, and the parallel update of Chan et al. 1983
        part = chunk.astype(np.float64)
        size, mean = part.size // max(1, total.size), part.mean(axis=axes)
        if count:
            spread += (mean - total / count) ** 2 * count * size / (count + size)
        spread += ((part - mean) ** 2).sum(axis=axes)
        total, count = total + mean * size, count + size
    mean, std = total / count, np.sqrt(spread / count)
    return Moments(mean.astype(np.float32), np.where(std > 0, std, 1.0).astype(np.float32))


def row_keys(x: np.ndarray) -> np.ndarray:
    """Return uint64 (n,): a hash of the content of each row of x (n, *shape), the same on every machine."""
    kind = "|u1" if x.dtype == np.uint8 else "<f4"
    start = hashlib.blake2b(f"{kind}{x.shape[1:]}".encode(), digest_size=8)
    plain = (part if kind == "|u1" else (part + 0.0).astype(kind) for part in _chunks(x))  # -0.0 equals 0.0
    return _hashes(start, (row.tobytes() for part in plain for row in part), len(x))


def _chunks(x: np.ndarray) -> Iterator[np.ndarray]:
    yield from (x[start : start + _CHUNK_ROWS] for start in range(0, len(x), _CHUNK_ROWS))


def _hashes(start: "hashlib.blake2b", contents: Iterable[bytes], count: int) -> np.ndarray:
    keys = np.empty(count, dtype=np.uint64)
    for position, content in enumerate(contents):
        state = start.copy()
        state.update(content)
        keys[position] = int.from_bytes(state.digest(), "little")
    return keys


def _first(raw: Raw, n: int) -> Raw:
    return replace(
        raw, x=raw.x[:n], labels=raw.labels[:n], group=raw.group[:n], digest="",
        slices={name: values[:n] for name, values in raw.slices.items()},
        time=None if raw.time is None else raw.time[:n],
        given_test=None if raw.given_test is None else raw.given_test[:n],
    )  # fmt: skip


def _table(raw: Raw, task: str) -> Table:
    _check_shape(raw)
    names = _names(raw)
    rows = _finite_rows(raw, names)
    y, classes = _labels(raw) if task == "classification" else (_targets(raw), ())
    key = row_keys(rows)
    of_group = hashlib.blake2b(b"group", digest_size=8)
    unit = _hashes(of_group, (g.encode() for g in raw.group), len(raw.group)) if raw.group else key
    table = Table(
        rows, y, names, classes, key, unit, "", raw.categories, {},
        {name: np.array(values) for name, values in raw.slices.items()}, raw.time, raw.given_test,
        {name: np.isnan(rows[:, names.index(name)]) for name in raw.gaps}, raw.skipped, raw.kept,
    )  # fmt: skip
    return replace(table, digest=_digest(table, raw.digest))


def _digest(table: Table, of_rows: str) -> str:
    """Return the SHA-256 of all that a training run sees; `of_rows`: that of the bytes of x, if it is known."""
    facts = [
        table.x.dtype.str, table.x.shape, of_rows or _sha256(table.x), table.names, table.classes,
        sorted(table.categories.items()), sorted(table.empty),
    ]  # fmt: skip
    state = hashlib.sha256(repr(facts).encode())
    state.update(table.y.astype("<i8" if table.classes else "<f8").tobytes())
    state.update(table.unit.astype("<u8").tobytes())
    for extra in (table.time, table.given_test):
        state.update(b"-" if extra is None else np.ascontiguousarray(extra).tobytes())
    for name, values in sorted(table.slices.items()):
        state.update(repr((name, values.tolist())).encode())
    return state.hexdigest()


def _sha256(x: np.ndarray) -> str:
    state = hashlib.sha256()
    for part in _chunks(x):
        state.update(part.tobytes())
    return state.hexdigest()


def _targets(raw: Raw) -> np.ndarray:
    if raw.classes or raw.labels.dtype.kind not in "uif":
        found = f"classes {', '.join(raw.classes[:3])}" if raw.classes else f"{raw.labels.dtype}"
        raise DataError(f'{raw.place}: y is {found}; task = "regression" needs a number per row')
    y: np.ndarray = raw.labels.astype(np.float64)
    if not np.isfinite(y).all():
        raise DataError(f"{raw.place}: row {int(np.argmin(np.isfinite(y)))}: y is not finite; drop the row")
    if y.min() == y.max():
        raise DataError(f"{raw.place}: y is {y[0]:g} in all {len(y)} rows; a regression needs a target that changes")
    return y


def _check_shape(raw: Raw) -> None:
    x = raw.x
    if x.ndim not in (2, 3, 4) or not x.size or x.dtype.kind not in "uifb":
        raise DataError(
            f"{raw.place}: x is {x.dtype} of shape {x.shape}; accepted are numbers of shape (rows, columns), "
            "(rows, height, width) or (rows, height, width, channels)"
        )
    if x.ndim == 4 and x.shape[1] <= _MOST_CHANNELS < min(x.shape[2:]):
        raise DataError(
            f"{raw.place}: x of shape {x.shape} seems to have its channels first; accepted is (rows, height, width, "
            "channels): np.moveaxis(x, 1, 3)"
        )
    if raw.labels.shape != (len(x),):
        raise DataError(
            f"{raw.place}: y has shape {raw.labels.shape}, x has {len(x)} rows; one label per row is needed"
        )


def _names(raw: Raw) -> tuple[str, ...]:
    columns = raw.x.shape[1] if raw.x.ndim == 2 else 0
    names = raw.names or tuple(f"x{column}" for column in range(columns))
    if len(names) != columns or len(set(names)) != columns:
        raise DataError(
            f"{raw.place}: {len(set(names))} different names for rows of shape {raw.x.shape[1:]}; "
            "accepted is one per column, none for images"
        )
    return names


def _finite_rows(raw: Raw, names: tuple[str, ...]) -> np.ndarray:
    x = raw.x
    if x.ndim == 2 or x.dtype != np.uint8:
        with np.errstate(over="ignore"):
            x = x.astype(np.float32, copy=False)
        x = np.ascontiguousarray(x)
    if x.dtype != np.uint8:
        _check_finite(raw, x, names)
    return x


def _check_finite(raw: Raw, x: np.ndarray, names: tuple[str, ...]) -> None:
    wrong, first = 0, (0, 0)
    gaps = [names.index(name) for name in raw.gaps]
    for number, part in enumerate(_chunks(x)):
        finite = np.isfinite(part).reshape(len(part), -1)
        if gaps:
            finite[:, gaps] |= np.isnan(part[:, gaps])
        if not wrong and not finite.all():
            row, cell = (int(i) for i in np.argwhere(~finite)[0])
            first = (number * _CHUNK_ROWS + row, cell)
        wrong += int((~finite).sum())
    if wrong:
        row, cell = first
        column = f"column '{names[cell]}'" if names else f"value {cell}"
        raise DataError(
            f"{raw.place}: row {row} (of 0 to {len(x) - 1}), {column} is not a finite float32 "
            f"({wrong} such values in all); fill or drop them"
        )


def _labels(raw: Raw) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the labels as int64 indexes with the names of the classes.

    Named classes are taken in their order, and the labels are then indexes; else the classes are
    the values that occur, sorted.
    """
    labels = raw.labels
    if labels.dtype.kind not in "uibUS":
        raise DataError(
            f"{raw.place}: y is {labels.dtype}; accepted are whole numbers or text, one class per row; "
            'for a number to be predicted, set task = "regression"'
        )
    values, index = np.unique(labels, return_inverse=True)
    if len(values) < 2:
        only = raw.classes[values[0]] if raw.classes else values[0]
        raise DataError(f"{raw.place}: one class only ({only!s}) in {len(labels)} rows; at least two are needed")
    if not raw.classes:
        return index.astype(np.int64), tuple(str(value) for value in values)
    if labels.dtype.kind in "US" or values[0] < 0 or values[-1] >= len(raw.classes):
        raise DataError(
            f"{raw.place}: y goes from {values[0]!s} to {values[-1]!s}; with {len(raw.classes)} named "
            f"classes accepted are whole numbers from 0 to {len(raw.classes) - 1}"
        )
    return labels.astype(np.int64), raw.classes
