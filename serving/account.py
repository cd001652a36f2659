"""What is done once a client has its answer: counts, signals, the prediction log. In bulk, never one by one.

Requests and rows are counted at once, so that a killed process has lost none of them. The rest waits for
`BULK_REQUESTS`, or `LATEST_S`, and is then worked off with a few operations on whole arrays.
"""

import asyncio
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from monitoring.counting.counts import CounterChild
from monitoring.log.recorder import Recorder, Records
from monitoring.metrics import ServingMetrics
from registry.errors import RequestError
from serving.wire.rows import layout_of

if TYPE_CHECKING:
    from serving.host import Served
    from serving.predict import Prediction

BULK_REQUESTS = 256
BULK_ROWS = 1024
BULK_BYTES = 2_000_000
LATEST_S = 0.1
STAGES = ("decode", "queue", "infer", "encode")


class Account:
    """Takes what was answered; use from one event loop only."""

    def __init__(self, metrics: ServingMetrics, recorder: Recorder | None) -> None:
        self._metrics = metrics
        self._recorder = recorder
        self._ledgers: dict[Served, Ledger] = {}
        self._replies: dict[tuple[str, int], tuple[CounterChild, list[float]]] = {}
        self._armed = False
        self.muted = False  # while the service tries itself

    def refused(self, model: str, error: RequestError) -> None:
        """Count a request that was not answered, by its reason."""
        if self.muted:
            return
        counter = self._metrics.rejected if error.status in (429, 503) else self._metrics.invalid_rows
        counter.labels(model, error.reason).inc()

    def replied(self, route: str, status: int, seconds: float) -> None:
        """Count a reply that went out `seconds` after its request had come in."""
        self.replied_all(route, status, [seconds])

    def replied_all(self, route: str, status: int, seconds: list[float]) -> None:
        """Count replies that went out together."""
        if self.muted:
            return
        try:
            counter, waiting = self._replies[route, status]
        except KeyError:
            counter, waiting = self._metrics.requests.labels(route, str(status)), []
            self._replies[route, status] = counter, waiting
        counter.inc(len(seconds))
        waiting += seconds
        if not self._armed:
            self._armed = True
            asyncio.get_running_loop().call_later(LATEST_S, self._late)
        elif len(waiting) >= BULK_REQUESTS:
            self._metrics.request_seconds.labels(route).observe_all(waiting)
            waiting.clear()

    def add(self, prediction: "Prediction") -> None:
        """Take a prediction that was answered."""
        served = prediction.served
        try:
            ledger = self._ledgers[served]
        except KeyError:
            ledger = self._ledgers[served] = Ledger(self._metrics, self._recorder, served)
        ledger.add(prediction)

    def settle(self) -> None:
        """Work off what is waiting."""
        for (route, _), (_, waiting) in self._replies.items():
            if waiting:
                self._metrics.request_seconds.labels(route).observe_all(waiting)
                waiting.clear()
        for served, ledger in list(self._ledgers.items()):
            ledger.settle()
            if ledger.idle:  # of a release that may be gone
                served.tally.flush()
                del self._ledgers[served]

    def _late(self) -> None:
        self._armed = False
        self.settle()
        for served in self._ledgers:  # what a worker holds back is missing when another one is scraped
            served.tally.flush()


