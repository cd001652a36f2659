"""Rows from many requests -> one run of the model. No timer and no polling.

What arrives in one turn of the event loop, or while the model is busy, is the next batch. A batch
expected to be short runs on the loop itself, since a hop to a thread would cost more than it saves.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from registry.errors import RequestError
from serving.engine import Engine

INLINE_S = 5e-4


@dataclass
class Answer:
    """outputs: as `Engine.run` returns them. Seconds waited for the run, and the run itself took."""

    outputs: np.ndarray
    queue_s: float
    infer_s: float


@dataclass
class _Waiting:
    rows: np.ndarray
    future: "asyncio.Future[Answer]"
    since: float


class Batcher:
    """The queue in front of one engine. Use from one event loop only."""

    def __init__(self, engine: Engine, max_batch_rows: int, observe: Callable[[int], None]) -> None:
        """observe: called with the rows of each run."""
        self._engine = engine
        self._max_batch_rows = max_batch_rows
        self._observe = observe
        self._waiting: deque[_Waiting] = deque()
        self._busy = False
        self._closing = False
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="infer")

    async def submit(self, rows: np.ndarray) -> Answer:
        """Return the answer to `rows` (n, *shape); an error of the model concerns this request alone."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Answer] = loop.create_future()
        self._waiting.append(_Waiting(rows, future, time.perf_counter()))
        if not self._busy:
            self._busy = True
            loop.call_soon(self._next)
        return await future

    def close(self) -> None:
        """Release the thread once every request that was submitted has its answer."""
        self._closing = True
        if not self._busy:
            self._thread.shutdown(wait=False)

    def _next(self) -> None:
        batch = self._take()
        self._busy = bool(batch)
        if not batch:
            if self._closing:
                self._thread.shutdown(wait=False)
            return
        rows = sum(len(w.rows) for w in batch)
        self._observe(rows)
        if self._engine.expected_s(rows) < INLINE_S:
            self._deliver(batch, self._run(batch))
            asyncio.get_running_loop().call_soon(self._next)
        else:
            run = asyncio.get_running_loop().run_in_executor(self._thread, self._run, batch)
            run.add_done_callback(lambda done: self._finish(batch, done))

    def _finish(self, batch: list[_Waiting], done: "asyncio.Future[list[Answer | BaseException]]") -> None:
        self._next()  # first: the model should not wait for answers to be written
        self._deliver(batch, done.result())

    def _take(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        rows = 0
        while self._waiting and (not batch or rows + len(self._waiting[0].rows) <= self._max_batch_rows):
            first = self._waiting.popleft()
            if not first.future.cancelled():  # the client went away
                batch.append(first)
                rows += len(first.rows)
        return batch

    def _run(self, batch: list[_Waiting]) -> "list[Answer | BaseException]":
        try:
            return self._run_together(batch)
        except Exception as error:  # ONNX Runtime raises many types; find out whose rows they are
            if len(batch) == 1:
                return [error]
            return [answer for waiting in batch for answer in self._run([waiting])]

    def _run_together(self, batch: list[_Waiting]) -> "list[Answer | BaseException]":
        start = time.perf_counter()
        rows = batch[0].rows if len(batch) == 1 else np.concatenate([w.rows for w in batch])
        outputs = self._engine.run(rows)[0]
        took = time.perf_counter() - start
        ends = np.cumsum([len(w.rows) for w in batch])
        parts = np.split(outputs, ends[:-1])
        return [Answer(part, start - w.since, took) for w, part in zip(batch, parts, strict=True)]

    @staticmethod
    def _deliver(batch: list[_Waiting], answers: "list[Answer | BaseException]") -> None:
        for waiting, answer in zip(batch, answers, strict=True):
            if waiting.future.cancelled():
                continue
            if isinstance(answer, Answer):
                waiting.future.set_result(answer)
            else:
                waiting.future.set_exception(answer)


class Admission:
    """The bound on rows in flight: what exceeds it is refused at once, before any queue."""

    def __init__(self, limit_rows: int) -> None:
        self.limit_rows = limit_rows
        self.rows = 0

    def enter(self, rows: int) -> None:
        """Take `rows` in, or raise RequestError: 413 for more than ever fit, 503 for more than fit now."""
        if rows > self.limit_rows:
            raise RequestError(
                f"rows: {rows} in one request, at most {self.limit_rows} are accepted; send several requests",
                reason="too_many",
                status=413,
            )
        if self.rows + rows > self.limit_rows:
            raise RequestError(
                f"{self.rows} rows are in flight, {rows} more would pass the limit of {self.limit_rows}; retry later",
                reason="queue_full",
                status=503,
            )
        self.rows += rows

    def leave(self, rows: int) -> None:
        """Let `rows` out, answered or failed."""
        self.rows -= rows
