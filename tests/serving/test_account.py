"""What is recorded of requests that were worked off together."""

import asyncio
import sqlite3
from contextlib import closing
from dataclasses import dataclass, field

import numpy as np
import orjson
from hypothesis import given
from hypothesis import strategies as st
from tiny_release import IMAGE, rows_of

from registry import aliases
from serving.account import STAGES, Bulk
from serving.http import Head
from serving.server import Server
from serving.settings import Settings


@dataclass
class Answered:
    """As much of a prediction as says which rows are whose."""

    sizes: list
    rows: np.ndarray = field(init=False)

    def __post_init__(self):
        self.rows = np.random.default_rng(sum(self.sizes)).random((sum(self.sizes), 2, 3)).astype(np.float32)


TAKEN = st.lists(st.lists(st.tuples(st.integers(1, 5), st.booleans()), min_size=1, max_size=4), min_size=1, max_size=6)


@given(TAKEN)
def test_the_rows_of_the_requests_that_are_taken_are_those_and_a_copy(said):
    answered = [Answered([size for size, _ in one]) for one in said]
    taken = [wanted for one in said for _, wanted in one]
    if not any(taken):
        return
    bulk = Bulk(answered, np.zeros(0), None, 0.0)
    found = bulk.part(taken)
    np.testing.assert_array_equal(found, bulk.rows[np.repeat(taken, bulk.sizes)])
    assert not any(np.shares_memory(found, one.rows) for one in answered)


ROWS = rows_of(IMAGE, 300, seed=5)
TEN_PER_S = 10 * ROWS[0].nbytes * 1e-6


async def answer(server, requests):
    """Send requests (n, *shape) that go by their places, and wait until all are answered."""
    host, replies = server.hosts.only(), []
    for place, rows in enumerate(requests):
        head = Head("POST", "/v1/predict", b"", {b"content-type": b"application/json", b"x-request-id": b"%d" % place})
        plan = server.predictor.plan(head, head.path, host)
        server.begin(plan, orjson.dumps({"rows": rows.tolist()}), replies.append)
    await reached(lambda: len(replies) == len(requests))
    assert {reply.status for reply in replies} == {200}


async def reached(what):
    async with asyncio.timeout(20):
        while not what():
            await asyncio.sleep(0.001)


async def sent(settings):
    """Send each of ROWS by itself and return the service's counts once it has stopped."""
    server = Server(settings)
    await server.start()
    await answer(server, ROWS[:, None])
    await server.stop()
    value = server.metrics.registry.get_sample_value
    return {what: value(f"vigil_records_{what}", {"model": "tiny"}) or 0 for what in ("total", "sampled_out_total")}


def test_what_is_beyond_the_bytes_that_are_recorded_is_counted_and_the_rest_is_on_the_log(publish, tmp_path):
    aliases.promote(publish().tag, "first")
    log = tmp_path / "log.sqlite"
    counted = asyncio.run(sent(Settings(threads=1, log=str(log), record_mb_per_s=TEN_PER_S)))
    with closing(sqlite3.connect(log)) as opened:
        found = dict(opened.execute("SELECT id, row FROM predictions"))
    assert found == {ident: ROWS[int(ident.removesuffix("-0"))].tobytes() for ident in found}
    assert 10 <= len(found) == counted["total"] < len(ROWS)
    assert counted["total"] + counted["sampled_out_total"] == len(ROWS)


async def swapped(first, second):
    """Return the metrics of a service that answered 7 requests by the first release, and 4 by the second."""
    server = Server(Settings(threads=1, record=False, poll_s=0.01, rehearsal_mb=0))
    aliases.promote(first.tag, "first")
    await server.start()
    await answer(server, np.split(ROWS[:21], 7))
    aliases.promote(second.tag, "second", force=True)
    await reached(lambda: server.hosts.only().serving().release.version == second.version)
    await answer(server, np.split(ROWS[:20], 4))
    server.account.settle()
    value = server.metrics.registry.get_sample_value
    await server.stop()
    return value


def test_each_version_has_every_stage_of_its_requests_and_the_rows_of_its_runs(publish):
    first, second = publish(), publish(seed=1)
    value = asyncio.run(swapped(first, second))
    for release, requests, rows in ((first, 7, 21), (second, 4, 20)):
        place = {"model": "tiny", "version": release.version}
        for stage in STAGES:
            assert value("vigil_stage_seconds_count", place | {"stage": stage}) == requests, stage
        assert value("vigil_batch_rows_sum", place) == value("vigil_input_rows_total", place) == rows
        assert 1 <= value("vigil_batch_rows_count", place) <= requests
    spent_s = sum(
        value("vigil_stage_seconds_sum", {"model": "tiny", "version": one.version, "stage": stage})
        for one in (first, second)
        for stage in STAGES
    )
    assert 0 < spent_s <= value("vigil_request_seconds_sum", {"route": "/v1/predict"})
