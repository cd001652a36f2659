"""Limits on every connection, whatever comes over it: uvicorn's protocol with bounds on time and size.

One sweep in a tenth of a second looks at all connections, so that no request has a timer of its own.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import orjson
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from serving.settings import Settings

if TYPE_CHECKING:
    from serving.server import Server

log = logging.getLogger(__name__)
QUIET = logging.getLogger(f"{__name__}.uvicorn")  # what a client does wrong is counted; a line each would fill the log
QUIET.setLevel(logging.ERROR)
SWEEP_S = 0.1
STALL_S = 0.5
LINGER_S = 1.0  # how long a refused client may go on sending, so that it reads why and is not reset
HEAD_PIECE_BYTES, BODY_PIECE_BYTES = 4096, 65_536  # parsed at once: of one piece of 256 kB come 7,000 requests
HEAD_TOO_LARGE = "the request line and headers are longer than is accepted"


class Sweeper:
    """Closes connections whose time is over; `now` is a clock that is right to SWEEP_S and costs nothing.

    A stall of this process counts as STALL_S at most: what a client sent meanwhile has not been looked at.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._swept = 0.0
        self.open: set[GuardedProtocol] = set()
        self._timer: asyncio.TimerHandle | None = None

    def add(self, protocol: "GuardedProtocol") -> None:
        """Watch a connection."""
        self.open.add(protocol)
        if self._timer is None:
            self._swept = asyncio.get_running_loop().time()
            self._sweep()

    def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        swept, self._swept = self._swept, loop.time()
        self.now += min(STALL_S, self._swept - swept)
        for protocol in [one for one in self.open if one.until < self.now]:
            try:
                protocol.expire()
            except Exception:  # of one connection: all others have their limits still
                log.exception("connection_not_closed")
        self._timer = loop.call_later(SWEEP_S, self._sweep) if self.open else None


class _Flow(FlowControl):
    """Reads nothing while `waits` says so: uvicorn reads on with each answer, whatever has not been parsed."""

    def __init__(self, transport: asyncio.Transport, waits: Callable[[], bool]) -> None:
        super().__init__(transport)
        self._waits = waits

    def resume_reading(self) -> None:
        if not self._waits():
            super().resume_reading()


