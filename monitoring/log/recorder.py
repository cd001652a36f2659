"""Writes the prediction log: what was asked and answered, and the truth that came later, in one SQLite file.

Writing never delays an answer: what is to be written waits in a bounded queue for one thread, and rows that do
not fit or cannot be written are dropped and counted. A killed process loses no committed row.
"""

import contextlib
import logging
import math
import sqlite3
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from monitoring.log import logfile
from monitoring.log.logfile import PREDICTION, SCHEMA, Added, Records, Shadowed, add_labels, connect, size_bytes
from monitoring.log.pseudonym import Pseudonyms
from monitoring.log.retention import Limits, Retention
from monitoring.log.sampling import Bucket, Sampler
from monitoring.metrics import ServingMetrics
from registry.errors import RequestError

__all__ = ["PREDICTION", "SCHEMA", "Added", "Limits", "Recorder", "Records", "Shadowed", "add_labels", "connect"]

log = logging.getLogger(__name__)

COMMIT_S = 0.2
RETRY_S = 1.0
WRITER_BUSY_S = 1.0  # shorter, since the writer comes again: close() waits for two tries, well under CLOSE_S
TIDY_S = 0.1  # at a time, while rows wait
LABEL_S = 4.0  # how long a label waits to be on the log; after 5 s BentoML answers instead, and cannot say why
CLOSE_S = 10.0
MOST_BYTES = 256 << 20  # 20,000 rows of 28 x 28 float32 are 63 MB, of 224 x 224 colour 12 GB
MOST_LABELS = 100_000  # that wait
WRITTEN, SHADOWED, UNCOUNTED = "written", "shadowed", ""


@dataclass(eq=False)
class Labels:
    """Labels that wait, and who is told when they are on the log; unknown: of no row that was there then."""

    pairs: list[tuple[str, str]]
    done: "Future[Added]" = field(default_factory=Future)
    unknown: int = 0


