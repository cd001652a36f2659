"""When a connection is closed, on an event loop whose time passes as fast as it is asked for."""

import asyncio
import selectors

import pytest
import uvicorn.config
import uvicorn.server
from line import Line

from serving.lanes.fast import FastProtocol
from serving.lanes.guard import GuardedProtocol, Sweeper
from serving.settings import Settings

RECEIVE_S = Settings().receive_s
HEAD = b"POST /v1/predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"


async def nobody(scope, receive, send):
    """Answer nothing."""
    while (await receive())["type"] != "http.disconnect":
        pass


class Skipping(selectors.DefaultSelector):
    """Waits for nothing: adds what it would have waited, and a little, to `passed_s`."""

    late_s = 0.0
    passed_s = 0.0

    def select(self, timeout=None):
        self.passed_s += (timeout or 0.0) + (self.late_s if timeout else 0.0)
        return super().select(0)


def ended_s(kind, start, piece, opened_s, late_s):
    """Return when a connection is ended that begins with `start`, then sends `piece` ten times a second."""
    selector = Skipping()
    selector.late_s = late_s
    loop = asyncio.SelectorEventLoop(selector)
    loop.time = lambda: selector.passed_s
    line = Line()
    fresh = type("Fresh", (kind,), {"sweeper": Sweeper()})  # its timer is of this loop

    async def send():
        config = uvicorn.config.Config(nobody, log_config=None, lifespan="off", ws="none")
        config.load()
        first = fresh(config, uvicorn.server.ServerState(), {})
        first.connection_made(Line())  # since when the sweeper runs
        await asyncio.sleep(opened_s)
        made, begun_s = fresh(config, uvicorn.server.ServerState(), {}), loop.time()
        made.connection_made(line)
        if start:
            made.data_received(start)
        while line.ended_s is None and loop.time() < 100:
            await asyncio.sleep(0.1)
            if piece:
                made.data_received(piece)
        for one in (first, made):
            one.connection_lost(None)
        return line.ended_s - begun_s

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(send()), line.written


@pytest.mark.parametrize("kind", [GuardedProtocol, FastProtocol])
@pytest.mark.parametrize("late_s", [0.0, 0.02])
@pytest.mark.parametrize("opened_s", [0.0, 0.05, 0.333, 0.999])
@pytest.mark.parametrize(
    ("start", "piece"),
    [(b"", b""), (HEAD, b""), (HEAD, b"X: a\r\n"), (HEAD + b"content-length: 5000\r\n\r\n", b"a")],
    ids=["silent", "head that stops", "head by the line", "body by the byte"],
)
def test_a_slow_connection_ends_within_its_time_and_hardly_before(kind, start, piece, opened_s, late_s):
    seconds, said = ended_s(kind, start, piece, opened_s, late_s)
    assert 0.95 * RECEIVE_S < seconds <= RECEIVE_S
    assert said.startswith(b"HTTP/1.1 408") == bool(start)
