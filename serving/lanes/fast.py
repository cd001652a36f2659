"""The lane for predictions: from the connection to the queue and back, without an ASGI task.

What is not a plain POST to a prediction route goes the normal way, through uvicorn to the ASGI lane. Clients
send the same head with each request, so what a head decides is remembered by its bytes.
"""

import logging
import math
from dataclasses import dataclass
from typing import Any, ClassVar

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from registry.errors import RequestError
from serving.http import Reply
from serving.lanes.guard import GuardedProtocol
from serving.lanes.heads import LENGTH, is_plain, read_head
from serving.lanes.together import Together
from serving.predict import Plan, Prediction, failure
from serving.server import Server
from serving.wire import v2

log = logging.getLogger(__name__)

REMEMBERED = 1024
FOREVER = math.inf
Headers = tuple[tuple[bytes, bytes], ...]
Group = tuple[str, bytes, frozenset[tuple[bytes, bytes]]]  # a head without its length
LONGEST_REMEMBERED_BYTES = 4096
MOST_HELD_BYTES = 64 * 1024
END = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Remembered:
    """What the head of a prediction decides.

    size_bytes: of the body that follows. together: where requests of this head go, if they can go as one.
    guarded: whether a key is asked for.
    """

    plan: Plan
    size_bytes: int
    together: Together | None
    guarded: bool


