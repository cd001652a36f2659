"""Rows from many requests -> one run of the model. No timer and no polling.

What arrives in one turn of the event loop, or while the model is busy, is the next batch. A batch
expected to be short runs on the loop itself, since a hop to a thread would cost more than it saves. A model of
which one run there took far longer gets the thread from then on: what was measured at load does not hold for it.
"""

import asyncio
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import onnxruntime

from registry.errors import RequestError
from serving.engine import Engine, Stopped
from serving.sessions import INLINE_S
from serving.watchdog import Due, Inline
from serving.wire.rows import finite

log = logging.getLogger(__name__)


class Job:
    """One request in the queue; `done` is called once, on the event loop, when `answers` or `error` is there.

    rows: (n, *shape). outputs: names of graph outputs wanted besides the main one. deadline, since: on the
    clock of `time.perf_counter`. answers: by name of output, (n, ...). finite: whether all rows of the run
    had finite answers. Seconds waited for the run, and the run itself took. gone: set by whoever waited and
    waits no more; such a job is not run. all_gone: of a job that several wait for, asked when its turn has come.
    """

    __slots__ = (
        "rows", "outputs", "deadline", "since", "done", "answers", "error", "finite", "queue_s", "infer_s", "settled",
        "gone", "all_gone",
    )  # fmt: skip

    def __init__(self, rows: np.ndarray, done: "Callable[[Any], None]", outputs: tuple[str, ...] = ()) -> None:
        self.rows = rows
        self.done = done
        self.outputs = outputs
        self.deadline = math.inf
        self.since = time.perf_counter()
        self.answers: dict[str, np.ndarray] = {}
        self.error: Exception | None = None
        self.finite = True
        self.queue_s = self.infer_s = 0.0
        self.settled = self.gone = False
        self.all_gone: Callable[[], bool] | None = None

    def settle(self, error: Exception | None = None) -> None:
        """Say that this job has its answer, or `error`; what comes after the first time is ignored."""
        if not self.settled:
            self.settled = True
            self.error = error
            self.done(self)


