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
from serving.account import Bulk
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


async def sent(settings):
    """Send each of ROWS as a request that goes by its place, and return the service's counts once it has stopped."""
    server = Server(settings)
    await server.start()
    host, replies = server.hosts.only(), []
    for place, row in enumerate(ROWS):
        head = Head("POST", "/v1/predict", b"", {b"content-type": b"application/json", b"x-request-id": b"%d" % place})
        plan = server.predictor.plan(head, head.path, host)
        server.begin(plan, orjson.dumps({"rows": [row.tolist()]}), replies.append)
    async with asyncio.timeout(20):
        while len(replies) < len(ROWS):
            await asyncio.sleep(0.001)
    await server.stop()
    assert {reply.status for reply in replies} == {200}
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
