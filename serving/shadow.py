"""A challenger answers a share of the champion's requests, and nobody waits for it.

Requests that were answered wait in a bounded queue; one thread runs them in short runs, each begun when the champion
has nothing to do. What does not fit is dropped, what the challenger cannot answer is counted as failed: the champion
notices neither. The thread has the priority of the others: a lower one is kept from the processor also while it holds
the interpreter's lock, and then everyone waits.
"""

import logging
import threading
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from time import perf_counter
from typing import Protocol

import numpy as np
import onnxruntime

from monitoring.log.recorder import Recorder, Records, Shadowed
from monitoring.metrics import ServingMetrics
from registry.release import Release

log = logging.getLogger(__name__)

MOST_ROWS = 4096  # that wait
MOST_BYTES = 64 << 20
RUN_ROWS = 64
RUN_S = 0.005  # of one run, while which the champion may have to share the machine
LOOK_S = 0.002  # between two looks whether the champion is idle
CLOSE_S = 2.0


class Runs(Protocol):
    """What a shadow needs of an engine."""

    def run(
        self, rows: np.ndarray, names: tuple[str, ...] = (), options: onnxruntime.RunOptions | None = None
    ) -> list[np.ndarray]: ...

    def expected_s(self, rows: int) -> float: ...


class Shadow:
    """The challenger `release`, run by `engine`, beside the champion `champion` (its version).

    share: of the requests, may be set at any time. idle: whether the champion has nothing to do; asked from the
    thread of this shadow.
    """

    def __init__(self, release: Release, engine: Runs, champion: str, idle: Callable[[], bool]) -> None:
        self.release = release
        self.champion = champion
        self.share = 0.0
        self._engine = engine
        self._idle = idle
        self._queue: deque[Records] = deque()
        self._rows = self._bytes = 0
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._options = onnxruntime.RunOptions()
        self._options.log_severity_level = 4  # else a failing challenger fills the log of the service
        self._thread = threading.Thread(target=self._work, name="shadow", daemon=True)
        self._recorder: Recorder | None = None
        self._tally: _Tally
        self._failed = False

    def start(self, share: float, metrics: ServingMetrics, recorder: Recorder | None) -> None:
        """Begin to take `share` of the requests; answers are counted, and recorded where the champion's were."""
        self._tally = _Tally(self.release, metrics)
        self._recorder = recorder
        self.share = share
        self._thread.start()

    def stop(self) -> None:
        """End soon, also a run under way, and return at once; what waits is dropped and counted."""
        self.share = 0.0
        self._stopping.set()
        self._options.terminate = True
        with self._changed:
            for records in self._queue:
                self._tally.count("dropped", len(records.ids))
            self._queue.clear()
            self._changed.notify()

    def join(self, timeout_s: float = CLOSE_S) -> bool:
        """Wait for the thread to end after `stop`; returns whether it did."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def samples(self, ident: str) -> bool:
        """Return whether the request `ident` is one of the share: the same in every worker and replica."""
        return zlib.crc32(ident.encode()) < self.share * 4_294_967_296

    def offer(self, records: Records) -> None:
        """Take what the champion answered to requests, once it has gone to the recorder; returns at once."""
        if records.version != self.champion:
            return
        rows, size_bytes = len(records.ids), records.rows.nbytes
        with self._changed:
            fits = self._rows + rows <= MOST_ROWS and self._bytes + size_bytes <= MOST_BYTES
            if fits and not self._stopping.is_set():
                self._queue.append(records)
                self._rows += rows
                self._bytes += size_bytes
                self._changed.notify()
                return
        self._tally.count("dropped", rows)

    def _work(self) -> None:
        while batch := self._take():
            self._answer(batch)

    def _take(self) -> list[Records]:
        # As much as fits one run, or one offer that is larger; none when it is time to end.
        with self._changed:
            while not self._queue and not self._stopping.is_set():
                self._changed.wait()
            batch: list[Records] = []
            rows = 0
            while self._queue and (not batch or rows + len(self._queue[0].ids) <= RUN_ROWS):
                batch.append(self._queue.popleft())
                rows += len(batch[-1].ids)
            self._rows -= rows
            self._bytes -= sum(one.rows.nbytes for one in batch)
        return batch

    def _answer(self, batch: list[Records]) -> None:
        try:
            outputs = self._run(np.concatenate([one.rows for one in batch]))
            ends = np.cumsum([len(one.ids) for one in batch])
            for records, part in zip(batch, np.split(outputs, ends[:-1]), strict=True):
                self._settle(records, part)
        except Exception as error:  # whatever a model or its numbers raise, it ends here
            parts = batch if len(batch) > 1 else _halves(batch[0])
            if len(parts) > 1 and not self._stopping.is_set():  # find out whose rows they are
                for one in parts:
                    self._answer([one])
                return
            outcome = "dropped" if self._stopping.is_set() else "failed"
            self._tally.count(outcome, sum(len(one.ids) for one in batch))
            self._tell(error)

    def _run(self, rows: np.ndarray) -> np.ndarray:
        parts, step = [], self._step()
        for start in range(0, len(rows), step):
            while not self._idle() and not self._stopping.wait(LOOK_S):
                pass
            part = rows[start : start + step]
            since = perf_counter()
            parts.append(self._engine.run(part, (), self._options)[0])
            self._tally.took((perf_counter() - since) / len(part), len(part))
        return np.concatenate(parts)

    def _step(self) -> int:
        # The most rows of a run that is expected to be short.
        step = RUN_ROWS
        while step > 1 and self._engine.expected_s(step) > RUN_S:
            step //= 2
        return step

    def _settle(self, records: Records, outputs: np.ndarray) -> None:
        if outputs.shape != records.outputs.shape or not np.isfinite(outputs).all():
            raise ValueError(f"answers of shape {outputs.shape} that are not all finite numbers of the right shape")
        predicted = self._tally.compare(records, outputs)
        if self._recorder is not None:
            place = (self.release.name, self.release.version, records.time_s)
            self._recorder.put(Shadowed(*place, records.ids, predicted, outputs))

    def _tell(self, error: Exception) -> None:
        if not self._failed and not self._stopping.is_set():  # the first; a counter tells how many follow
            self._failed = True
            log.warning("challenger_failed", exc_info=error, extra={"release": self.release.tag})


def _halves(records: Records) -> list[Records]:
    middle = len(records.ids) // 2
    return [
        replace(
            records, ids=records.ids[part], predicted=records.predicted[part], outputs=records.outputs[part],
            rows=records.rows[part],
        )
        for part in (slice(0, middle), slice(middle, None))
        if records.ids[part]
    ]  # fmt: skip


class _Tally:
    """The counts of one challenger."""

    def __init__(self, release: Release, metrics: ServingMetrics) -> None:
        self._manifest = release.manifest
        self._tolerance = float(release.manifest.quality.get("tolerance", 0.0))
        place = (release.name, release.version)
        self._rows = {what: metrics.shadow_rows.labels(*place, what) for what in ("run", "dropped", "failed")}
        self._agreements = metrics.shadow_agreements.labels(*place)
        self._difference = metrics.shadow_difference.labels(*place)
        self._seconds = metrics.shadow_row_seconds.labels(*place)

    def count(self, what: str, rows: int) -> None:
        self._rows[what].inc(rows)

    def took(self, seconds: float, rows: int) -> None:
        self._seconds.observe(seconds, rows)

    def compare(self, records: Records, outputs: np.ndarray) -> list[str]:
        # Counts how far the challenger agrees; returns what it predicts. A challenge demands the champion's classes.
        classes = self._manifest.classes
        apart = np.abs(outputs - records.outputs, dtype=np.float64).sum(axis=1)
        if classes:
            apart /= 2  # the total variation distance, from 0 to 1: what share of the probability lies elsewhere
            predicted = [classes[k] for k in self._manifest.decide(outputs).tolist()]
            agreeing = sum(map(str.__eq__, predicted, records.predicted))
        else:
            predicted = [repr(value) for value in outputs[:, 0].tolist()]
            agreeing = int((apart <= self._tolerance).sum())
        self._agreements.inc(agreeing)
        self._difference.inc(float(apart.sum()))
        self.count("run", len(predicted))
        return predicted
