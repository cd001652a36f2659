"""Parquet files, read in batches through pyarrow."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from registry.errors import DataError
from training.rows.columns import Batch, Cells

_BATCH_ROWS = 65_536


@dataclass(frozen=True)
class Parquet:
    """A Parquet file of plain columns; the index that pandas writes beside them is not one."""

    path: Path
    columns: tuple[str, ...]
    kind: str = "Parquet"

    def batches(self, names: Iterable[str]) -> Iterator[Batch]:
        """Yield the named columns: numbers as float64 unless text is asked for, all else as text."""
        wanted = [name for name in self.columns if name in set(names)]
        with _opened(self.path) as file:
            for batch in file.iter_batches(_BATCH_ROWS, columns=wanted):
                yield lambda name, as_text, batch=batch: self._cells(batch, name, as_text)  # type: ignore[misc]

    def place(self, row: int) -> str:
        """Return the number of row `row`, counted from 0."""
        return f"row {row} (from 0)"

    def _cells(self, batch: Any, name: str, as_text: bool) -> Cells:
        import pyarrow as pa

        column, kind = batch.column(name), batch.schema.field(name).type
        number = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
        try:
            if not as_text and (number or pa.types.is_boolean(kind)):
                values: Cells = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
                return values
            return ["" if cell is None else cell for cell in column.cast(pa.string()).to_pylist()]
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise DataError(
                f"{self.path}: column '{name}' holds {kind}; accepted are numbers, text, booleans, dates: "
                f"name it in data.drop ({error})"
            ) from error


def open_rows(path: Path) -> Parquet:
    """Return the Parquet file at `path`. Raises DataError if it is none, or pyarrow is not installed."""
    with _opened(path) as file:
        names = tuple(file.schema_arrow.names)
    return Parquet(path, tuple(name for name in names if not name.startswith("__index_level_")))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ModuleNotFoundError as error:
        raise DataError(f"{path}: reading Parquet needs pyarrow; install it: pip install 'vigil[parquet]'") from error
    try:
        with pq.ParquetFile(path) as file:
            yield file
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a Parquet file that can be read: {error}") from error
