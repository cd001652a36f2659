"""The one path of a prediction, whichever lane it came by: decode, admit, queue and run, encode, account."""

import logging
import math
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import compress

import numpy as np
import orjson

from registry.errors import RequestError
from serving import wire
from serving.account import STAGES, Account
from serving.batcher import Job, late
from serving.host import Host, Served
from serving.http import Call, Head, Reply
from serving.settings import Settings
from serving.tracing import Tracer

log = logging.getLogger(__name__)

IDENT = re.compile(rb"[\x21-\x7e]{1,128}")
SECONDS = re.compile(rb"\d{1,6}(?:\.\d{1,6})?")


@dataclass(frozen=True, slots=True)
class Plan:
    """All that the head of a request decides: a lane that sees the same head again need not look again.

    route: the label of its metrics. version: "" is the live one. ident: what the client called the request.
    """

    head: Head
    route: str
    host: Host
    codec: wire.Codec
    version: str
    ident: str | None
    timeout_s: float


class Prediction(Job):
    """A request on its way through the queue, or several that are as one: their rows lie one after the other.

    requests: each of them; or one alone that has the rows of all, where they differ in nothing else. sizes, idents:
    the rows of each, and what it goes by. Seconds per request.
    """

    __slots__ = ("plan", "served", "requests", "sizes", "idents", "reply", "started", "decode_s", "encode_s")

    def __init__(
        self,
        plan: Plan,
        served: Served,
        requests: list[wire.Request],
        outputs: tuple[str, ...],
        done: "Callable[[Prediction], None]",
    ) -> None:
        several = len(requests) > 1
        super().__init__(np.concatenate([r.rows for r in requests]) if several else requests[0].rows, done, outputs)
        self.plan = plan
        self.served = served
        self.requests = requests
        self.encode_s = 0.0
        self.sizes: list[int]
        self.reply: Callable[[Reply], None]
        self.idents: list[str]
        self.started: float
        self.decode_s: float

    def asked(self) -> wire.Asked:
        """Return the requests as those who write answers see them."""
        return wire.Asked(self.requests, self.idents, self.sizes)

    def row_ids(self, taken: list[bool]) -> list[str]:
        """Return the id of each row of the requests that are `taken`."""
        if len(self.requests) == len(self.idents):
            asked = compress(zip(self.requests, self.idents, strict=True), taken)
            return [one for request, ident in asked for one in wire.ids_of(request, ident)]
        asked_as_one = compress(zip(self.idents, self.sizes, strict=True), taken)
        return [f"{ident}-{i}" for ident, size in asked_as_one for i in range(size)]


Done = Callable[[Prediction], None]
Gone = Callable[[], bool]


