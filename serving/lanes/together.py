"""Requests with one head that come in one turn of the event loop, taken, run and answered as one.

Most clients send the same head with each request, and many come at once. What is done per request in Python
then costs more than the model: so it is done once for all of them. Whatever is unusual about any of them, they
go the way of single requests, where it is found out which one it is.
"""

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from registry.errors import RequestError
from serving.http import Reply
from serving.predict import Plan, Prediction, Start, failure, refusal
from serving.server import Server
from serving.wire.rows import layout_of

if TYPE_CHECKING:
    from serving.lanes.fast import FastProtocol

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Entry:
    """One request; at: when it was here, on the clock of `time.perf_counter`."""

    protocol: "FastProtocol"
    body: bytes
    at: float


class Together:
    """Collects the requests of one head until the turn of the loop is over."""

    def __init__(self, service: Server, plan: Plan) -> None:
        self._service = service
        self._plan = plan
        self._entries: list[Entry] = []

    def add(self, protocol: "FastProtocol", body: bytes) -> None:
        """Take a request of `protocol`, which gets its answer by `start` or `send`."""
        entries = self._entries
        entries.append(Entry(protocol, body, time.perf_counter()))
        if len(entries) == 1:
            protocol.loop.call_soon(self._go)

    def _go(self) -> None:
        entries = [entry for entry in self._entries if not entry.protocol.transport.is_closing()]
        self._entries = []
        most = self._most(entries)
        for start in range(0, len(entries), most):
            self._begin(entries[start : start + most])

    def _most(self, entries: list[Entry]) -> int:
        # How many of them are the rows of one run.
        if len(entries) < 2:
            return 1
        try:
            layout = layout_of(self._plan.host.serving(self._plan.version).release)
        except RequestError:
            return 1
        rows = max(1, len(entries[0].body) // layout.row_bytes)
        return max(1, self._service.settings.max_batch_rows // rows)

    def _begin(self, entries: list[Entry]) -> None:
        if len(entries) > 1:
            try:
                bodies = [entry.body for entry in entries]
                self._service.predictor.begin_bulk(self._plan, bodies, lambda done: self._finish(entries, done))
                return
            except RequestError:  # of one of them, or of all: each is told its own
                pass
            except Exception:  # a bug: it will show in one of them, and the log has the trace
                log.exception("bulk_failed", extra={"route": self._plan.route})
        self._one_by_one(entries)

    def _finish(self, entries: list[Entry], prediction: Prediction) -> None:
        self._plan.host.admission.leave(len(prediction.rows))
        try:
            if isinstance(prediction.error, RequestError):
                self._refuse(entries, prediction, prediction.error)
            elif prediction.error is not None or not prediction.finite:
                self._one_by_one(entries)
            else:
                self._answer(entries, prediction)
        except Exception:  # a bug: these requests fail, their connections live, the log has the trace
            log.exception("bulk_failed", extra={"route": self._plan.route})
            for entry in entries:
                if entry.protocol.waits:
                    self._service.account.replied(self._plan.route, 500, time.perf_counter() - entry.at)
                    entry.protocol.send(failure())

    def _refuse(self, entries: list[Entry], prediction: Prediction, error: RequestError) -> None:
        account, now = self._service.account, time.perf_counter()
        for _ in entries:
            account.refused(prediction.served.release.name, error)
        account.replied_all(self._plan.route, error.status, [now - entry.at for entry in entries])
        for entry in entries:
            entry.protocol.send(refusal(error))

    def _answer(self, entries: list[Entry], prediction: Prediction) -> None:
        begun = time.perf_counter()
        release = prediction.served.release
        reply = self._plan.codec.encode(release, prediction.request, "", prediction.answers)
        # As if it were the answer to one: the headers tell the shape.
        main = prediction.answers[release.manifest.output]
        each = len(main) // len(entries)
        one = self._plan.codec.encode(release, prediction.request, "", {release.manifest.output: main[:each]})
        size = len(one.body)
        now = time.perf_counter()
        prediction.encode_s = (now - begun) / len(entries)
        # Counted first: no client has an answer that a process killed between the two has not counted.
        self._service.account.replied_all(self._plan.route, 200, [now - entry.at for entry in entries])
        start, whole = 0, reply.body
        lines = entries[0].protocol.lines_of(one)
        for entry, ident in zip(entries, prediction.idents, strict=True):
            part = whole[start : start + size]
            start += size
            protocol = entry.protocol
            if protocol.plain:
                protocol.write(lines, ident, part)
            else:
                protocol.send(Reply(200, part, one.content_type, one.headers, ident))
        self._service.account.add(prediction)

    def _one_by_one(self, entries: list[Entry]) -> None:
        for entry in entries:
            entry.protocol.start(self._plan, entry.body, Start(entry.at, turn_over=len(entries) == 1))
