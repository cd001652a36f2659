"""Short runs are made where requests are collected: when, for whom, and what one alone costs that fails."""

import asyncio
import dataclasses
import itertools
import time

import numpy as np
import pytest
from in_turns import ROW, ROWS, answer, answers, connected, posted, request, runs_of, spoken, status, written
from prometheus_client import generate_latest

from registry import aliases
from serving import wire
from serving.account import STAGES
from serving.http import Head
from serving.lanes import together


@pytest.fixture(autouse=True)
def champion(publish):
    aliases.promote(publish(spec=ROW).tag, "first")


@pytest.mark.parametrize("said", ["joined", "several"])
def test_what_is_short_is_answered_in_the_turn_after_it_came_and_never_queued(said):
    async def ask():
        async with connected(2) as (server, protocols, lines):
            server.hosts.only().serving().batcher.submit = lambda *_: 1 / 0
            for protocol, row in zip(protocols, ROWS, strict=False):
                protocol.data_received(request(row) if said == "joined" else spoken("json", row[None], ""))
            await asyncio.sleep(0)
            return [line.written for line in lines], runs_of(server)

    got, runs = asyncio.run(ask())
    assert [status(one) for one in got] == [200, 200] and runs == 1


async def in_turns(first, *then):
    """Return the runs there were after each turn of the loop, of which each brings as many requests as it says.

    first: what came together before them.
    """
    async with connected(max(first, sum(then))) as (server, protocols, lines):
        for protocol, row in zip(protocols[:first], ROWS, strict=False):
            protocol.data_received(request(row))
        await written(lines[:first])
        before, after, left = runs_of(server), [], iter(protocols)
        for count in then:
            for protocol, row in zip(itertools.islice(left, count), ROWS, strict=False):
                protocol.data_received(request(row))
            await asyncio.sleep(0)
            after.append(runs_of(server) - before)
        return after


@pytest.mark.parametrize(
    ("first", "then", "runs"),
    [
        (8, (3, 3, 2, 0), [0, 0, 1, 1]),  # as many as before are here
        (8, (3, 2, 0, 0), [0, 0, 1, 1]),  # a turn brought no more
        (8, (8, 0), [1, 1]),
        (8, (1, 0, 0), [0, 1, 1]),  # nobody else: it waited for one turn
        (1, (1, 0), [1, 1]),  # who was alone before is not waited for
        (8, (3, 2, 0, 3, 2, 0), [0, 0, 1, 1, 1, 2]),
    ],
)
def test_those_who_were_answered_together_are_waited_for_while_each_turn_brings_more(first, then, runs, monkeypatch):
    monkeypatch.setattr(together, "LONGEST_WAIT_S", 20.0)  # however long a turn takes on a busy machine
    assert asyncio.run(in_turns(first, *then)) == runs


def test_answers_say_the_date_of_their_own_time():
    async def ask():
        async with connected(1) as (_, (protocol,), (line,)):
            said = []
            for headers in (first := [(b"date", b"Mon")], first, [(b"date", b"Tue")]):
                protocol.server_state.default_headers = headers
                said.append(await answer(protocol, line, request(ROWS[0])))
            return said

    dates = [one.split(b"date: ")[1].split(b"\r\n")[0] for one in asyncio.run(ask())]
    assert dates == [b"Mon", b"Mon", b"Tue"]


@pytest.mark.parametrize("said", ["joined", "several"])
def test_the_length_that_an_answer_says_is_its_own_and_ids_never_repeat(said):
    async def ask():
        async with connected(4) as (_, protocols, lines):
            found = []
            for size in (1, 2, 1, 3, 3, 1):
                for protocol, line in zip(protocols, lines, strict=True):
                    line.written = b""
                    asked = request(ROWS[:size]) if said == "joined" else spoken("json", ROWS[:size], "")
                    protocol.data_received(asked)
                await written(lines)
                found += [line.written for line in lines]
            return found

    idents = set()
    for one in asyncio.run(ask()):
        head, body = one.split(b"\r\n\r\n", 1)
        assert int(head.split(b"content-length: ")[1].split(b"\r\n")[0]) == len(body)
        idents.add(head.split(b"vigil-id: ")[1])
    assert len(idents) == 24


def test_who_waits_for_others_does_not_wait_long_when_turns_take_long():
    async def ask():
        async with connected(32) as (_, protocols, lines):
            for protocol, row in zip(protocols, ROWS, strict=True):
                protocol.data_received(request(row))
            await written(lines)
            turns, lines[0].written = 0, b""
            for protocol, row in zip(protocols, ROWS, strict=True):
                protocol.data_received(request(row))  # one more with each turn
                time.sleep(0.002)
                await asyncio.sleep(0)
                if not lines[0].written:
                    turns += 1
            return turns

    assert asyncio.run(ask()) <= 1