Item = Records | Shadowed | Labels
Outcome = Counter[tuple[str, str]]  # rows by model and by what became of them


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
        *,
        bytes_per_s: float = math.inf,
        pseudonyms: Pseudonyms | None = None,
        keep: Limits | None = None,
    ) -> None:
        """limit_rows, limit_bytes: the most that may wait for the writer. rows_per_s, bytes_per_s: see `sampler`.

        pseudonyms: what ids are known as on the log, None as they came. keep: what is deleted again, None nothing.
        """
        self._path = path
        self._limit_rows = limit_rows
        self._limit_bytes = limit_bytes
        self._metrics = metrics
        self._pseudonyms = pseudonyms
        self._retention = Retention(path, keep or Limits(), metrics)
        self._rows_per_s = rows_per_s
        self._bytes_per_s = bytes_per_s
        self._bucket = Bucket(1.0 if rows_per_s and bytes_per_s else 0.0)  # of seconds
        self._queue: deque[Item] = deque()
        self._waiting_rows = self._waiting_bytes = self._waiting_labels = 0
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._idle = threading.Event()
        self._idle.set()
        self._closing = False
        self._connection: sqlite3.Connection | None = None
        self._failure = "no try has ended yet"
        self._writer = threading.Thread(target=self._write_on, name="recorder", daemon=True)
        self._writer.start()

    def sampler(self, model: str, row_bytes: int = 0) -> Sampler:
        """Return what says, before any work, whether a request is recorded.

        Over all models that is no more than `rows_per_s`, and than `bytes_per_s`: a row takes the share of a second
        of that bound which it uses more of. To be held by the thread that asks it. What it leaves out is no loss,
        and counted apart.

        row_bytes: of a row as it came in, before a policy makes it smaller.
        """
        left_out = (lambda _: None) if self._metrics is None else self._metrics.records_sampled_out.labels(model).inc
        none = self._rows_per_s == 0 or self._bytes_per_s == 0
        share_s = 1.0 if none else max(1 / self._rows_per_s, row_bytes / self._bytes_per_s)
        return Sampler(self._bucket, left_out, share_s)

    def put(self, records: Records | Shadowed) -> None:
        """Hand a batch to the writer and return at once; a batch that does not fit is dropped and counted."""
        rows, size = len(records.ids), size_bytes(records)
        with self._lock:
            fits = self._waiting_rows + rows <= self._limit_rows and self._waiting_bytes + size <= self._limit_bytes
            accepted = fits and not self._closing
            if accepted:
                self._queue.append(records)
                self._waiting_rows += rows
                self._waiting_bytes += size
                self._idle.clear()
        if not accepted:
            self._count(records.model, _dropped(records, "queue_full" if not fits else "write_failed"), rows)

    def send_labels(self, pairs: Sequence[tuple[str, str]]) -> "Future[Added]":
        """Hand labels to the writer and return at once; the future tells how many, when they are on the log.

        It fails with RequestError 503 if they cannot be written; whoever waits for it should do so for LABEL_S, and
        cancel it then. Raises that error if too many wait.
        """
        labels = Labels(list(pairs))
        with self._lock:
            if self._closing or self._waiting_labels + len(pairs) > MOST_LABELS:
                raise self._refused(f"more than {MOST_LABELS} labels wait" if not self._closing else "it is closed")
            self._queue.append(labels)
            self._waiting_labels += len(pairs)
            self._idle.clear()
        self._wake.set()
        return labels.done

    def label(self, pairs: Sequence[tuple[str, str]]) -> Added:
        """Write labels and return how many, and how many of no row on the log; they are on it when this returns.

        Raises RequestError 503 if the log cannot be written.
        """
        done = self.send_labels(pairs)
        try:
            return done.result(LABEL_S)
        except TimeoutError:
            done.cancel()
            raise self.late() from None

    def late(self) -> RequestError:
        """Return why labels are not on the log after LABEL_S."""
        return self._refused(self._failure)

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
                self._tidy()
                continue
            if last:
                with self._lock:
                    self._drop_waiting()
            elif not self._closing:
                self._wake.wait(RETRY_S)
        self._disconnect()

    def _tidy(self) -> None:
        # Small steps, since rows wait meanwhile.
        until_s = time.monotonic() + TIDY_S
        try:
            while not self._closing and self._retention.due and self._path.exists():
                if self._connection is None:
                    self._connection = self._open()
                if not self._retention.step(self._connection) or (self._queue and time.monotonic() > until_s):
                    return
        except (sqlite3.Error, OSError) as error:
            log.warning("prediction_log_not_tidied", extra={"path": str(self._path), "error": str(error)})
            self._disconnect()

    def _try(self, batch: list[Item]) -> bool:
        # On failure rows stay in the queue: they are written when the disk recovers, and what no longer fits
        # meanwhile is dropped at the door. Labels stay while another writer is at work: their sender waits.
        try:
            outcome = self._insert(batch)
        except (sqlite3.Error, OSError) as error:
            self._failure = str(error)
            log.warning("prediction_log_not_written", extra={"path": str(self._path), "error": str(error)})
            self._disconnect()
            self._give_up_labels(batch, busy=isinstance(error, sqlite3.Error) and _busy(error))
            return False
        except (ValueError, TypeError):  # a row that no disk takes would stop all behind it for good
            log.exception("prediction_log_refused_rows")
            if len(batch) > 1:
                return all(self._try([one]) for one in batch)
            outcome = _refused_rows(batch)
        self._settle(batch, outcome)
        return True

    def _insert(self, batch: list[Item]) -> Outcome:
        if self._connection is None:
            self._connection = self._open()
        outcome: Outcome = Counter()
        with self._connection:
            for item in batch:
                if isinstance(item, Labels):
                    if not item.done.cancelled():
                        named = self._named(item.pairs)
                        item.unknown = logfile.unknown(self._connection, (ident for ident, _ in named))
                        logfile.put_labels(self._connection, named)
                    continue
                ids = [ident for ident, _ in self._named([(ident, "") for ident in item.ids])]
                new = logfile.put(self._connection, item, ids)
                outcome[item.model, SHADOWED if isinstance(item, Shadowed) else WRITTEN] += new
                outcome[item.model, _dropped(item, "duplicate_id")] += len(item.ids) - new
        return outcome

    def _open(self) -> sqlite3.Connection:
        connection = connect(self._path, WRITER_BUSY_S)
        try:
            said = "" if self._pseudonyms is None else self._pseudonyms.fingerprint
            if said or logfile.noted(connection, logfile.IDS):
                logfile.note(connection, logfile.IDS, said)
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def _named(self, pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
        if self._pseudonyms is None:
            return pairs
        return [(self._pseudonyms.ident(ident), said) for ident, said in pairs]

    def _settle(self, batch: list[Item], outcome: Outcome) -> None:
        with self._lock:
            if not self._queue:  # close() gave up on this batch and has counted it
                return
            for item in batch:
                self._queue.remove(item)
                self._forget(item)
                if isinstance(item, Labels) and item.done.set_running_or_notify_cancel():
                    item.done.set_result(Added(len(item.pairs), item.unknown))
            for (model, what), rows in outcome.items():
                self._count(model, what, rows)
            if not self._queue:
                self._idle.set()

    def _give_up_labels(self, batch: list[Item], busy: bool) -> None:
        with self._lock:
            for item in batch:
                if isinstance(item, Labels) and item in self._queue and (not busy or item.done.cancelled()):
                    self._queue.remove(item)
                    self._forget(item)
                    if item.done.set_running_or_notify_cancel():
                        item.done.set_exception(self._refused(self._failure))
            if not self._queue:
                self._idle.set()

    def _forget(self, item: Item) -> None:
        if isinstance(item, Labels):
            self._waiting_labels -= len(item.pairs)
        else:
            self._waiting_rows -= len(item.ids)
            self._waiting_bytes -= size_bytes(item)

    def _drop_waiting(self) -> None:
        # The caller holds the lock.
        for item in self._queue:
            if not isinstance(item, Labels):
                self._count(item.model, _dropped(item, "write_failed"), len(item.ids))
            elif item.done.set_running_or_notify_cancel():
                item.done.set_exception(self._refused(self._failure))
        self._queue.clear()
        self._waiting_rows = self._waiting_bytes = self._waiting_labels = 0
        self._idle.set()

    def _refused(self, why: str) -> RequestError:
        place = f"labels: the log {self._path} cannot be written: {why}"
        cure = "send them again when its disk has space and nothing locks it"
        return RequestError(f"{place}; {cure}", reason="log_failed", status=503)

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


def _busy(error: sqlite3.Error) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _dropped(records: Records | Shadowed, reason: str) -> str:
    # Nobody waits for a challenger's rows; an alert on the log's losses is about the champion's.
    return UNCOUNTED if isinstance(records, Shadowed) else reason


def _refused_rows(batch: list[Item]) -> Outcome:
    rows = [item for item in batch if not isinstance(item, Labels)]
    return Counter({(one.model, _dropped(one, "write_failed")): len(one.ids) for one in rows})
