"""A Parquet or CSV file of past traffic: the columns of a release, a time, and if known a label and the prediction.

The release answers the rows again, one thread to a part, so every way of reading gives the same numbers.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from monitoring.backtest import counted, encode, labelled
from monitoring.backtest.counted import Batch, Seen
from monitoring.backtest.labelled import Labels
from monitoring.backtest.rules import Rules
from monitoring.backtest.sqlite_log import judged
from monitoring.log.opened import Opened, opened
from registry.errors import DataError, StackError
from registry.release import MODEL

BATCH_ROWS = 20_000
CSV_BLOCK_BYTES = 16 << 20
RUN_ROWS = 2_048
TIMES = ("time_s", "time", "timestamp", "datetime", "date", "ts")


@dataclass(frozen=True)
class Names:
    """The columns beside those of the release. label, prediction, label_time: absent from many files."""

    time: str
    label: str = "label"
    prediction: str = "prediction"
    label_time: str = "label_time"


@dataclass(frozen=True)
class TablePart:
    """Some groups of rows of a Parquet file, or a whole CSV file (no groups), answered by the release `tag`."""

    path: Path
    tag: str
    groups: tuple[int, ...]
    names: Names
    span_s: tuple[float, float]
    rules: Rules

    def read(self) -> Seen:
        """Return what the rules need of this part. Raises DataError that names the file if it cannot be read."""
        try:
            return counted.together(_seen(self, batch) for batch in _batches(self))
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.path}: cannot be read: {error}") from error
        except DataError as error:
            raise DataError(f"{self.path}: {error}") from error


def parts(path: Path, tag: str, names: dict[str, str], span_s: tuple[float, float], rules: Rules) -> list[TablePart]:
    """Return the file in parts; names: of the columns that a user chose, by field of `Names`.

    Raises DataError if there is no column of times, or one that was named is not there.
    """
    try:
        found, groups = _columns(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as Parquet or CSV: {error}") from error
    for column in names.values():
        if column not in found:
            raise DataError(f"{path}: column '{column}' is missing; found {', '.join(found[:30])}")
    time = names.get("time") or next((name for name in TIMES if name in found), "")
    if not time:
        raise DataError(f"{path}: has no column of times ({', '.join(TIMES)}); name it with --time")
    chosen = Names(**{**names, "time": time})
    return [TablePart(path, tag, group, chosen, span_s, rules) for group in groups]


def _columns(path: Path) -> tuple[list[str], list[tuple[int, ...]]]:
    if _is_csv(path):
        with pa.csv.open_csv(path, pa.csv.ReadOptions(block_size=1 << 20)) as reader:
            return list(reader.schema.names), [()]
    with pa.parquet.ParquetFile(path) as file:
        return list(file.schema_arrow.names), encode.groups(file)


def _is_csv(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) != b"PAR1"


def _batches(part: TablePart) -> Iterator[pa.RecordBatch]:
    wanted = _wanted(part)
    if not part.groups:
        # As text, and made numbers later: one odd cell must not decide about its column.
        kinds = pa.csv.ConvertOptions(column_types=dict.fromkeys(wanted, pa.string()), include_columns=wanted)
        with pa.csv.open_csv(part.path, pa.csv.ReadOptions(block_size=CSV_BLOCK_BYTES), None, kinds) as reader:
            for block in reader:
                yield from (block.slice(begin, BATCH_ROWS) for begin in range(0, len(block), BATCH_ROWS))
    else:
        with pa.parquet.ParquetFile(part.path) as file:
            yield from file.iter_batches(BATCH_ROWS, list(part.groups), wanted)


def _wanted(part: TablePart) -> list[str]:
    names, spec = part.names, opened(part.tag).release.manifest.input
    known = {*(spec.columns or ("row",)), names.time, names.label, names.prediction, names.label_time}
    return [name for name in _columns(part.path)[0] if name in known]


def _seen(part: TablePart, batch: pa.RecordBatch) -> Seen:
    known = opened(part.tag)
    version, bucket_s = known.release.version, part.rules.bucket_s
    time_s = encode.seconds(batch.column(part.names.time), part.names.time)
    inside = (time_s >= part.span_s[0]) & (time_s <= part.span_s[1])
    batch, time_s = batch.filter(pa.array(inside)), time_s[inside]
    rows, sound = encode.rows(batch, known.release.manifest.input)
    refused = np.unique(np.floor(time_s[~sound] / bucket_s).astype(np.int64), return_counts=True)
    if not sound.any():
        return Seen(invalid=refused, last_s=float(time_s.max(initial=0.0)))
    outputs = answers(part.tag, rows[sound])
    found = Batch(version, time_s[sound], rows[sound], outputs)
    one = counted.count(found, known, bucket_s)
    said = _labels(part, batch.filter(pa.array(sound)), found, outputs)
    if said is None:
        return Seen({version: one}, invalid=refused, last_s=float(time_s.max()))
    seen = labelled.together([(version, labelled.of(said, known, part.rules))])
    last_s = max(float(said.known_s.max(initial=0.0)), float(time_s.max()))
    return replace(seen, counted={version: one}, invalid=refused, last_s=last_s)


def _labels(part: TablePart, batch: pa.RecordBatch, found: Batch, outputs: np.ndarray) -> Labels | None:
    # The labels of the batch, None if it has none.
    names, known = part.names, opened(part.tag)
    present = set(batch.schema.names)
    if names.label not in present or not len(batch):
        return None
    texts = encode.texts(batch.column(names.label)).to_pylist()
    said = names.prediction in present
    answered = encode.texts(batch.column(names.prediction)).to_pylist() if said else _said(known, outputs)
    steps = np.array([judged(known, *pair) for pair in zip(answered, texts, strict=True)], np.int64)
    told = steps[:, 0] > 0
    known_s = found.time_s[told]
    if names.label_time in present:
        known_s = encode.seconds(batch.column(names.label_time).filter(pa.array(told)), names.label_time)
    return Labels(found.time_s[told], known_s, steps[told], np.ones(int(told.sum()), bool), found.rows[told])


def _said(known: Opened, outputs: np.ndarray) -> list[str]:
    manifest = known.release.manifest
    if not manifest.classes:
        return [repr(float(value)) for value in outputs[:, 0]]
    return [manifest.classes[place] for place in manifest.decide(outputs)]


def answers(tag: str, rows: np.ndarray) -> np.ndarray:
    """Return what the release answers to rows (n, *shape): float32 (n, classes) or (n, 1)."""
    manifest = opened(tag).release.manifest
    session = _session(tag)
    parts = [
        session.run([manifest.output], {manifest.input.name: rows[begin : begin + RUN_ROWS]})[0]
        for begin in range(0, len(rows), RUN_ROWS)
    ]
    return np.concatenate(parts).reshape(len(rows), -1)


@functools.lru_cache(maxsize=2)
def _session(tag: str) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise StackError("onnxruntime is not installed; run: pip install 'vigil[cpu]'") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    path = opened(tag).release.path / MODEL
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