class GuardedProtocol(HttpToolsProtocol):
    """One connection. `until`: when it is closed unless something happens, on the sweeper's clock."""

    service: ClassVar["Server | None"] = None
    sweeper: ClassVar[Sweeper] = Sweeper()

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.logger = QUIET
        self.until = float("inf")
        self._under_way = 0  # requests that began and are not answered
        self._receiving = False  # the last of them is not here as a whole
        self._in_head = True
        self._head_bytes = 0
        self._ended = 0  # requests, ever
        self._unread = b""  # what came and is not parsed, because requests wait for those before them
        self._refused = False  # nothing more is read
        self._last_words: bytes | None = None  # of a refusal, to be said behind the answers that are under way
        self._limits = self.service.settings if self.service is not None else Settings()
        # A sweep comes up to SWEEP_S after a time is over: from there one more is left for a loop that is late.
        self._receive_s = max(0.0, self._limits.receive_s - 2 * SWEEP_S)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, or refuse it when there are too many."""
        super().connection_made(transport)
        self.flow = _Flow(transport, lambda: bool(self._unread))
        self.sweeper.add(self)
        if self.service is not None:
            self.service.metrics.connections.labels().inc(1)
        self.until = self.sweeper.now + self._receive_s
        if len(self.sweeper.open) > 2 * self._limits.max_connections:
            self.transport.abort()  # a flood: those that were told to go are still here
        elif len(self.sweeper.open) > self._limits.max_connections:
            self.refuse(503, "too many connections; retry later", "connections", b"retry-after: 1\r\n")

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self.sweeper.open.discard(self)
        self._unread = b""
        if self.service is not None:
            self.service.metrics.connections.labels().inc(-1)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feed the parser piece by piece, and no more once requests wait: of a client little is held at a time."""
        start = 0
        while start < len(data) and not self._refused:
            if self.pipeline or self._unread:
                self._unread += data[start:]
                self.flow.pause_reading()
                return
            stop = start + (HEAD_PIECE_BYTES if self._in_head else BODY_PIECE_BYTES)
            self._parse(data[start:stop])
            start = stop

    def _parse(self, data: bytes) -> None:
        # And refuse a head that grows beyond its limit without an end.
        ended, before = self._ended, self._head_bytes
        super().data_received(data)
        # The parser tells of a header once it is whole. If no request ended in `data`, all of it is of this head.
        if self._receiving and self._in_head and self._ended == ended and not self._refused:
            self._head_bytes = max(self._head_bytes, before + len(data))
            if self._head_bytes > self._limits.max_head_bytes:
                self.refuse(431, HEAD_TOO_LARGE, "head_too_large")

    def _read_rest(self) -> None:
        if not self.pipeline and not self.transport.is_closing():
            data, self._unread = self._unread, b""
            GuardedProtocol.data_received(self, data)
            self.flow.resume_reading()

    def expire(self) -> None:
        """Close the connection: the client took too long to send, or left it idle, or does not read its answer."""
        if self.transport.is_closing():
            self.transport.abort()
            return
        if self._receiving and self.flow.read_paused and not self.flow.write_paused:
            self.until = self.sweeper.now + self._receive_s  # we do not read it: those before it are being answered
            return
        self.until = self.sweeper.now + LINGER_S
        answered = not self._in_head and self.cycle is not None and self.cycle.response_started
        if self._receiving and not self._refused and not answered:
            self.refuse(408, "the request did not arrive in time", "slow")
        else:
            self.transport.close()

    def refuse(self, status: int, why: str, reason: str, more: bytes = b"") -> None:
        """Answer with `status` in its turn, and close the connection once the client has stopped sending."""
        if self.service is not None:
            self.service.account.replied("other", status, 0.0)
            self.service.metrics.connections_rejected.labels(reason).inc()
        body = orjson.dumps({"error": f"connection: {why}"})
        head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n" % len(body)
        self._refused, self._unread = True, b""
        self._last_words = b"".join((STATUS_LINE[status], head, more, b"\r\n", body))
        if self._receiving:
            self._abandon()
        if self._under_way:
            self._wait()
        else:
            self._end()

    def _abandon(self) -> None:
        # The request that is not here as a whole gets the refusal for an answer, unless it has one.
        self._receiving = False
        if self._in_head:  # what is under way are those before it
            self._under_way -= 1
            return
        self._in_head, cycle = True, self.cycle
        if cycle.response_started:
            self._last_words = b""
        if cycle.response_complete:
            return
        self._under_way -= 1
        if self.pipeline and self.pipeline[0][0] is cycle:
            self.pipeline.popleft()  # it has not begun, and waits for the others
            return
        cycle.disconnected = True  # for whoever waits for the rest of the request
        cycle.message_event.set()

    def _end(self) -> None:
        self.until = self.sweeper.now + LINGER_S
        self.flow.resume_reading()
        self.transport.write(self._last_words or b"")
        if self.transport.can_write_eof():
            self.transport.write_eof()

    def shutdown(self) -> None:
        """Close the connection when what is under way is answered."""
        if self._refused and not self._under_way:
            self.transport.close()
        elif not (self._receiving and self._in_head):  # a head that has begun: its answer will say `Connection: close`
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is not HTTP, or has too long a head."""
        if self._head_bytes > self._limits.max_head_bytes:
            self.refuse(431, HEAD_TOO_LARGE, "head_too_large")
        else:
            self.refuse(400, "what was sent is not HTTP/1.1", "malformed")

    def on_message_begin(self) -> None:
        """Start the clock of a request."""
        super().on_message_begin()
        self._under_way += 1
        self._receiving = self._in_head = True
        self._head_bytes = 0
        self.until = self.sweeper.now + self._receive_s

    def on_url(self, url: bytes) -> None:
        """Count the bytes of the request line."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Count the bytes of a header."""
        self._count(len(name) + len(value) + 4)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Go on to the body."""
        super().on_headers_complete()
        self._in_head = False
        if self.parser.should_upgrade():
            self.cycle.keep_alive = False  # its body was not read, and must not be taken for the next request

    def on_message_complete(self) -> None:
        """Stop the clock: the request is here."""
        super().on_message_complete()
        self._ended += 1
        self._receiving = False
        self._in_head, self._head_bytes = True, 0
        self._wait()

    def on_response_complete(self) -> None:
        """Start the clock of an idle connection."""
        super().on_response_complete()
        self._unset_keepalive_if_required()  # the sweeper does this for all
        self._under_way -= 1
        if self._refused and not self._under_way and not self.transport.is_closing():
            self._end()
        elif not self._receiving:
            self._wait()
        if self._unread:
            self.loop.call_soon(self._read_rest)  # not from here: thousands of requests would nest

    def pause_writing(self) -> None:
        """Start the clock of a client that does not read its answers."""
        super().pause_writing()
        self._wait()

    def resume_writing(self) -> None:
        """Stop that clock."""
        super().resume_writing()
        if not self._receiving:
            self._wait()

    def _wait(self) -> None:
        answering = self._under_way and not self.flow.write_paused
        self.until = float("inf") if answering else self.sweeper.now + self._limits.idle_s

    def _should_upgrade_to_ws(self) -> bool:
        return False

    def _count(self, size_bytes: int) -> None:
        self._head_bytes += size_bytes
        if self._head_bytes > self._limits.max_head_bytes:
            raise ValueError(HEAD_TOO_LARGE)  # the parser stops, and `send_400_response` is called
