"""The prediction log: what was asked and answered, and the truth that came later, in one SQLite file.

Writing never delays an answer: batches wait in a bounded queue for one writer thread, and what does
not fit or cannot be written is dropped and counted. A killed process loses no committed row.
"""

import contextlib
import logging
import math
import sqlite3
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from monitoring.metrics import ServingMetrics
from monitoring.sampling import Bucket, Sampler
from registry.errors import RequestError

log = logging.getLogger(__name__)

COMMIT_S = 0.2
RETRY_S = 1.0
BUSY_S = 5.0
WRITER_BUSY_S = 1.0  # shorter, since the writer comes again: close() waits for two tries, well under CLOSE_S
CLOSE_S = 10.0
MOST_BYTES = 256 << 20  # 20,000 rows of 28 x 28 float32 are 63 MB, of 224 x 224 colour 12 GB
WRITTEN, SHADOWED, UNCOUNTED = "written", "shadowed", ""
# The column `probabilities` holds whatever the model answered; logs on disk know it by that name.
SCHEMA = """
CREATE TABLE IF NOT EXISTS predictions(
  seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, time_s REAL NOT NULL,
  model TEXT NOT NULL, version TEXT NOT NULL, predicted TEXT NOT NULL, probabilities BLOB NOT NULL, row BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS predictions_time ON predictions(model, time_s);
CREATE TABLE IF NOT EXISTS labels(
  seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, time_s REAL NOT NULL, label TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS labels_id ON labels(id);
CREATE TABLE IF NOT EXISTS shadow(
  seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, time_s REAL NOT NULL,
  model TEXT NOT NULL, version TEXT NOT NULL, predicted TEXT NOT NULL, outputs BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS shadow_time ON shadow(model, version, time_s);
"""
PREDICTION = (
    "INSERT OR IGNORE INTO predictions(id, time_s, model, version, predicted, probabilities, row) "
    "VALUES (?, ?, ?, ?, ?, ?, ?)"
)
SHADOW = (
    "INSERT OR IGNORE INTO shadow(id, time_s, model, version, predicted, outputs) SELECT ?1, ?2, ?3, ?4, ?5, ?6 "
    "WHERE EXISTS (SELECT 1 FROM predictions WHERE id = ?1 AND time_s = ?2 AND model = ?3)"
)
LABEL = "INSERT INTO labels(id, time_s, label) VALUES (?, ?, ?)"


@dataclass(frozen=True)
class Records:
    """One answered request of n rows.

    predicted: class names, or the predictions of a regression as text. outputs: float32 (n, classes) or
    (n, 1). rows: (n, *shape).
    """

    model: str
    version: str
    time_s: float
    ids: list[str]
    predicted: list[str]
    outputs: np.ndarray
    rows: np.ndarray


@dataclass(frozen=True)
class Shadowed:
    """What a challenger answered to rows of a request; fields as in `Records`, `time_s` that of the champion's answer.

    Only rows whose champion's answer is on the log are written: the two are compared, never one alone.
    """

    model: str
    version: str
    time_s: float
    ids: list[str]
    predicted: list[str]
    outputs: np.ndarray


