"""Columns of a file -> rows as the model takes them; what the service would refuse is told apart, not raised.

As the service does: text is one of the values of its column, nothing may be missing but where the release has a fill,
numbers are finite, and whole and in range where the model takes integers.
"""

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from registry.errors import DataError
from registry.release import InputSpec

PART_ROWS = 200_000
NUMBER = r"^[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?$"
MILLISECONDS = 1e11  # a larger number of seconds lies after the year 5000


def rows(batch: pa.RecordBatch, spec: InputSpec) -> tuple[np.ndarray, np.ndarray]:
    """Return rows (n, *spec.shape) of the model's dtype, and which of them the service would answer, bool (n,).

    A column that the batch lacks is one of empty cells. Rows without columns come from a column `row` of lists.
    """
    values = _columns(batch, spec) if spec.columns else _lists(batch, spec)
    sound = np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if spec.dtype[0] in "iu":
        limits = np.iinfo(spec.dtype)
        with np.errstate(invalid="ignore"):
            fits = (values >= limits.min) & (values <= limits.max) & (values == np.floor(values))
        sound &= fits.reshape(len(values), -1).all(axis=1)
    values[~sound] = 0
    with np.errstate(over="ignore"):
        cast = values.astype(spec.dtype)
    sound &= np.isfinite(cast).reshape(len(cast), -1).all(axis=1)
    return cast, sound


def groups(file: Any) -> list[tuple[int, ...]]:
    """Return the row groups of a Parquet file, together as many as have PART_ROWS rows."""
    found: list[tuple[int, ...]] = []
    rows = PART_ROWS
    for group in range(file.num_row_groups):
        if rows >= PART_ROWS:
            found.append(())
            rows = 0
        found[-1] += (group,)
        rows += file.metadata.row_group(group).num_rows
    return found


def seconds(column: pa.Array, name: str) -> np.ndarray:
    """Return Unix times, float64 (n,), of numbers (seconds or milliseconds), timestamps, or text in ISO 8601 (UTC).

    Raises DataError that names the column if one cannot be read.
    """
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        column = _times_of_text(column, name)
    if pa.types.is_temporal(column.type):
        column = pc.divide(pc.cast(pc.cast(column, pa.timestamp("us", "UTC"), safe=False), pa.int64()), 1e6)
    found = np.asarray(numbers(column))
    if not np.isfinite(found).all():
        row = int(np.argmin(np.isfinite(found)))
        raise DataError(f"column '{name}': {column[row]} is no time; accepted are Unix seconds and ISO 8601")
    return np.where(np.abs(found) > MILLISECONDS, found / 1000, found)


def numbers(column: pa.Array) -> np.ndarray:
    """Return numbers, float64 (n,); NaN for an empty cell, infinite for what is no number."""
    column = _plain(column)
    if pa.types.is_string(column.type):
        text = pc.utf8_trim_whitespace(column)
        empty = pc.or_(pc.is_null(text), pc.equal(pc.utf8_length(pc.fill_null(text, "")), 0))
        said = pc.cast(pc.if_else(pc.match_substring_regex(text, NUMBER), text, None), pa.float64())
        found = np.array(said.to_numpy(zero_copy_only=False), np.float64)
        wrong = np.isnan(found) & ~np.asarray(empty.to_numpy(zero_copy_only=False), bool)
        return np.where(wrong, np.inf, found)
    if pa.types.is_temporal(column.type) or pa.types.is_nested(column.type) or pa.types.is_binary(column.type):
        return np.full(len(column), np.inf)
    return np.array(pc.cast(column, pa.float64(), safe=False).to_numpy(zero_copy_only=False), np.float64)


def texts(column: pa.Array) -> pa.Array:
    """Return cells as text: whole numbers without a point, truth as true and false, null for an empty cell."""
    column = _plain(column)
    if pa.types.is_floating(column.type):
        whole = pc.equal(column, pc.floor(column))
        short = pc.cast(pc.cast(pc.if_else(whole, column, None), pa.int64(), safe=False), pa.string())
        return pc.coalesce(short, pc.cast(pc.if_else(pc.is_nan(column), None, column), pa.string()))
    text = pc.cast(column, pa.string())
    return pc.if_else(pc.equal(text, ""), None, text)


def codes(column: pa.Array, known: tuple[str, ...]) -> np.ndarray:
    """Return the index of each cell among its column's values; NaN for an empty one, infinite for an unseen one."""
    text = texts(column)
    found = pc.index_in(text, value_set=pa.array(known, pa.string()))
    codes = np.array(pc.cast(found, pa.float64()).to_numpy(zero_copy_only=False), np.float64)
    unseen = np.isnan(codes) & np.asarray(pc.is_valid(text).to_numpy(zero_copy_only=False), bool)
    return np.where(unseen, np.inf, codes)


def _columns(batch: pa.RecordBatch, spec: InputSpec) -> np.ndarray:
    values = np.full((len(batch), len(spec.columns)), np.nan)
    for place, column in enumerate(spec.columns):
        if column in batch.schema.names:
            cells = batch.column(column)
            known = spec.categories.get(column)
            values[:, place] = numbers(cells) if known is None else codes(cells, known)
        if column in spec.fills:
            values[np.isnan(values[:, place]), place] = spec.fills[column]
    return values


def _lists(batch: pa.RecordBatch, spec: InputSpec) -> np.ndarray:
    size = int(np.prod(spec.shape))
    if "row" not in batch.schema.names:
        raise DataError(f"column 'row' is missing: a list of {size} numbers, as this model takes no named columns")
    values = np.full((len(batch), size), np.nan)
    for place, cell in enumerate(batch.column("row").to_pylist()):
        if cell is not None and len(cell) == size:
            values[place] = cell
    return values.reshape(-1, *spec.shape)


def _plain(column: Any) -> Any:
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    wide = pa.types.is_large_string(column.type) or pa.types.is_string_view(column.type)
    return pc.cast(column, pa.string()) if wide or pa.types.is_null(column.type) else column


def _times_of_text(column: pa.Array, name: str) -> pa.Array:
    text = pc.utf8_trim_whitespace(pc.cast(column, pa.string()))
    if np.isfinite(numbers(text)).all():
        return text
    for kind in (pa.timestamp("us"), pa.timestamp("us", "UTC")):
        try:
            return pc.cast(text, kind)
        except pa.ArrowInvalid as error:
            why = error
    raise DataError(f"column '{name}': {why}; accepted are Unix seconds and ISO 8601")