class Batcher:
    """The queue in front of one engine. Use from one event loop only."""

    def __init__(
        self,
        engine: Engine,
        outputs: tuple[str, ...],
        max_batch_rows: int,
        observe: Callable[[int], None],
        inline: Inline | None = None,
    ) -> None:
        """outputs: what every job gets, the main one first. observe: called with the rows of each run.

        inline: where the watchdog of the worker sees the runs on the loop; None: none looks.
        """
        self._engine = engine
        self._main, *also = outputs
        self._every = (self._main, *sorted({*also} - {self._main}))
        self._max_batch_rows = max_batch_rows
        self._observe = observe
        self._inline = inline or Inline()
        self._keeps_time = True
        self._waiting: deque[Job] = deque()
        self._waiting_rows = 0
        self._busy_until = 0.0
        self._busy = False
        self._closing = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="infer")

    @property
    def idle(self) -> bool:
        return not self._busy

    def expected_wait_s(self) -> float:
        """Return about how long a job that comes now waits for its own run."""
        if not self._busy:
            return 0.0
        running = max(0.0, self._busy_until - time.perf_counter())
        full, rest = divmod(self._waiting_rows, self._max_batch_rows)
        ahead = full * self._engine.expected_s(self._max_batch_rows)
        return running + ahead + (self._engine.expected_s(rest) if rest else 0.0)

    def submit(self, job: Job, turn_over: bool = False) -> None:
        """Put `job` into the queue; an error of the model concerns this job alone.

        turn_over: all that comes in this turn of the loop is here, so that it may be run at once.
        """
        self._waiting.append(job)
        self._waiting_rows += len(job.rows)
        if not self._busy:
            self._busy = True
            if self._loop is None:
                self._loop = asyncio.get_running_loop()
            if turn_over:
                self._next()
            else:
                self._loop.call_soon(self._next)

    def run_now(self, job: Job) -> bool:
        """Run `job` on the loop at once, if nothing waits, its run is expected to be short and its time is not over.

        False: submit it. True: it has its answers or its error, and is not settled. All that comes in this turn of the
        loop is to be in it.
        """
        rows = len(job.rows)
        waits = self._busy or job.deadline <= job.since
        if waits or not self._keeps_time or self._engine.expected_s(rows) >= INLINE_S:
            return False
        self._busy = True
        stopped = self._run_inline([job])
        self._rest()
        if not stopped:
            self._observe(rows)
        return not stopped

    def close(self) -> None:
        """Release the thread once every job that was submitted has its answer."""
        self._closing = True
        if not self._busy:
            self._thread.shutdown(wait=False)

    def _next(self) -> None:
        batch, rows = self._take()
        if not batch:
            self._rest()
            return
        self._observe(rows)
        expected_s = self._engine.expected_s(rows)
        if expected_s >= INLINE_S or not self._keeps_time:
            self._run_in_thread(batch, expected_s)
            return
        stopped = self._run_inline(batch)
        _deliver([job for job in batch if job not in stopped] if stopped else batch)
        if stopped:
            self._run_in_thread(stopped, expected_s)
        elif self._waiting:
            (self._loop or asyncio.get_running_loop()).call_soon(self._next)
        else:
            self._rest()

    def _run_inline(self, batch: list[Job]) -> list[Job]:
        # Returns those whose run was stopped, since it took far longer than expected: they must be run again.
        inline = self._inline
        self._run(batch, inline)
        if not inline.stopped:
            return []
        inline.renew()
        stopped = [job for job in batch if isinstance(job.error, Stopped)]
        if stopped:
            self._keeps_time = False
            log.warning("runs_leave_the_loop", extra={"since": str(stopped[0].error)})
        for job in stopped:
            job.error = None
        return stopped

    def _run_in_thread(self, batch: list[Job], expected_s: float) -> None:
        loop = self._loop or asyncio.get_running_loop()
        self._busy_until = time.perf_counter() + expected_s
        watch = _Watch(loop, batch)
        run = loop.run_in_executor(self._thread, self._run, batch, watch)
        run.add_done_callback(lambda done: self._finish(batch, watch, done))

    def _rest(self) -> None:
        self._busy = False
        if self._closing:
            self._thread.shutdown(wait=False)

    def _finish(self, batch: list[Job], watch: "_Watch", done: "asyncio.Future[None]") -> None:
        watch.stop()
        self._next()  # first: the model should not wait for answers to be written
        done.result()
        _deliver(batch)

    def _take(self) -> tuple[list[Job], int]:
        batch: list[Job] = []
        rows = 0
        waiting = self._waiting
        now = time.perf_counter() if waiting else 0.0
        while waiting and (not batch or rows + len(waiting[0].rows) <= self._max_batch_rows):
            first = waiting.popleft()
            self._waiting_rows -= len(first.rows)
            if first.gone or (first.all_gone is not None and first.all_gone()):
                _settle(first, RequestError("the client went away", reason="client_gone", status=503))
            elif first.deadline <= now:
                _settle(first, late())
            else:
                batch.append(first)
                rows += len(first.rows)
        return batch, rows

    def _run(self, batch: list[Job], watched: "Inline | _Watch") -> None:
        # May be in the thread: it fills the jobs in and settles none of them.
        watched.running = batch
        try:
            self._run_together(batch, watched.options)
        except Exception as error:  # ONNX Runtime raises many types; find out whose rows they are
            if len(batch) == 1 or (watched.options is not None and watched.options.terminate):
                for job in batch:
                    job.error = job.error or error  # one that is late has its error
                return
            for job in batch:
                self._run([job], watched)
        finally:
            watched.running = None

    def _run_together(self, batch: list[Job], options: onnxruntime.RunOptions | None) -> None:
        start = time.perf_counter()
        names = self._names(batch)
        if len(batch) == 1:
            job = batch[0]
            outputs = self._engine.run(job.rows, names, options)
            job.infer_s, job.queue_s = time.perf_counter() - start, start - job.since
            job.answers = dict(zip(names, outputs, strict=True))
            job.finite = finite(outputs[0])
            return
        outputs = self._engine.run(self._engine.join([job.rows for job in batch]), names, options)
        took, whole, at = time.perf_counter() - start, finite(outputs[0]), 0
        several, main, first = len(names) > 1, names[0], outputs[0]
        for job in batch:
            end = at + len(job.rows)
            job.answers = {main: first[at:end]}
            if several:
                job.answers |= {name: output[at:end] for name, output in zip(names, outputs, strict=True)}
            job.queue_s, job.infer_s, job.finite, at = start - job.since, took, whole, end

    def _names(self, batch: list[Job]) -> tuple[str, ...]:
        asked = {name for job in batch if job.outputs for name in job.outputs}
        return (self._main, *sorted(asked.union(self._every) - {self._main})) if asked else self._every


class _Watch:
    """Answers the jobs of a run as their time runs out, and stops the run when it was the last one's."""

    def __init__(self, loop: asyncio.AbstractEventLoop, batch: list[Job]) -> None:
        self.options = onnxruntime.RunOptions()
        self.running: Sequence[Due] | None = None
        self._loop = loop
        self._batch = batch
        self._timer: asyncio.TimerHandle | None = None
        self._look()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        now = time.perf_counter()
        for job in self._batch:
            if job.deadline <= now:
                _settle(job, late())
        left = [job.deadline for job in self._batch if not job.settled]
        if not left:
            self.options.terminate = True
        elif math.isfinite(min(left)):
            self._timer = self._loop.call_later(max(0.001, min(left) - now), self._look)


def late() -> RequestError:
    """Return the error of a request whose time ran out."""
    return RequestError("the deadline passed before the model answered; retry later", reason="deadline", status=503)


def _deliver(batch: list[Job]) -> None:
    for job in batch:
        _settle(job, job.error)


def _settle(job: Job, error: Exception | None) -> None:
    try:
        job.settle(error)
    except Exception:  # writing one answer must not cost the others theirs, nor the model its next run
        log.exception("answer_not_delivered")