class Ledger:
    """What was answered by one release and is not worked off.

    idle: nothing came between the last two times that it was.
    """

    def __init__(self, metrics: ServingMetrics, recorder: Recorder | None, served: "Served") -> None:
        release = served.release
        self._place = release.name, release.version
        self._metrics = metrics
        self._recorder = recorder
        row_bytes = layout_of(release).row_bytes
        self._wants = recorder.sampler(release.name, row_bytes).wants if recorder is not None else None
        self._served = served
        self._manifest = release.manifest
        self._main = release.manifest.output
        self._redaction = served.redaction
        self._answered = metrics.input_rows.labels(*self._place)
        stages = [metrics.stage_seconds.labels(*self._place, stage) for stage in STAGES]
        self._decode, self._queue, self._infer, self._encode = stages
        self._most_rows = max(1, min(BULK_ROWS, BULK_BYTES // row_bytes))
        self._waiting: list[Prediction] = []
        self._rows = 0
        self.idle = False

    def add(self, prediction: "Prediction") -> None:
        """Count the rows at once, and work off what is waiting when it is much."""
        rows = len(prediction.rows)
        self._answered.inc(rows)
        self._waiting.append(prediction)
        self._rows += rows
        if self._rows >= self._most_rows or len(self._waiting) >= BULK_REQUESTS:
            self.settle()

    def settle(self) -> None:
        """Work off what is waiting."""
        waiting, rows = self._waiting, self._rows
        self.idle = not waiting
        if not waiting:
            return
        self._waiting, self._rows = [], 0
        requests = [len(one.idents) for one in waiting]
        self._decode.observe_all([one.decode_s for one in waiting], requests)
        self._queue.observe_all([one.queue_s for one in waiting], requests)
        self._infer.observe_all([one.infer_s for one in waiting], requests)
        self._encode.observe_all([one.encode_s for one in waiting], requests)
        outputs = np.concatenate([one.answers[self._main] for one in waiting])
        bulk = Bulk(waiting, outputs, self._count_classes(outputs), time.time())
        if self._served.tally.wants(rows):
            more = [np.concatenate([one.answers[name] for one in waiting]) for name in self._served.reference.watched]
            self._served.tally.add(bulk.rows, outputs, *more)
        wants, sizes = self._wants, bulk.sizes
        taken = [True] * len(sizes) if wants is None else [wants(rows) for rows in sizes]
        if self._recorder is not None and (recorded := self._part(bulk, taken)) is not None:
            self._recorder.put(recorded)
        shadow = waiting[0].plan.host.challenger.shadow  # of one release, they are of one host
        if shadow is not None:
            # Of what is recorded: a row without the champion's answer on the log can never be judged.
            idents = [ident for one in waiting for ident in one.idents]
            sampled = [kept and shadow.samples(ident) for kept, ident in zip(taken, idents, strict=True)]
            if (offered := self._part(bulk, sampled)) is not None:
                shadow.offer(offered)

    def _count_classes(self, outputs: np.ndarray) -> np.ndarray | None:
        classes = self._manifest.classes
        if not classes:
            return None
        decided = self._manifest.decide(outputs)
        for k, count in enumerate(np.bincount(decided, minlength=len(classes)).tolist()):
            if count:
                self._metrics.predictions.labels(*self._place, classes[k]).inc(count)
        return decided

    def _part(self, bulk: "Bulk", taken: list[bool]) -> Records | None:
        # The rows of the requests that are taken, without what else was in the bulk: who gets them may keep them.
        if not any(taken):
            return None
        kept = np.repeat(taken, bulk.sizes)
        outputs = bulk.outputs[kept]
        if bulk.decided is None:
            predicted = [repr(value) for value in outputs[:, 0].tolist()]
        else:
            predicted = [self._manifest.classes[k] for k in bulk.decided[kept].tolist()]
        rows, ids = bulk.part(taken), bulk.ids(taken)
        return Records(*self._place, bulk.time_s, ids, predicted, outputs, rows, self._redaction)


@dataclass(frozen=True)
class Bulk:
    """Requests that are worked off together.

    outputs: (n, ...) of all of them. decided: the class of each row, None in a regression.
    time_s: the Unix time that all of them are recorded with, by which a challenger's answers find the champion's.
    """

    predictions: "list[Prediction]"
    outputs: np.ndarray
    decided: np.ndarray | None
    time_s: float

    @cached_property
    def rows(self) -> np.ndarray:
        """All rows, (n, *shape), copied only if somebody wants them: large ones are most of the cost."""
        return np.concatenate([one.rows for one in self.predictions])

    @property
    def sizes(self) -> list[int]:
        """Return the rows of each request."""
        return [size for one in self.predictions for size in one.sizes]

    def part(self, taken: list[bool]) -> np.ndarray:
        """Return a copy of the rows of the requests that are taken, of which there is one at least."""
        if all(taken):
            return self.rows
        parts = [
            one.rows if all(of_one) else one.rows[np.repeat(of_one, one.sizes)]
            for one, of_one in self._by_prediction(taken)
            if any(of_one)
        ]
        return np.concatenate(parts)

    def ids(self, taken: list[bool]) -> list[str]:
        """Return the id of each row of the requests that are taken."""
        return [ident for one, of_one in self._by_prediction(taken) if any(of_one) for ident in one.row_ids(of_one)]

    def _by_prediction(self, taken: list[bool]) -> "Iterator[tuple[Prediction, list[bool]]]":
        wants = iter(taken)
        return ((one, list(islice(wants, len(one.sizes)))) for one in self.predictions)