class FastProtocol(GuardedProtocol):
    """One connection; `enabled`: whether this lane takes anything at all."""

    enabled: ClassVar[bool] = False
    heads: ClassVar[dict[bytes, Remembered | None]] = {}
    groups: ClassVar[dict[Group, Together]] = {}
    lines: ClassVar[dict[tuple[int, bytes, Headers], bytes]] = {}

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._held: list[bytes] = []  # of a request that is not complete, or that waits for the one before it
        self._held_bytes = 0
        self._missing = 0  # bytes of the body of `_now` that are not here
        self._unwanted = 0  # bytes to come of the body of a request that was refused
        self._now: Remembered | None = None
        self._prediction: Prediction | None = None
        self._idle = False  # nothing is under way and nothing is left over: what comes is the start of a request
        self._answering = False
        self._full = False  # the client does not read what it is sent
        self._paused = False  # we do not read what the client sends
        self._last = False  # close when the request under way is answered

    @classmethod
    def forget(cls) -> None:
        """Forget all heads: what they decided may be of another service."""
        cls.heads.clear()
        cls.groups.clear()

    def data_received(self, data: bytes) -> None:
        """Take what the client sent: most is one whole request, with a head that is known."""
        if self._idle:
            self._idle = False
            start = data.find(END) + len(END)
            now = self.heads.get(data[:start])
            if now is not None and now.together and not now.guarded and len(data) == start + now.size_bytes:
                self._answering, self.until = True, FOREVER
                now.together.add(self, now.plan, data[start:])
                return
        self._receive(data)

    def _receive(self, data: bytes) -> None:
        if self._unwanted:
            dropped = min(self._unwanted, len(data))
            self._unwanted, data = self._unwanted - dropped, data[dropped:]
            if not data:
                return
        if self._under_way or self._receiving or self._unread or self._refused or not self.enabled:
            super().data_received(data)
        elif self._answering or self._held_bytes + len(data) < self._missing:
            self._hold(data)
        elif self._held:
            self._held.append(data)
            self._take_held()
        else:
            self._take(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of the request under way: nobody waits for its answer."""
        if self._prediction is not None:
            self._prediction.gone = True
        self._held = []
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Close when the request under way is answered, at once if there is none."""
        if self._answering or self._now is not None:
            self._last = True
        else:
            super().shutdown()

    def expire(self) -> None:
        """Refuse a request that does not come to an end."""
        slow = bool(self._held) or self._now is not None
        if slow and not (self._answering or self._full or self._refused):
            self.refuse(408, "the request did not arrive in time", "slow")
        else:
            super().expire()

    def pause_writing(self) -> None:
        """Stop reading from a client that does not read its answers, and answering it."""
        super().pause_writing()
        self._full = True
        self._pause()

    def resume_writing(self) -> None:
        """Go on."""
        super().resume_writing()
        self._full = False
        self._read_on()
        self._go_on()

    def _hold(self, data: bytes) -> None:
        if not self._held and not self._answering:
            self.until = self.sweeper.now + self._receive_s
        self._held.append(data)
        self._held_bytes += len(data)
        if self._answering and self._held_bytes > MOST_HELD_BYTES:
            self._pause()

    def _pause(self) -> None:
        self._paused = True
        self.transport.pause_reading()

    def _read_on(self) -> None:
        # A body that is awaited must come; of requests that wait for their turn enough is held. Uvicorn pauses the
        # same transport by its own rules.
        much = self._now is None and self._held_bytes > MOST_HELD_BYTES
        if self._paused and not (self._full or much or self.flow.read_paused or self.transport.is_closing()):
            self._paused = False
            self.transport.resume_reading()

    def _take(self, data: bytes) -> None:
        # data: begins with a head, or with the body of `_now`; more requests may follow.
        now, start = self._now, 0
        if now is None:
            end = data.find(END)
            if end < 0:
                self._hand_over(data)  # uvicorn waits for the rest, with the clock of the guard
                return
            start = end + len(END)
            head = data[:start]
            now = self.heads[head] if head in self.heads else self._remember(head)
            if now is None:
                self._hand_over(data)
                return
            if now.guarded and not self._permitted(now, data, start + now.size_bytes):
                return
        stop = start + now.size_bytes
        if len(data) < stop:
            self._now, self._missing = now, now.size_bytes
            self._hold(data[start:])
            self._read_on()
            return
        self._now, self._missing = None, 0
        self._answering, self.until = True, FOREVER
        if len(data) > stop:
            self._hold(data[stop:])
        if now.together is not None:
            now.together.add(self, now.plan, data[start:stop])
        else:
            self.start(now.plan, data[start:stop])

    def start(self, plan: Plan, body: bytes, at: float | None = None) -> None:
        """Begin a request by itself, see `Predictor.begin`; its answer is sent when it is there."""
        service: Server = self.service  # type: ignore[assignment]
        try:
            prediction = service.begin(plan, body, self.send, at)
        except Exception:  # a bug: this request fails, the connection lives, the log has the trace
            said = {"route": plan.route, "request_id": service.predictor.told(plan.ident)}
            log.exception("request_failed", extra=said)
            service.account.replied(plan.route, 500, 0.0)
            self.send(failure())
            return
        if self._answering:
            self._prediction = prediction

    def _hand_over(self, data: bytes) -> None:
        self._read_on()
        super().data_received(data)

    def _permitted(self, now: Remembered, data: bytes, stop: int) -> bool:
        # Whether the key in a head may predict; if not, the answer is sent, and the body is not waited for.
        service: Server = self.service  # type: ignore[assignment]
        try:
            service.access.demand(now.plan.head, "predict")
        except RequestError as error:
            self._unwanted = max(0, stop - len(data))
            self._answering = True
            if stop < len(data):
                self._hold(data[stop:])
            self.send(service.refused(now.plan.route, error))
            return False
        return True

    def _remember(self, head: bytes) -> Remembered | None:
        if len(head) > self._limits.max_head_bytes:
            return None  # uvicorn's callbacks count and refuse it
        found, keep = self._read(head)
        if keep and len(head) <= LONGEST_REMEMBERED_BYTES:
            if len(self.heads) >= REMEMBERED:
                self.heads.clear()
            self.heads[head] = found
        return found

    def _read(self, content: bytes) -> tuple[Remembered | None, bool]:
        # What a head decides, None if this lane does not take it; and whether that will be so for good.
        service, head = self.service, read_head(content)
        if service is None or head is None or not is_plain(head, service):
            return None, True
        try:
            match = service.routes.find(head)
            if match is None or match.route.handler is not None:
                return None, True
            plan = service.plan(head, match)
            alone = plan.ident is not None or service.tracer is not None
            together = None if alone else self._together(service, plan)
            size_bytes, guarded = int(head.headers[LENGTH]), service.settings.keys_path is not None
            return Remembered(plan, size_bytes, together, guarded), True
        except RequestError:  # the other lane says why; a model may yet come
            return None, False

    def _together(self, service: Server, plan: Plan) -> Together:
        # Bodies of any size go together, unless they are to be put one after the other.
        head, sizes = plan.head, () if plan.codec.joins else (LENGTH, v2.LENGTH)
        said = {name: text for name, text in head.headers.items() if name not in sizes}
        key = head.path, head.query, frozenset(said.items())
        if key not in self.groups:
            if len(self.groups) >= REMEMBERED:
                self.groups.clear()
            self.groups[key] = Together(service, plan)
        return self.groups[key]

    @property
    def waits(self) -> bool:
        """Return whether a request has no answer yet."""
        return self._answering

    def send(self, reply: Reply) -> None:
        """Send the answer to the request under way."""
        self._answering, self._prediction = False, None
        if self.transport.is_closing():
            return
        last = self._last or self.service.lifecycle.closing  # type: ignore[union-attr]
        parts = [self.lines_of(reply)]
        if reply.ident:
            parts += (b"vigil-id: ", reply.ident.encode(), b"\r\n")
        parts += (b"connection: close\r\n\r\n" if last else b"\r\n", reply.body)
        self.transport.write(b"".join(parts))
        self.server_state.total_requests += 1
        if last:
            self.transport.close()
        else:
            self._next()

    def write(self, head: bytes, ident: str, body: bytes) -> bool:
        """Send an answer of which `head` is all up to its id; False, if this connection ends with it: use `send`."""
        if self._last or self.transport.is_closing():
            return False
        self._answering = False
        self.transport.write(b"%b%b\r\n\r\n%b" % (head, ident.encode(), body))
        self.server_state.total_requests += 1
        self._next()
        return True

    def lines_of(self, reply: Reply) -> bytes:
        """Return the status line and the headers that do not depend on the request."""
        parts = [self._lines(reply), b"content-length: %d\r\n" % len(reply.body)]
        for name, value in self.server_state.default_headers:
            parts += (name, b": ", value, b"\r\n")
        return b"".join(parts)

    def _lines(self, reply: Reply) -> bytes:
        # The status line and the headers that a release repeats with each answer.
        key = reply.status, reply.content_type, reply.headers
        lines = self.lines.get(key)
        if lines is None:
            parts = [STATUS_LINE[reply.status], b"content-type: ", reply.content_type, b"\r\n"]
            for name, value in reply.headers:
                parts += (name, b": ", value, b"\r\n")
            if len(self.lines) >= REMEMBERED:
                self.lines.clear()
            lines = self.lines[key] = b"".join(parts)
        return lines

    def _next(self) -> None:
        self.until = self.sweeper.now + self._limits.idle_s
        if self._paused:
            self._read_on()
        if self._held:
            self.loop.call_soon(self._go_on)  # not from here: a thousand requests in one piece would nest
        else:
            self._idle = not (self._unwanted or self._refused)

    def _go_on(self) -> None:
        busy = self._answering or self._full or self._refused or self._now is not None
        if self._held and not busy and not self.transport.is_closing():
            self._take_held()

    def _take_held(self) -> None:
        whole = b"".join(self._held)
        self._held, self._held_bytes = [], 0
        self._take(whole)
