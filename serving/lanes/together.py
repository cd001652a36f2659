"""Requests with one head that come in one turn of the event loop, taken, run and answered as one.

Most clients send the same head with each request, and many come at once. What is done per request in Python
then costs more than the model: so it is done once for all of them. Whatever is unusual about any of them, they
go the way of single requests, where it is found out which one it is.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from registry.errors import RequestError
from serving import wire
from serving.http import Call, Reply
from serving.predict import Done, Plan, Prediction, failure, refusal
from serving.server import Server
from serving.wire.rows import layout_of

if TYPE_CHECKING:
    from serving.lanes.fast import FastProtocol

log = logging.getLogger(__name__)

LONGEST_WAIT_S = 1e-4  # for those who ask again
MOST_ANSWER_HEADS = 16  # that are kept of one head: most answers have the length of the one before

# One request: whose it is, what its head decided, its body, and when it was here, on the clock of `time.perf_counter`.
Entry = tuple["FastProtocol", Plan, bytes, float]


class Together:
    """Collects the requests of one head that come in one turn of the loop, or one shortly after the other."""

    def __init__(self, service: Server, plan: Plan) -> None:
        self._service = service
        self._predictor = service.predictor
        self._busy_poll = service.busy_poll
        self._plan = plan
        self._most_rows = service.settings.max_batch_rows
        self._entries: list[Entry] = []
        self._since = 0.0  # when the first of them was here
        self._seen = 0  # how many there were when it last looked
        self._before = 1  # how many went together before; one fewer for each time since that there were fewer
        self._answer_heads = AnswerHeads()

    def add(self, protocol: "FastProtocol", plan: Plan, body: bytes) -> None:
        """Take a request of `protocol`, which gets its answer by `start`, `send` or `write`."""
        entries, now = self._entries, time.perf_counter()
        if not entries:
            self._since = now
            self._busy_poll.arrived(now)
            protocol.loop.call_soon(self._look, protocol.loop)
        entries.append((protocol, plan, body, now))

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        # Clients that were answered together ask again one after the other: while each turn of the loop brings more
        # of them, and turns are short, one more turn is waited for.
        count = len(self._entries)
        if self._seen < count < self._before and time.perf_counter() - self._since < LONGEST_WAIT_S:
            self._seen = count
            loop.call_soon(self._look, loop)
            return
        self._seen, self._before = 0, min(self._most_rows, max(count, self._before - 1))
        entries = [entry for entry in self._entries if not entry[0].transport.is_closing()]
        self._entries = []
        if entries:
            self._go(entries)

    def _go(self, entries: list[Entry]) -> None:
        if self._plan.codec.joins:
            self._go_joined(entries)
        else:
            self._go_several(entries)
        last, _, _, _ = entries[-1]
        if not last.waits:
            self._busy_poll.answered()

    def _go_joined(self, entries: list[Entry]) -> None:
        # As many as are the rows of one run; those of another size are found out later.
        try:
            row_bytes = layout_of(self._plan.host.serving(self._plan.version).release).row_bytes
        except RequestError:
            row_bytes = 1
        _, _, first, _ = entries[0]
        most = max(1, self._most_rows // max(1, len(first) // row_bytes))
        for start in range(0, len(entries), most):
            part = entries[start : start + most]
            bodies = [body for _, _, body, _ in part]
            self._begin(part, partial(self._predictor.joined, self._plan, bodies, self._since))

    def _go_several(self, entries: list[Entry]) -> None:
        decode, several = self._plan.codec.decode, self._predictor.several
        parts: list[tuple[list[Entry], list[wire.Request]]] = []
        rows, started = self._most_rows, time.perf_counter()
        for entry in entries:
            _, plan, body, _ = entry
            try:
                request = decode(Call(plan.head, body), self._plan.host.serving(self._plan.version).release)
            except RequestError as error:
                self._tell(entry, error)
                continue
            except Exception:  # noqa: BLE001 - it is logged by the way of single requests
                self._alone([entry])
                continue
            rows += len(request.rows)
            if rows > self._most_rows or parts[-1][1][0].outputs != request.outputs:
                parts.append(([], []))
                rows = len(request.rows)
            parts[-1][0].append(entry)
            parts[-1][1].append(request)
        for part, requests in parts:
            self._begin(part, partial(several, self._plan, requests, self._since, started))

    def _begin(self, entries: list[Entry], make: Callable[[Done], Prediction]) -> None:
        finish = partial(self._finish, entries)
        try:
            prediction = make(partial(self._leave, finish))
            if not self._predictor.run_now(prediction):
                self._predictor.submit(prediction, partial(_gone, entries))
                return
        except RequestError as error:
            if len(entries) == 1:
                self._tell(entries[0], error)
            else:  # of one of them, or of all: each is told its own
                self._alone(entries)
        except Exception:  # a bug: it will show in one of them, and the log has the trace
            log.exception("bulk_failed", extra={"route": self._plan.route})
            self._alone(entries)
        else:
            finish(prediction)

    def _leave(self, finish: Done, prediction: Prediction) -> None:
        self._plan.host.admission.leave(len(prediction.rows))
        finish(prediction)

    def _finish(self, entries: list[Entry], prediction: Prediction) -> None:
        failed = prediction.error is not None or not prediction.finite
        try:
            if isinstance(prediction.error, RequestError):
                self._refuse(entries, prediction, prediction.error)
            elif failed and len(entries) == 1:
                protocol, _, _, _ = entries[0]
                self._predictor.tell(prediction, protocol.send)
            elif failed:
                self._alone(entries)
            else:
                self._answer(entries, prediction)
        except Exception:  # a bug: these requests fail, their connections live, the log has the trace
            log.exception("bulk_failed", extra={"route": self._plan.route})
            for protocol, _, _, at in entries:
                if protocol.waits:
                    self._service.account.replied(self._plan.route, 500, time.perf_counter() - at)
                    protocol.send(failure())

    def _tell(self, entry: Entry, error: RequestError) -> None:
        protocol, plan, _, _ = entry
        self._service.account.refused(plan.host.name, error)
        protocol.send(self._service.refused(plan.route, error))

    def _refuse(self, entries: list[Entry], prediction: Prediction, error: RequestError) -> None:
        account, now = self._service.account, time.perf_counter()
        for _ in entries:
            account.refused(prediction.served.release.name, error)
        account.replied_all(self._plan.route, error.status, [now - at for _, _, _, at in entries])
        for protocol, _, _, _ in entries:
            protocol.send(refusal(error))

    def _answer(self, entries: list[Entry], prediction: Prediction) -> None:
        begun = time.perf_counter()
        parts = self._plan.codec.encode_all(prediction.served.release, prediction.asked(), prediction.answers)
        now = time.perf_counter()
        prediction.encode_s = (now - begun) / len(entries)
        # Counted first: no client has an answer that a process killed between the two has not counted.
        self._service.account.replied_all(self._plan.route, 200, [now - at for _, _, _, at in entries])
        heads, closing = self._answer_heads, self._service.lifecycle.closing
        for (protocol, _, _, _), ident, part in zip(entries, prediction.idents, parts, strict=True):
            if closing or not protocol.write(heads.of(protocol, part), ident, part[1]):
                headers, body, kind = part
                protocol.send(Reply(200, body, kind, headers, ident))
        self._service.account.add(prediction)

    def _alone(self, entries: list[Entry]) -> None:
        for protocol, plan, body, at in entries:
            if not protocol.transport.is_closing():
                protocol.start(plan, body, at)


class AnswerHeads:
    """How good answers begin, up to their ids: written once for as long as the headers of all answers stay the same."""

    def __init__(self) -> None:
        self._common: object = None
        self._known: dict[tuple[wire.Headers, int], bytes] = {}
        self._headers: wire.Headers = ()
        self._size = -1
        self._last = b""

    def of(self, protocol: "FastProtocol", part: wire.Part) -> bytes:
        """Return what comes before the id of an answer, of which most are as the one before."""
        headers, body, kind = part
        common, size = protocol.server_state.default_headers, len(body)
        if headers is self._headers and size == self._size and common is self._common:
            return self._last
        if common is not self._common or len(self._known) >= MOST_ANSWER_HEADS:  # there is another date each second
            self._known.clear()
        known = self._known.get((headers, size))
        if known is None:
            known = self._known[headers, size] = protocol.lines_of(Reply(200, body, kind, headers)) + b"vigil-id: "
        self._common, self._headers, self._size, self._last = common, headers, size, known
        return known


def _gone(entries: list[Entry]) -> bool:
    return all(protocol.transport.is_closing() for protocol, _, _, _ in entries)