class Predictor:
    """Answers predictions; use from one event loop only."""

    def __init__(self, settings: Settings, account: Account, tracer: Tracer | None = None) -> None:
        self._longest_s = settings.timeout_s
        self._hidden = settings.hidden
        self._tracer = tracer
        self._account = account
        self._stem = os.urandom(8).hex()
        self._number = 0

    def plan(self, head: Head, route: str, host: Host, version: str = "") -> Plan:
        """Return what `head` decides; raises RequestError for a content type or a time nobody can use."""
        return Plan(head, route, host, wire.codec_of(head), version, ident_of(head), self._timeout_s(head))

    def begin(self, plan: Plan, body: bytes, reply: Callable[[Reply], None], at: float | None = None) -> Prediction:
        """Put a request into the queue; `reply` is called once with the answer, or why there is none.

        at: when the request was here, on the clock of `time.perf_counter`; None is now. Raises RequestError, counted,
        when it is refused before the queue. Set `gone` on what is returned when the client went away.
        """
        begun = time.perf_counter()
        started = begun if at is None else at
        host = plan.host
        try:
            served = host.serving(plan.version)
            request = plan.codec.decode(Call(plan.head, body), served.release)
            outputs = wire.wanted(request, served.engine.outputs)
            prediction = Prediction(plan, served, [request], outputs, self._finish)
            prediction.deadline = started + plan.timeout_s
            if served.batcher.expected_wait_s() > plan.timeout_s:
                raise late()
            host.admission.enter(len(request.rows))
        except RequestError as error:
            self._account.refused(host.name, error)
            raise
        prediction.started = started
        prediction.reply = reply
        prediction.sizes = [len(request.rows)]
        prediction.idents = [request.ident or plan.ident or self._idents(1)[0]]
        prediction.decode_s = prediction.since - begun
        served.batcher.submit(prediction)
        return prediction

    def joined(self, plan: Plan, bodies: list[bytes], at: float, done: Done) -> Prediction:
        """Return requests with one head, and bodies of one size, as one; see `run_now` and `submit`.

        The bodies are such that one after the other they are a body too. at: when the first of them was here. done:
        called once when it was submitted. Raises RequestError, uncounted, if any of them would be refused.
        """
        begun = time.perf_counter()
        served = plan.host.serving(plan.version)
        request = plan.codec.decode(Call(plan.head, b"".join(bodies)), served.release)
        each, left = divmod(len(request.rows), len(bodies))
        if left:
            raise RequestError("these requests do not go together")
        prediction = Prediction(plan, served, [request], (), done)
        prediction.sizes = [each] * len(bodies)
        prediction.idents = self._idents(len(bodies))
        return _timed(prediction, at, begun)

    def several(self, plan: Plan, requests: list[wire.Request], at: float, begun: float, done: Done) -> Prediction:
        """Return requests with one head, decoded for its live release, as one; see `run_now` and `submit`.

        at: when the first of them was here. begun: when decoding began. done: called once when it was submitted.
        Raises RequestError, uncounted.
        """
        served = plan.host.serving(plan.version)
        outputs = wire.wanted(requests[0], served.engine.outputs)
        prediction = Prediction(plan, served, requests, outputs, done)
        prediction.sizes = [len(request.rows) for request in requests]
        new = self._idents(len(requests))
        prediction.idents = [request.ident or ident for request, ident in zip(requests, new, strict=True)]
        return _timed(prediction, at, begun)

    def run_now(self, prediction: Prediction) -> bool:
        """Run it at once and not by the queue, see `Batcher.run_now`; False: submit it."""
        fits = prediction.plan.host.admission.fits(len(prediction.rows))
        return fits and prediction.served.batcher.run_now(prediction)

    def submit(self, prediction: Prediction, gone: Gone) -> None:
        """Put it into the queue; raises RequestError, uncounted, if it would be refused. gone: see `Job.all_gone`."""
        plan, batcher = prediction.plan, prediction.served.batcher
        if batcher.expected_wait_s() > plan.timeout_s:
            raise late()
        plan.host.admission.enter(len(prediction.rows))
        prediction.all_gone = gone
        batcher.submit(prediction, turn_over=True)

    def _idents(self, count: int) -> list[str]:
        # Unique without asking the system each time: a random start, and a number that counts on.
        first, stem = self._number, self._stem
        self._number += count
        return [f"{stem}{number:x}" for number in range(first, first + count)]

    def _finish(self, prediction: Prediction) -> None:
        prediction.plan.host.admission.leave(len(prediction.rows))
        self.tell(prediction, prediction.reply)

    def tell(self, prediction: Prediction, send: Callable[[Reply], None]) -> None:
        """Count and `send` the answer of a single request that was run, or why there is none."""
        reply, answered = self._answer(prediction)
        # Counted first: no client has an answer that a process killed between the two has not counted.
        self._account.replied(prediction.plan.route, reply.status, time.perf_counter() - prediction.started)
        if not prediction.gone:
            send(reply)
        if self._tracer is not None and self._tracer.wants(prediction.plan.head):
            stages = {stage: getattr(prediction, f"{stage}_s") for stage in STAGES}
            plan = prediction.plan
            self._tracer.finish(plan.head, plan.route, prediction.started, stages, reply.status)
        if answered:
            self._account.add(prediction)

    def _answer(self, prediction: Prediction) -> tuple[Reply, bool]:
        try:
            if prediction.error is not None:
                raise prediction.error
            begun = time.perf_counter()
            if not prediction.finite:
                wire.demand_finite(prediction.answers[prediction.served.release.manifest.output])
            reply = prediction.plan.codec.encode(
                prediction.served.release, prediction.requests[0], prediction.idents[0], prediction.answers
            )
            reply.ident = prediction.idents[0]
            prediction.encode_s = time.perf_counter() - begun
            return reply, True
        except RequestError as error:
            self._account.refused(prediction.served.release.name, error)
            return refusal(error), False
        except Exception as error:  # a bug or a failing model: this request fails, the process lives, the log says why
            log.error("request_failed", exc_info=error, extra={"request_id": self.told(prediction.idents[0])})
            return failure(), False

    def told(self, ident: str | None) -> str | None:
        """Return what a line of the log may call a request: its id, or its pseudonym where ids are hashed."""
        return ident if ident is None or self._hidden is None else self._hidden.ident(ident)

    def _timeout_s(self, head: Head) -> float:
        given = head.headers.get(b"x-request-timeout")
        if given is None:
            return self._longest_s
        if not SECONDS.fullmatch(given) or not float(given):
            raise RequestError(
                f"X-Request-Timeout: must be a number of seconds above 0, found '{given[:40].decode('latin-1')}'",
                status=400,
            )
        return min(float(given), self._longest_s)


def _timed(prediction: Prediction, at: float, begun: float) -> Prediction:
    prediction.started = at
    prediction.deadline = at + prediction.plan.timeout_s
    prediction.decode_s = (prediction.since - begun) / len(prediction.sizes)
    return prediction


def ident_of(head: Head) -> str | None:
    """Return what the client called its request, if it is fit to be repeated in an answer and in a log."""
    given = head.headers.get(b"x-request-id", b"")
    return given.decode() if IDENT.fullmatch(given) else None


def refusal(error: RequestError) -> Reply:
    """Return the reply that says why a request is refused."""
    headers = error.headers
    if error.retry_s is not None:
        headers = (*headers, (b"retry-after", b"%d" % max(1, math.ceil(error.retry_s))))
    return Reply(error.status, orjson.dumps({"error": str(error)} | error.place), headers=headers)


def failure() -> Reply:
    """Return the reply to a request that met a bug or a failing model."""
    return Reply(500, b'{"error":"the model could not answer; see the log of the service"}')
