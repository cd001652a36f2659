"""What is done once a client has its answer: counts, signals, the prediction log. In bulk, never one by one.

Requests and rows are counted at once, so that a killed process has lost none of them. The rest waits for
`BULK_REQUESTS`, or `LATEST_S`, and is then worked off with a few operations on whole arrays.
"""

import asyncio
import time
from collections import defaultdict
from dataclasses import replace
from itertools import compress
from typing import TYPE_CHECKING

import numpy as np

from monitoring.metrics import ServingMetrics
from monitoring.recorder import Recorder, Records
from registry.errors import RequestError
from serving import wire
from serving.host import Served

if TYPE_CHECKING:
    from serving.predict import Prediction

BULK_REQUESTS = 128
BULK_ROWS = 512
LATEST_S = 0.1
STAGES = ("decode", "queue", "infer", "encode")


class Account:
    """Takes what was answered; use from one event loop only."""

    def __init__(self, metrics: ServingMetrics, recorder: Recorder | None) -> None:
        self._metrics = metrics
        self._recorder = recorder
        self._waiting: list[Prediction] = []
        self._rows = 0
        self._seconds: defaultdict[str, list[float]] = defaultdict(list)
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
        if self.muted:
            return
        self._metrics.requests.labels(route, str(status)).inc()
        self._seconds[route].append(seconds)
        self._arm()

    def add(self, prediction: "Prediction") -> None:
        """Take a prediction that was answered."""
        served = prediction.served
        self._metrics.input_rows.labels(served.release.name, served.release.version).inc(len(prediction.rows))
        self._waiting.append(prediction)
        self._rows += len(prediction.rows)
        if len(self._waiting) >= BULK_REQUESTS or self._rows >= BULK_ROWS:
            self.settle()

    def settle(self) -> None:
        """Work off what is waiting."""
        waiting, self._waiting, self._rows = self._waiting, [], 0
        by_release: defaultdict[Served, list[Prediction]] = defaultdict(list)
        for prediction in waiting:
            by_release[prediction.served].append(prediction)
        for served, predictions in by_release.items():
            self._settle_release(served, predictions)
        for route, seconds in self._seconds.items():
            histogram = self._metrics.request_seconds.labels(route)
            for one in seconds:
                histogram.observe(one)
        self._seconds.clear()

    def _arm(self) -> None:
        if not self._armed:
            self._armed = True
            asyncio.get_running_loop().call_later(LATEST_S, self._late)

    def _late(self) -> None:
        self._armed = False
        self.settle()

    def _settle_release(self, served: Served, predictions: "list[Prediction]") -> None:
        release = served.release
        place = (release.name, release.version)
        for stage in STAGES:
            histogram = self._metrics.stage_seconds.labels(*place, stage)
            for one in predictions:
                histogram.observe(getattr(one, f"{stage}_s"))
        rows = np.concatenate([one.rows for one in predictions])
        outputs = np.concatenate([one.answers[release.manifest.output] for one in predictions])
        served.tally.add(rows, outputs)
        predicted = self._predicted(served, outputs)
        answered = Records(*place, time.time(), [], predicted, outputs, rows)
        if self._recorder is not None:
            wants = self._recorder.sampler(release.name).wants
            if (recorded := _part(answered, predictions, [wants(len(one.rows)) for one in predictions])) is not None:
                self._recorder.put(recorded)
        shadow = predictions[0].plan.host.challenger.shadow  # of one release, they are of one host
        if shadow is not None:
            samples = shadow.samples
            if (offered := _part(answered, predictions, [samples(one.ident) for one in predictions])) is not None:
                shadow.offer(offered)

    def _predicted(self, served: Served, outputs: np.ndarray) -> list[str]:
        manifest, place = served.release.manifest, (served.release.name, served.release.version)
        if not manifest.classes:
            return [repr(value) for value in outputs[:, 0].tolist()]
        decided = manifest.decide(outputs)
        for k, count in enumerate(np.bincount(decided, minlength=len(manifest.classes)).tolist()):
            if count:
                self._metrics.predictions.labels(*place, manifest.classes[k]).inc(count)
        return [manifest.classes[k] for k in decided.tolist()]


def _part(answered: Records, predictions: "list[Prediction]", taken: list[bool]) -> Records | None:
    # The rows of the requests that are taken, with their ids.
    if not any(taken):
        return None
    ids = [ident for one in compress(predictions, taken) for ident in wire.ids_of(one.request, one.ident)]
    kept = np.repeat(taken, [len(one.rows) for one in predictions])
    predicted = list(compress(answered.predicted, kept))
    return replace(answered, ids=ids, predicted=predicted, outputs=answered.outputs[kept], rows=answered.rows[kept])