def connect(path: Path, busy_s: float | None = None) -> sqlite3.Connection:
    """Open the log, made if absent. Write-ahead logging: readers and one writer do not wait for each other.

    busy_s: how long to wait for another writer, BUSY_S if left out.
    Raises sqlite3.Error or OSError if the place cannot be written or holds something else.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=BUSY_S if busy_s is None else busy_s, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.executescript(SCHEMA)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def add_labels(connection: sqlite3.Connection, pairs: Sequence[tuple[str, str]]) -> int:
    """Append (id, label) pairs; they are committed when this returns."""
    now = time.time()
    with connection:
        connection.executemany(LABEL, [(ident, now, label) for ident, label in pairs])
    return len(pairs)


class Recorder:
    """Writes the log of one service process.

    Every row handed to `put` is counted once: written, or dropped as `queue_full`, `write_failed` or `duplicate_id`.
    The rows of a challenger are counted where they were written, apart from these.
    """

    def __init__(
        self,
        path: Path,
        limit_rows: int = 20_000,
        metrics: ServingMetrics | None = None,
        limit_bytes: int = MOST_BYTES,
        rows_per_s: float = math.inf,
    ) -> None:
        """limit_rows, limit_bytes: the most that may wait for the writer. rows_per_s: see `sampler`."""
        self._path = path
        self._limit_rows = limit_rows
        self._limit_bytes = limit_bytes
        self._metrics = metrics
        self._bucket = Bucket(rows_per_s)
        self._queue: deque[Records | Shadowed] = deque()
        self._waiting_rows = 0
        self._waiting_bytes = 0
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self._closing = False
        self._connection: sqlite3.Connection | None = None
        self._writer = threading.Thread(target=self._write_on, name="recorder", daemon=True)
        self._writer.start()

    def sampler(self, model: str) -> Sampler:
        """Return what says, before any work, whether a request is recorded: `rows_per_s` over all models are.

        To be held by the thread that asks it. What it leaves out is no loss, and counted apart.
        """
        left_out = (lambda _: None) if self._metrics is None else self._metrics.records_sampled_out.labels(model).inc
        return Sampler(self._bucket, left_out)

    def put(self, records: Records | Shadowed) -> None:
        """Hand a batch to the writer and return at once; a batch that does not fit is dropped and counted."""
        rows, size_bytes = len(records.ids), _size_bytes(records)
        with self._lock:
            fits = (
                self._waiting_rows + rows <= self._limit_rows and self._waiting_bytes + size_bytes <= self._limit_bytes
            )
            accepted = fits and not self._closing
            if accepted:
                self._queue.append(records)
                self._waiting_rows += rows
                self._waiting_bytes += size_bytes
                self._idle.clear()
        if not accepted:
            self._count(records.model, _dropped(records, "queue_full" if not fits else "write_failed"), rows)

    def label(self, pairs: Sequence[tuple[str, str]]) -> int:
        """Write labels and return how many; they are on the log when this returns.

        Raises RequestError 503 if the log cannot be written.
        """
        try:
            connection = connect(self._path)
            try:
                return add_labels(connection, pairs)
            finally:
                connection.close()
        except (sqlite3.Error, OSError) as error:
            place = f"labels: the log {self._path} cannot be written: {error}"
            cure = "send them again when its disk has space and nothing locks it"
            raise RequestError(f"{place}; {cure}", reason="log_failed", status=503) from error

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Wait until what was put is written or dropped, and counted; returns whether that happened in time."""
        self._wake.set()
        return self._idle.wait(timeout_s)

    def close(self, timeout_s: float = CLOSE_S) -> None:
        """Try once more to write what is waiting, and stop; what is not written in time is dropped and counted."""
        with self._lock:
            self._closing = True
        self._wake.set()
        self._writer.join(timeout_s)
        with self._lock:
            self._drop_waiting()

    def _write_on(self) -> None:
        while not (self._closing and not self._queue):
            self._wake.wait(COMMIT_S)
            self._wake.clear()
            last = self._closing  # seen before the try: a failure of this one is final
            with self._lock:
                batch = list(self._queue)
            if not batch or self._try(batch):
                continue
            if last:
                with self._lock:
                    self._drop_waiting()
            elif not self._closing:
                self._wake.wait(RETRY_S)
        self._disconnect()

    def _try(self, batch: list[Records | Shadowed]) -> bool:
        # On failure the batch stays in the queue: it is written when the disk recovers, and what no longer
        # fits meanwhile is dropped at the door.
        try:
            outcome = self._insert(batch)
        except (sqlite3.Error, OSError) as error:
            log.warning("prediction_log_not_written", extra={"path": str(self._path), "error": str(error)})
            self._disconnect()
            return False
        except (ValueError, TypeError):  # a row that no disk takes would stop all behind it for good
            log.exception("prediction_log_refused_rows")
            outcome = Counter((one.model, _dropped(one, "write_failed")) for one in batch for _ in one.ids)
        self._settle(batch, outcome)
        return True

    def _insert(self, batch: list[Records | Shadowed]) -> Counter[tuple[str, str]]:
        if self._connection is None:
            self._connection = connect(self._path, WRITER_BUSY_S)
        outcome: Counter[tuple[str, str]] = Counter()
        with self._connection:
            for records in batch:
                before = self._connection.total_changes
                if isinstance(records, Shadowed):
                    self._connection.executemany(SHADOW, _shadow_values(records))
                else:
                    self._connection.executemany(PREDICTION, _values(records))
                new = self._connection.total_changes - before
                written = SHADOWED if isinstance(records, Shadowed) else WRITTEN
                outcome[records.model, written] += new
                outcome[records.model, _dropped(records, "duplicate_id")] += len(records.ids) - new
        return outcome

    def _settle(self, batch: list[Records | Shadowed], outcome: Counter[tuple[str, str]]) -> None:
        with self._lock:
            if not self._queue:  # close() gave up on this batch and has counted it
                return
            for records in batch:
                self._queue.popleft()
                self._waiting_rows -= len(records.ids)
                self._waiting_bytes -= _size_bytes(records)
            for (model, what), rows in outcome.items():
                self._count(model, what, rows)
            if not self._queue:
                self._idle.set()

    def _drop_waiting(self) -> None:
        # The caller holds the lock.
        for records in self._queue:
            self._count(records.model, _dropped(records, "write_failed"), len(records.ids))
        self._queue.clear()
        self._waiting_rows = self._waiting_bytes = 0
        self._idle.set()

    def _disconnect(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error):
                self._connection.close()
        self._connection = None

    def _count(self, model: str, what: str, rows: int) -> None:
        if self._metrics is None or not rows or what == UNCOUNTED:
            return
        if what == SHADOWED:
            self._metrics.shadow_records.labels(model).inc(rows)
        elif what == WRITTEN:
            self._metrics.records.labels(model).inc(rows)
        else:
            self._metrics.records_dropped.labels(model, what).inc(rows)


def _dropped(records: Records | Shadowed, reason: str) -> str:
    # Nobody waits for a challenger's rows; an alert on the log's losses is about the champion's.
    return UNCOUNTED if isinstance(records, Shadowed) else reason


def _size_bytes(records: Records | Shadowed) -> int:
    return records.outputs.nbytes + (0 if isinstance(records, Shadowed) else records.rows.nbytes)


def _shadow_values(records: Shadowed) -> list[tuple[str, float, str, str, str, bytes]]:
    place = (records.time_s, records.model, records.version)
    answers = zip(records.ids, records.predicted, records.outputs, strict=True)
    return [(ident, *place, predicted, outputs.tobytes()) for ident, predicted, outputs in answers]


def _values(records: Records) -> list[tuple[str, float, str, str, str, bytes, bytes]]:
    place = (records.time_s, records.model, records.version)
    return [
        (ident, *place, predicted, outputs.tobytes(), row.tobytes())
        for ident, predicted, outputs, row in zip(
            records.ids, records.predicted, records.outputs, records.rows, strict=True
        )
    ]
