"""One connection of the fast lane, whatever comes over it: the short way of a known head, and all the others."""

import asyncio
import random

import pytest
import uvicorn.config
from in_turns import ROW, ROWS, answer, connected, request, spoken, status, written
from line import Line

from registry import aliases
from serving.lanes.asgi import App
from serving.lanes.fast import FastProtocol
from serving.settings import Settings

CONNECTIONS = 60
LIVE = b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n"


@pytest.fixture(autouse=True)
def champion(publish):
    aliases.promote(publish(spec=ROW).tag, "first")


def requests(chance, numbers):
    """Return some requests, and how the body of each answer begins. numbers: the answer to each of ROWS."""
    made = []
    for _ in range(chance.randint(1, 12)):
        row = chance.randrange(len(ROWS))
        raw = request(ROWS[row])
        kinds = [
            (raw, numbers[row]),
            (raw, numbers[row]),
            (raw.replace(b"host: x", b"host: x\r\nx-request-id: abc"), numbers[row]),
            (spoken("json", ROWS[row : row + 1], ""), b'{"model":"tiny"'),
            (LIVE, b'{"alive":true}'),
        ]
        made.append(chance.choice(kinds))
    return made


def pieces(stream, ends, chance):
    """Return the stream cut at most ends of requests and at some other places."""
    places = [end for end in ends if chance.random() < 0.7]
    places += [chance.randrange(len(stream)) for _ in range(chance.choice([0, 0, 1, 5]))]
    cuts = sorted({0, len(stream), *places})
    return [stream[a:b] for a, b in zip(cuts, cuts[1:], strict=False)]


async def bodies(protocol, line, asked, chance):
    """Send requests in pieces, now and then with a client that does not read; return the bodies of all answers."""
    stream, ends = b"", []
    for one in asked:
        stream += one
        ends.append(len(stream))
    for piece in pieces(stream, ends, chance):
        while line.paused:
            await asyncio.sleep(0)
        protocol.data_received(piece)
        if chance.random() < 0.1:
            protocol.pause_writing()
            await asyncio.sleep(0)
            protocol.resume_writing()
        for _ in range(chance.choice([0, 0, 1, 3, 8])):
            await asyncio.sleep(0)
    async with asyncio.timeout(20):
        while line.written.count(b"HTTP/1.1 200") < len(asked):
            await asyncio.sleep(0)
    return bodies_of(line.written)


def bodies_of(written):
    """Return the bodies of answers that lie one after the other, by the lengths that they say."""
    found = []
    while written:
        head, _, rest = written.partition(b"\r\n\r\n")
        size = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
        found.append(rest[:size])
        written = rest[size:]
    return found


@pytest.mark.parametrize("seed", range(4))
def test_however_requests_of_all_ways_are_cut_each_is_answered_once_in_its_turn(seed):
    chance = random.Random(seed)

    async def ask():
        async with connected(1) as (server, (first,), (line,)):
            numbers = [bodies_of(await answer(first, line, request(row)))[0] for row in ROWS]
            app = App(None, lambda: server)
            app._server = server
            config = uvicorn.config.Config(app, log_config=None, lifespan="off", ws="none")
            config.load()
            for _ in range(CONNECTIONS):
                line, protocol = Line(), FastProtocol(config, first.server_state, {})
                protocol.connection_made(line)
                asked, expected = zip(*requests(chance, numbers), strict=True)
                found = await bodies(protocol, line, asked, chance)
                assert [body[: len(start)] for body, start in zip(found, expected, strict=True)] == list(expected)
                protocol.connection_lost(None)

    asyncio.run(ask())


def test_a_key_is_asked_for_with_each_request_of_a_connection(tmp_path, monkeypatch):
    (tmp_path / "keys").write_text("")
    monkeypatch.setattr(Settings, "keys_path", property(lambda self: tmp_path / "keys"))

    async def ask():
        async with connected(1) as (_, (protocol,), (line,)):
            return [status(await answer(protocol, line, request(ROWS[0]))) for _ in range(3)]

    assert asyncio.run(ask()) == [401] * 3


def test_what_comes_behind_a_known_request_in_one_piece_is_answered_too():
    async def ask():
        async with connected(1) as (_, (protocol,), (line,)):
            await answer(protocol, line, request(ROWS[0]))
            await answer(protocol, line, request(ROWS[1]) + request(ROWS[2]))
            async with asyncio.timeout(20):
                while line.written.count(b"HTTP/1.1 200") < 2:
                    await asyncio.sleep(0)
            return line.written.split(b"HTTP/1.1 ")[1:]

    assert [one[:3] for one in asyncio.run(ask())] == [b"200", b"200"]


def test_a_connection_told_to_end_while_a_known_request_is_under_way_answers_it_and_closes():
    async def ask():
        async with connected(1) as (_, (protocol,), (line,)):
            await answer(protocol, line, request(ROWS[0]))
            line.written = b""
            protocol.data_received(request(ROWS[1]))
            protocol.shutdown()
            await written([line])
            return line.written, line.closed

    got, closed = asyncio.run(ask())
    assert status(got) == 200 and b"connection: close\r\n" in got and closed


def test_a_connection_is_not_idle_while_its_request_is_under_way_and_is_again_when_it_is_answered():
    async def ask():
        async with connected(1) as (_, (protocol,), (line,)):
            await answer(protocol, line, request(ROWS[0]))
            idle_until = protocol.until
            protocol.data_received(request(ROWS[1]))
            under_way = protocol.until
            await answer(protocol, line, b"")
            return idle_until, under_way, protocol.until

    idle_until, under_way, after = asyncio.run(ask())
    assert under_way == float("inf") and after < float("inf") and idle_until < float("inf")


def test_a_request_with_a_known_head_goes_the_short_way():
    async def ask():
        async with connected(1) as (_, (protocol,), (line,)):
            await answer(protocol, line, request(ROWS[0]))
            protocol._receive = lambda data: 1 / 0
            return [status(await answer(protocol, line, request(row))) for row in ROWS[:3]]

    assert asyncio.run(ask()) == [200] * 3