@pytest.mark.parametrize("said", ["joined", "several"])
def test_time_counts_from_when_a_request_came(said):
    more = b"x-request-timeout: 0.05\r\n"

    async def ask():
        async with connected(1) as (server, (protocol,), (line,)):
            row = request(ROWS[0]) if said == "joined" else spoken("json", ROWS[:1], "")
            protocol.data_received(row.replace(b"host: x\r\n", b"host: x\r\n" + more))
            time.sleep(0.1)  # as if something else had kept the loop
            await written([line])
            return line.written, runs_of(server)

    got, runs = asyncio.run(ask())
    assert status(got) == 503 and b"deadline" in got and runs == 0


@pytest.mark.parametrize("said", ["joined", "several"])
def test_nothing_is_run_or_counted_for_those_who_went_before_their_turn(said):
    counted = []

    async def ask():
        async with connected(2) as (server, protocols, lines):
            for protocol, line in zip(protocols, lines, strict=True):
                protocol.data_received(request(ROWS[0]) if said == "joined" else spoken("json", ROWS[:1], ""))
                line.closed = True
            for _ in range(3):
                await asyncio.sleep(0)
            server.account.settle()
            counted.extend(generate_latest(server.metrics.registry).decode().splitlines())
            return runs_of(server)

    assert asyncio.run(ask()) == 0
    assert not [line for line in counted if line.startswith(("vigil_requests_total{", "vigil_input_rows_total{"))]


def fails(kind):
    def prepare(server, lines):
        engine = server.hosts.only().serving().engine

        def run(rows, names=(), options=None):
            if kind == "raises":
                raise RuntimeError("this model is broken")
            return [np.full((len(rows), 3), np.nan, np.float32)]

        engine.run = run

    return prepare


@pytest.mark.parametrize(("kind", "code"), [("raises", 500), ("is not finite", 422)])
def test_one_alone_whose_run_fails_costs_one_run(kind, code):
    (got,), runs = asyncio.run(answers(ROWS[:1], fails(kind)))
    assert status(got) == code and runs == 1


@pytest.mark.parametrize("why", ["full", "malformed"])
def test_one_alone_that_is_refused_is_read_once_and_counted_once(why, monkeypatch):
    counted, read = {}, []

    def prepare(server, lines):
        if why == "full":
            server.hosts.only().admission.rows = server.settings.max_inflight_rows
        decode = wire.codecs.ROWS[b"application/json"].decode
        codec = dataclasses.replace(
            wire.codecs.ROWS[b"application/json"], decode=lambda call, release: read.append(1) or decode(call, release)
        )
        monkeypatch.setattr(wire.codecs, "_chosen", lambda *_: codec)

    def look(server):
        if why == "full":
            server.hosts.only().admission.rows = 0
        server.account.settle()
        text = generate_latest(server.metrics.registry).decode()
        counted.update(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("vigil_re"))

    asked = spoken("json", ROWS[:1], "") if why == "full" else posted("/v1/predict", b'{"rows": 1}')
    (got,), runs = asyncio.run(answers([asked], prepare, look))
    code = status(got)
    assert (code, len(read), runs) == (503 if why == "full" else 422, 1, 0)
    assert float(counted[f'vigil_requests_total{{code="{code}",route="/v1/predict"}}']) == 1


@pytest.mark.parametrize("said", ["joined", "several"])
def test_each_request_of_a_run_is_in_every_stage_and_reading_them_is_shared_among_them(said):
    async def ask():
        async with connected(32) as (server, protocols, lines):
            asked = [request(row) if said == "joined" else spoken("json", row[None], "") for row in ROWS]
            begun = time.perf_counter()
            for protocol, one in zip(protocols, asked, strict=True):
                protocol.data_received(one)
            await written(lines)
            took = time.perf_counter() - begun
            server.account.settle()
            version = server.hosts.only().serving().release.version
            place = {"model": "tiny", "version": version}
            value = server.metrics.registry.get_sample_value
            counts = [value("vigil_stage_seconds_count", place | {"stage": stage}) for stage in STAGES]
            return counts, value("vigil_stage_seconds_sum", place | {"stage": "decode"}), took

    counts, decode_s, took = asyncio.run(ask())
    assert counts == [32] * 4 and 0 < decode_s <= took


def test_of_requests_that_are_as_one_only_those_that_are_recorded_give_their_ids():
    async def ask():
        async with connected(0) as (server, _, _):
            head = Head("POST", "/v1/predict", b"", {b"content-type": b"application/octet-stream"})
            plan = server.predictor.plan(head, head.path, server.hosts.only())
            one = server.predictor.joined(
                plan, [ROWS[i : i + 2].tobytes() for i in range(3)], time.perf_counter(), None
            )
            return one.idents, one.row_ids([True, False, True])

    (first, _, last), ids = asyncio.run(ask())
    assert ids == [f"{first}-0", f"{first}-1", f"{last}-0", f"{last}-1"]
