"""CSV and Parquet -> rows: what each column is for, what an empty cell means, and refusals that name the cell."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from registry.errors import DataError
from training.config import Data
from training.rows import delimited, parquet
from training.rows.columns import MOST_CATEGORIES, CellError, Column, Numbers, Rows, Texts, Times, is_number
from training.rows.raw import Raw

MOST_SLICES = 50
_MOST_NUMBERS = 12  # of different numbers in a slice column; more are cut at the quartiles
_SINGLE, _LISTS = ("target", "id", "group", "time"), ("drop", "categorical", "slices", "nullable")
ANY = "*"  # in data.nullable: every column that is learnt

_CURES = {
    "learnt": "name a column of text in data.categorical (each value a category), or in data.drop or data.id",
    "target": 'for classes, set task = "classification"',
    "time": "accepted are numbers alone, or dates of one form alone",
}

Place = tuple[str, str]  # the role of a column ("learnt", "target", "group", "time", "slices") and its name


@dataclass(frozen=True)
class _Found:
    """A column that was read: numbers, NaN if empty; or codes, -1 if empty, with the text of each."""

    values: np.ndarray
    texts: tuple[str, ...] | None = None

    @property
    def empty(self) -> np.ndarray:
        """Return bool (n,)."""
        return np.isnan(self.values) if self.texts is None else self.values < 0

    def take(self, keep: np.ndarray) -> "_Found":
        """Return the rows that are kept, and of the texts those that are left."""
        values = self.values[keep]
        if self.texts is None:
            return _Found(values)
        used, codes = np.unique(values, return_inverse=True)
        return _Found(codes - int((used < 0).any()), tuple(self.texts[code] for code in used if code >= 0))

    def words(self) -> tuple[str, ...]:
        """Return the text of every row; "(empty)" where there is none."""
        texts = (*(self.texts or ()), "(empty)")
        return tuple(texts[code] for code in self.values.tolist())


def open_rows(path: Path, source: str) -> Rows:
    """Return the rows of a CSV or Parquet file. Raises DataError."""
    return parquet.open_rows(path) if source == "parquet" else delimited.open_rows(path)


def read(path: Path, data: Data, task: str) -> Raw:
    """Return the rows and labels of a table in a file. Raises DataError.

    data.missing "fill": empty cells are NaN until `data.filled`; a row without target, group or time is left out.
    """
    rows = open_rows(path, data.source)
    _check_columns(path, rows, data)
    found = _read(path, rows, _readers(rows.columns, data, task), data.first_rows)
    found, skipped, kept = _without_gaps(path, rows, found, data.missing)
    learnt = {name: column for (role, name), column in found.items() if role == "learnt"}
    labels = found["target", data.target]
    return Raw(
        str(path), _matrix(learnt), labels.values, tuple(learnt), labels.texts or (),
        group=found["group", data.group].words() if data.group else (),
        categories={name: column.texts for name, column in learnt.items() if column.texts is not None},
        gaps=tuple(name for name, column in learnt.items() if column.empty.any() or _nullable(name, data)),
        slices={name: _slices(path, name, column) for (role, name), column in found.items() if role == "slices"},
        time=found["time", data.time].values if data.time else None,
        skipped=skipped, kept=kept,
    )  # fmt: skip


def _nullable(name: str, data: Data) -> bool:
    return name in data.nullable or ANY in data.nullable


def _check_columns(path: Path, rows: Rows, data: Data) -> None:
    columns = rows.columns
    if repeated := sorted({name for name in columns if columns.count(name) > 1}):
        raise DataError(f"{path}: columns appear twice: {', '.join(repeated)}; give each its own name in line 1")
    single = {key: (getattr(data, key),) for key in _SINGLE if getattr(data, key)}
    for key, names in (single | {key: getattr(data, key) for key in _LISTS}).items():
        for name in names:
            if name not in columns and (key, name) != ("nullable", ANY):
                close = difflib.get_close_matches(name, columns, n=1)
                hint = f"did you mean '{close[0]}'?" if close else f"found {', '.join(columns)}"
                raise DataError(f"{path}: no column '{name}' (data.{key}); {hint} ({rows.kind})")
    roles = [(name, key) for key, names in single.items() for name in names]
    roles += [(name, key) for key in ("drop", "categorical") for name in getattr(data, key)]
    for name, key in roles:
        if other := [also for same, also in roles if same == name and also != key]:
            raise DataError(f"{path}: column '{name}' is data.{key} and data.{other[0]}; accepted is one of them")
    for name, key in roles:
        if key != "categorical" and name in data.nullable:
            raise DataError(
                f"{path}: column '{name}' is data.{key} and data.nullable; only what is learnt may be empty"
            )
    if not set(columns) - {name for name, key in roles if key != "categorical"}:
        raise DataError(f"{path}: no column is left to learn from; found {', '.join(columns)} ({rows.kind})")


def _readers(columns: tuple[str, ...], data: Data, task: str) -> dict[Place, Column]:
    aside = {data.target, data.id, data.group, data.time, *data.drop}
    readers: dict[Place, Column] = {
        ("learnt", name): Texts() if name in data.categorical else Numbers() for name in columns if name not in aside
    }
    readers["target", data.target] = Texts() if task == "classification" else Numbers("float64")
    if data.group:
        readers["group", data.group] = Texts()
    if data.time:
        readers["time", data.time] = Times()
    return readers | {("slices", name): Texts() for name in data.slices}


def _read(path: Path, rows: Rows, readers: dict[Place, Column], most: int) -> dict[Place, _Found]:
    """Read the columns batch by batch; `most`: rows, 0 for all."""
    count = 0
    for batch in rows.batches({name for _, name in readers}):
        for (role, name), reader in readers.items():
            cells = batch(name, reader.as_text)
            try:
                reader.add(cells[: most - count] if most else cells)
            except CellError as refused:
                raise _refusal(path, rows, (role, name), refused) from None
        count += len(cells)
        if most and count >= most:
            break
    if not count:
        raise DataError(f"{path}: no row; a header and at least one row are needed ({rows.kind})")
    return {place: _finished(path, rows, place, reader) for place, reader in readers.items()}


def _refusal(path: Path, rows: Rows, place: Place, refused: CellError) -> DataError:
    role, name = place
    said = f"{refused}; {refused.cure or _CURES[role]}"
    return DataError(f"{path}: {rows.place(refused.row)}, column '{name}': {said}")


def _finished(path: Path, rows: Rows, place: Place, reader: Column) -> _Found:
    role, name = place
    try:
        found = _Found(*reader.coded()) if isinstance(reader, Texts) else _Found(reader.values())
    except CellError as refused:
        raise _refusal(path, rows, place, refused) from None
    if found.empty.all():
        raise DataError(f"{path}: column '{name}' is empty in every row; name it in data.drop")
    if role in ("learnt", "target") and len(found.texts or ()) > MOST_CATEGORIES:
        cure = "name it in data.drop" if role == "learnt" else 'for a number to be predicted, set task = "regression"'
        raise DataError(
            f"{path}: column '{name}' has {len(found.texts or ())} different values; accepted are up to "
            f"{MOST_CATEGORIES}; {cure}"
        )
    return found


def _without_gaps(
    path: Path, rows: Rows, found: dict[Place, _Found], missing: str
) -> tuple[dict[Place, _Found], tuple[str, ...], np.ndarray | None]:
    """Return the columns without the rows that must go, what was left out, and Raw.kept; DataError if none may."""
    empty = {place: column.empty for place, column in found.items() if place[0] != "slices"}
    empty = {place: where for place, where in empty.items() if where.any()}
    if empty and missing == "stop":
        _refuse_gaps(path, rows, empty)
    if missing == "fill":
        empty = {(role, name): where for (role, name), where in empty.items() if role != "learnt"}
    if not empty:
        return found, (), None
    gone = np.any(list(empty.values()), axis=0)
    if gone.all():
        raise DataError(f"{path}: every row has an empty cell; {_count(empty)}; fill them or drop columns")
    said = f"{path.name}: {int(gone.sum())} of {len(gone)} rows left out, with an empty cell; {_count(empty)}"
    left = {place: column.take(~gone) for place, column in found.items()}
    for (role, name), column in left.items():
        if role == "learnt" and column.empty.all():
            raise DataError(f"{path}: column '{name}' is empty in every row that is left; name it in data.drop. {said}")
    return left, (said,), ~gone


def _refuse_gaps(path: Path, rows: Rows, empty: Mapping[Place, np.ndarray]) -> None:
    first = min(empty, key=lambda place: int(empty[place].argmax()))
    raise DataError(
        f"{path}: {rows.place(int(empty[first].argmax()))}, column '{first[1]}': the cell is empty; {_count(empty)}; "
        'data.missing = "fill" puts in the median or the most frequent value, "drop_rows" leaves such rows out'
    )


def _count(empty: Mapping[Place, np.ndarray]) -> str:
    return "empty cells: " + ", ".join(f"{name} {int(where.sum())}" for (_, name), where in empty.items())


def _matrix(learnt: Mapping[str, _Found]) -> np.ndarray:
    """Return float32 (n, columns), NaN in the empty cells."""
    x = np.empty((len(next(iter(learnt.values())).values), len(learnt)), dtype=np.float32)
    for number, column in enumerate(learnt.values()):
        x[:, number] = column.values
        x[column.empty, number] = np.nan
    return x


def _slices(path: Path, name: str, column: _Found) -> tuple[str, ...]:
    """Return the slice of every row: its value, or for many different numbers the quarter it lies in."""
    texts = column.texts or ()
    if len(texts) > _MOST_NUMBERS and all(map(is_number, texts)):
        return _quarters(np.array([*map(float, texts), np.nan])[column.values])
    if len(texts) > MOST_SLICES:
        raise DataError(
            f"{path}: column '{name}' has {len(texts)} different texts; up to {MOST_SLICES} can be data.slices"
        )
    return column.words()


def _quarters(values: np.ndarray) -> tuple[str, ...]:
    cuts = np.unique(np.nanquantile(values, [0.25, 0.5, 0.75]))
    ends = [f"{cut:g}" for cut in cuts]
    names = [f"below {ends[0]}", *(f"{low} to {high}" for low, high in zip(ends, ends[1:], strict=False))]
    names += [f"{ends[-1]} and more", "(empty)"]
    part = np.where(np.isnan(values), len(cuts) + 1, np.digitize(values, cuts))
    return tuple(names[number] for number in part.tolist())
