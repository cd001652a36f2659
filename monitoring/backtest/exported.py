"""Rows that `vigil log export` wrote, replayed as the log they come from; of each row the last label alone is known."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from monitoring.backtest import counted, encode, labelled
from monitoring.backtest.counted import Batch, Seen
from monitoring.backtest.labelled import Labels
from monitoring.backtest.rules import Rules
from monitoring.backtest.sqlite_log import judged, known_release
from monitoring.log import decoded
from monitoring.log.decoded import Form
from monitoring.log.opened import Opened
from registry.errors import DataError

BATCH_ROWS = 20_000


@dataclass(frozen=True)
class ExportPart:
    """The rows of one model in some groups of rows of a file."""

    path: Path
    model: str
    groups: tuple[int, ...]
    span_s: tuple[float, float]
    rules: Rules

    def read(self) -> Seen:
        """Return what the rules need of this part. Raises DataError if the file cannot be read."""
        try:
            with pa.parquet.ParquetFile(self.path) as file:
                batches = file.iter_batches(BATCH_ROWS, list(self.groups))
                return counted.together(seen for batch in batches for seen in _seen(self, batch))
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.path}: cannot be read: {error}") from error


def is_export(path: Path) -> bool:
    """Return whether a file is Parquet with the columns that an export begins with."""
    try:
        with pa.parquet.ParquetFile(path) as file:
            return set(decoded.FACTS) <= set(file.schema_arrow.names)
    except (pa.ArrowException, OSError):
        return False


def models(path: Path) -> list[str]:
    """Return the models whose rows are in the file."""
    with pa.parquet.ParquetFile(path) as file:
        found = {
            model for batch in file.iter_batches(columns=["model"]) for model in batch.column(0).unique().to_pylist()
        }
    return sorted(found)


def parts(path: Path, model: str, span_s: tuple[float, float], rules: Rules) -> list[ExportPart]:
    """Return the file in parts."""
    with pa.parquet.ParquetFile(path) as file:
        return [ExportPart(path, model, groups, span_s, rules) for groups in encode.groups(file)]


def _seen(part: ExportPart, batch: pa.RecordBatch) -> Iterator[Seen]:
    time_s = encode.seconds(batch.column("time"), "time")
    mine = np.asarray(pc.equal(batch.column("model"), part.model)) & (time_s >= part.span_s[0])
    mine &= time_s <= part.span_s[1]
    batch, time_s = batch.filter(pa.array(mine)), time_s[mine]
    for version in sorted(batch.column("version").unique().to_pylist()):
        chosen = np.asarray(pc.equal(batch.column("version"), version))
        yield _version(part, version, batch.filter(pa.array(chosen)), time_s[chosen])


def _version(part: ExportPart, version: str, batch: pa.RecordBatch, time_s: np.ndarray) -> Seen:
    known, form = known_release(part.model, version), decoded.form_of(part.model, version)
    labels_s = encode.seconds(batch.column("label_time").drop_null(), "label_time")
    last_s = max(float(labels_s.max(initial=0.0)), float(time_s.max()))
    if known is None or form is None:
        return Seen(unknown={version: len(batch)}, last_s=last_s)
    found = Batch(version, time_s, _inputs(form, batch), _outputs(form, batch))
    said = _labels(known, batch, found)
    seen = labelled.together([(version, labelled.of(said, known, part.rules))])
    one = counted.count(found, known, part.rules.bucket_s)
    return replace(seen, counted={version: one}, last_s=last_s)


def _inputs(form: Form, batch: pa.RecordBatch) -> np.ndarray:
    # NaN where a policy kept nothing.
    spec = form.manifest.input
    if not form.inputs:
        cells = batch.column("row")
        rows = np.full((len(batch), int(np.prod(spec.shape))), np.nan)
        kept = np.asarray(cells.is_valid())
        rows[kept] = np.asarray(cells.filter(pa.array(kept)).flatten()).reshape(int(kept.sum()), -1)
        return rows.reshape(-1, *spec.shape)
    columns = []
    for name, place in form.inputs.items():
        known = form.categories(place)
        columns.append(encode.numbers(batch.column(name)) if known is None else encode.codes(batch.column(name), known))
    return np.column_stack(columns)


def _outputs(form: Form, batch: pa.RecordBatch) -> np.ndarray:
    if form.spread:
        return np.column_stack([np.asarray(batch.column(name)) for name in form.outputs]).astype(np.float32)
    return np.array(batch.column(form.outputs[0]).to_pylist(), np.float32).reshape(len(batch), -1)


def _labels(known: Opened, batch: pa.RecordBatch, found: Batch) -> Labels:
    told = np.asarray(batch.column("label").is_valid())
    some = batch.filter(pa.array(told))
    pairs = zip(some.column("predicted").to_pylist(), some.column("label").to_pylist(), strict=True)
    steps = np.array([judged(known, *pair) for pair in pairs], np.int64).reshape(-1, 2)
    known_s = encode.seconds(some.column("label_time"), "label_time")
    return Labels(found.time_s[told], known_s, steps, np.ones(len(steps), bool), found.rows[told])
