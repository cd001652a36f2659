"""Requests with one head that come in one turn of the event loop, taken, run and answered as one.

Most clients send the same head with each request, and many come at once. What is done per request in Python
then costs more than the model: so it is done once for all of them. Whatever is unusual about any of them, they
go the way of single requests, where it is found out which one it is.
"""

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from registry.errors import RequestError
from serving import wire
from serving.http import Call, Reply
from serving.predict import Done, Gone, Plan, Prediction, Start, failure, refusal
from serving.server import Server
from serving.wire.rows import layout_of

if TYPE_CHECKING:
    from serving.lanes.fast import FastProtocol

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Entry:
    """One request; at: when it was here, on the clock of `time.perf_counter`."""

    protocol: "FastProtocol"
    plan: Plan
    body: bytes
    at: float


class Together:
    """Collects the requests of one head until the turn of the loop is over."""

    def __init__(self, service: Server, plan: Plan) -> None:
        self._service = service
        self._busy_poll = service.busy_poll
        self._plan = plan
        self._most_rows = service.settings.max_batch_rows
        self._entries: list[Entry] = []

    def add(self, protocol: "FastProtocol", plan: Plan, body: bytes) -> None:
        """Take a request of `protocol`, which gets its answer by `start` or `send`."""
        entries, now = self._entries, time.perf_counter()
        entries.append(Entry(protocol, plan, body, now))
        if len(entries) == 1:
            self._busy_poll.arrived(now)
            protocol.loop.call_soon(self._go)

    def _go(self) -> None:
        entries = [entry for entry in self._entries if not entry.protocol.transport.is_closing()]
        self._entries = []
        if len(entries) == 1:
            self._alone(entries, turn_over=True)
        elif self._plan.codec.joins:
            self._go_joined(entries)
        elif entries:
            self._go_several(entries)
        if entries and not entries[-1].protocol.waits:
            self._busy_poll.answered()

    def _go_joined(self, entries: list[Entry]) -> None:
        # As many as are the rows of one run; those of another size are found out later.
        try:
            row_bytes = layout_of(self._plan.host.serving(self._plan.version).release).row_bytes
        except RequestError:
            row_bytes = 1
        most = max(1, self._most_rows // max(1, len(entries[0].body) // row_bytes))
        begin = self._service.predictor.begin_joined
        for start in range(0, len(entries), most):
            part = entries[start : start + most]
            self._begin(part, partial(begin, self._plan, [entry.body for entry in part]))

    def _go_several(self, entries: list[Entry]) -> None:
        decode, begin = self._plan.codec.decode, self._service.predictor.begin_several
        parts: list[tuple[list[Entry], list[wire.Request]]] = []
        rows, started = self._most_rows, time.perf_counter()
        for entry in entries:
            try:
                request = decode(Call(entry.plan.head, entry.body), self._plan.host.serving(self._plan.version).release)
            except Exception:  # noqa: BLE001 - it is told, or logged, by the way of single requests
                self._alone([entry])
                continue
            rows += len(request.rows)
            if rows > self._most_rows or parts[-1][1][0].outputs != request.outputs:
                parts.append(([], []))
                rows = len(request.rows)
            parts[-1][0].append(entry)
            parts[-1][1].append(request)
        for part, requests in parts:
            self._begin(part, partial(begin, self._plan, requests, started))

    def _begin(self, entries: list[Entry], begin: Callable[[Done, Gone], None]) -> None:
        try:
            begin(lambda done: self._finish(entries, done), lambda: _gone(entries))
        except RequestError:  # of one of them, or of all: each is told its own
            self._alone(entries)
        except Exception:  # a bug: it will show in one of them, and the log has the trace
            log.exception("bulk_failed", extra={"route": self._plan.route})
            self._alone(entries)

    def _finish(self, entries: list[Entry], prediction: Prediction) -> None:
        self._plan.host.admission.leave(len(prediction.rows))
        try:
            if isinstance(prediction.error, RequestError):
                self._refuse(entries, prediction, prediction.error)
            elif prediction.error is not None or not prediction.finite:
                self._alone(entries)
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
        replies = self._plan.codec.encode_all(prediction.served.release, prediction.asked(), prediction.answers)
        now = time.perf_counter()
        prediction.encode_s = (now - begun) / len(entries)
        # Counted first: no client has an answer that a process killed between the two has not counted.
        self._service.account.replied_all(self._plan.route, 200, [now - entry.at for entry in entries])
        said: dict[tuple[wire.Headers, int], bytes] = {}
        for entry, ident, (headers, body, kind) in zip(entries, prediction.idents, replies, strict=True):
            protocol = entry.protocol
            if not protocol.plain:
                protocol.send(Reply(200, body, kind, headers, ident))
                continue
            key = headers, len(body)
            lines = said.get(key)
            if lines is None:
                lines = said[key] = protocol.lines_of(Reply(200, body, kind, headers))
            protocol.write(lines, ident, body)
        self._service.account.add(prediction)

    def _alone(self, entries: list[Entry], turn_over: bool = False) -> None:
        for entry in entries:
            entry.protocol.start(entry.plan, entry.body, Start(entry.at, turn_over=turn_over))


def _gone(entries: list[Entry]) -> bool:
    return all(entry.protocol.transport.is_closing() for entry in entries)
