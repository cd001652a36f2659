"""Many requests in one piece, in this process: how much of them is held, and that all are answered in order."""

import asyncio
import re

import pytest
import uvicorn.config
import uvicorn.server
from line import Line

from serving.lanes.fast import FastProtocol
from serving.lanes.guard import HEAD_PIECE_BYTES, GuardedProtocol, Sweeper

MANY = 6000
AT_ONCE = 300_000  # bytes in one piece, as they may come from a socket
BODY = b"a" * 100_000


async def echo(scope, receive, send):
    """Answer with the path, and the length of the body."""
    size, more = 0, True
    while more:
        message = await receive()
        size += len(message.get("body", b""))
        more = message.get("more_body", False)
    body = f"{scope['path']} {size};".encode()
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def answers(kind, content):
    """Return the bodies of all answers to `content`, and the most requests and bytes that were held at a time."""
    config = uvicorn.config.Config(echo, log_config=None, lifespan="off", ws="none")
    config.load()
    protocol, line = type("Fresh", (kind,), {"sweeper": Sweeper()})(config, uvicorn.server.ServerState(), {}), Line()
    protocol.connection_made(line)
    requests = size = 0
    async with asyncio.timeout(60):
        while content or protocol._under_way:
            if content and not line.paused:
                protocol.data_received(content[:AT_ONCE])
                content = content[AT_ONCE:]
            requests = max(requests, len(protocol.pipeline))
            size = max(size, len(protocol._unread))
            await asyncio.sleep(0)
    protocol.connection_lost(None)
    return re.findall(rb"(/\S* \d+);", line.written), requests, size


def get(n):
    return b"GET /%d HTTP/1.1\r\n\r\n" % n


def post(n):
    return b"POST /%d HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (n, len(BODY)) + BODY


@pytest.mark.parametrize("kind", [GuardedProtocol, FastProtocol])
def test_of_a_client_that_sends_without_end_little_is_held_and_all_is_answered(kind):
    found, requests, size = asyncio.run(answers(kind, b"".join(map(get, range(MANY)))))
    assert found == [b"/%d 0" % n for n in range(MANY)]
    assert requests <= HEAD_PIECE_BYTES / len(get(0))
    assert size <= AT_ONCE


@pytest.mark.parametrize("kind", [GuardedProtocol, FastProtocol])
def test_bodies_between_them_are_read_to_their_end(kind):
    found, _, size = asyncio.run(answers(kind, b"".join(get(n) + post(n) + post(n) for n in range(30))))
    assert found == [b"/%d %d" % (n, size) for n in range(30) for size in (0, len(BODY), len(BODY))]
    assert size <= AT_ONCE
