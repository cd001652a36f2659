"""The prediction log: what was asked and answered, and the truth that came later, in one SQLite file.

Writing never delays an answer: batches wait in a bounded queue for one writer thread, and what does
not fit or cannot be written is dropped and counted. A killed process loses no committed row.
"""

import logging
import sqlite3
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from monitoring.metrics import ServingMetrics
from registry.errors import RequestError

log = logging.getLogger(__name__)

COMMIT_S = 0.2
RETRY_S = 1.0
BUSY_S = 5.0
SCHEMA = """
CREATE TABLE IF NOT EXISTS predictions(
  seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, time_s REAL NOT NULL,
  model TEXT NOT NULL, version TEXT NOT NULL, predicted TEXT NOT NULL, probabilities BLOB NOT NULL, row BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS predictions_time ON predictions(model, time_s);
CREATE TABLE IF NOT EXISTS labels(
  seq INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL, time_s REAL NOT NULL, label TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS labels_id ON labels(id);
"""
PREDICTION = (
    "INSERT OR IGNORE INTO predictions(id, time_s, model, version, predicted, probabilities, row) "
    "VALUES (?, ?, ?, ?, ?, ?, ?)"
)
LABEL = "INSERT INTO labels(id, time_s, label) VALUES (?, ?, ?)"


@dataclass(frozen=True)
class Records:
    """One answered request. ids, predicted (class names): n; probabilities: float32 (n, classes); rows: (n, *shape)."""

    model: str
    version: str
    time_s: float
    ids: list[str]
    predicted: list[str]
    probabilities: np.ndarray
    rows: np.ndarray


def connect(path: Path) -> sqlite3.Connection:
    """Open the log, made if absent. Write-ahead logging: readers and one writer do not wait for each other.

    Raises sqlite3.Error or OSError if the place cannot be written or holds something else.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=BUSY_S, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.executescript(SCHEMA)
    except sqlite3.Error:
        connection.close()
        raise
    return connection


def add_labels(connection: sqlite3.Connection, pairs: Sequence[tuple[str, str]]) -> int:
    """Append (id, class) pairs; they are committed when this returns."""
    now = time.time()
    with connection:
        connection.executemany(LABEL, [(ident, now, label) for ident, label in pairs])
    return len(pairs)


class Recorder:
    """Writes the log of one service process."""

    def __init__(self, path: Path, limit_rows: int = 20_000, metrics: ServingMetrics | None = None) -> None:
        """limit_rows: the most that may wait for the writer."""
        self._path = path
        self._limit_rows = limit_rows
        self._metrics = metrics
        self._queue: deque[Records] = deque()
        self._waiting_rows = 0
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self._closing = False
        self._connection: sqlite3.Connection | None = None
        self._writer = threading.Thread(target=self._write_on, name="recorder", daemon=True)
        self._writer.start()

    def put(self, records: Records) -> None:
        """Hand a batch to the writer and return at once; a batch that does not fit is dropped and counted."""
        rows = len(records.ids)
        with self._lock:
            fits = self._waiting_rows + rows <= self._limit_rows
            if fits:
                self._queue.append(records)
                self._waiting_rows += rows
                self._idle.clear()
        if not fits:
            self._dropped(records.model, "queue_full", rows)

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
            raise RequestError(f"{place}; send them again later", reason="log_failed", status=503) from error

    def flush(self, timeout_s: float = 10.0) -> bool:
        """Wait until what was put is written or dropped; returns whether that happened in time."""
        self._wake.set()
        return self._idle.wait(timeout_s)

    def close(self) -> None:
        """Write what is waiting and stop the writer."""
        self._closing = True
        self._wake.set()
        self._writer.join(timeout=10.0)

    def _write_on(self) -> None:
        while not (self._closing and not self._queue):
            self._wake.wait(COMMIT_S)
            self._wake.clear()
            batch = list(self._queue)
            if batch and not self._try(batch):
                if self._closing:
                    self._forget(batch)
                self._wake.wait(RETRY_S)
        if self._connection is not None:
            self._connection.close()

    def _try(self, batch: list[Records]) -> bool:
        # On failure the batch stays in the queue: it is written when the disk recovers, and what no longer
        # fits meanwhile is dropped at the door.
        try:
            written, repeated = self._insert(batch)
        except (sqlite3.Error, OSError) as error:
            log.warning("prediction_log_not_written", extra={"error": str(error)})
            if self._connection is not None:
                self._connection.close()
            self._connection = None
            return False
        self._forget(batch, written=written)
        for model, rows in repeated.items():
            self._dropped(model, "duplicate_id", rows)
        return True

    def _insert(self, batch: list[Records]) -> tuple[Counter[str], Counter[str]]:
        if self._connection is None:
            self._connection = connect(self._path)
        written: Counter[str] = Counter()
        repeated: Counter[str] = Counter()
        with self._connection:
            for records in batch:
                before = self._connection.total_changes
                self._connection.executemany(PREDICTION, _values(records))
                new = self._connection.total_changes - before
                written[records.model] += new
                repeated[records.model] += len(records.ids) - new
        return written, repeated

    def _forget(self, batch: list[Records], written: Counter[str] | None = None) -> None:
        with self._lock:
            for records in batch:
                self._queue.popleft()
                self._waiting_rows -= len(records.ids)
                if written is None:
                    self._dropped(records.model, "write_failed", len(records.ids))
            if not self._queue:
                self._idle.set()
        if self._metrics is not None and written:
            for model, rows in written.items():
                self._metrics.records.labels(model).inc(rows)

    def _dropped(self, model: str, reason: str, rows: int) -> None:
        if self._metrics is not None and rows:
            self._metrics.records_dropped.labels(model, reason).inc(rows)


def _values(records: Records) -> list[tuple[str, float, str, str, str, bytes, bytes]]:
    place = (records.time_s, records.model, records.version)
    return [
        (ident, *place, predicted, probabilities.tobytes(), row.tobytes())
        for ident, predicted, probabilities, row in zip(
            records.ids, records.predicted, records.probabilities, records.rows, strict=True
        )
    ]
