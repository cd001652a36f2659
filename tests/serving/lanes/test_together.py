"""Requests of one head in one turn of the loop: one run, and to each its own answer."""

import asyncio
import json

import numpy as np
import pytest
from in_turns import ROW, ROWS, answers, posted, spoken, status
from prometheus_client import generate_latest

from registry import aliases
from serving.batcher import late


@pytest.fixture(autouse=True)
def champion(publish):
    aliases.promote(publish(spec=ROW).tag, "first")


def test_they_are_one_run_and_each_gets_its_own_rows_and_id():
    alone, _ = asyncio.run(answers(ROWS[:1]))
    got, runs = asyncio.run(answers(ROWS))
    assert runs == 1
    assert got[0].split(b"\r\n\r\n")[1] == alone[0].split(b"\r\n\r\n")[1]
    bodies = {one.split(b"\r\n\r\n")[1] for one in got}
    idents = {one.split(b"vigil-id: ")[1].split(b"\r\n")[0] for one in got}
    assert len(bodies) == len(idents) == 32 and {status(one) for one in got} == {200}


@pytest.mark.parametrize("wire", ["json", "v2 json", "v2 binary"])
def test_whatever_their_encoding_each_gets_the_answer_that_it_gets_alone(wire):
    sizes = [1, 3, 1, 2, 2, 1, 4, 1]
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    asked = [spoken(wire, ROWS[a : a + n], f"id-{a}" if a % 2 else "") for a, n in zip(starts, sizes, strict=True)]
    together, runs = asyncio.run(answers(asked))
    assert runs == 1 and {status(one) for one in together} == {200}
    for one, all_of_it, size in zip(asked, together, sizes, strict=True):
        alone, _ = asyncio.run(answers([one]))
        assert as_said(all_of_it, size) == as_said(alone[0], size)


def as_said(answer, rows):
    """Return an answer without the id that a service makes up itself, and its numbers to single precision."""
    head, _, body = answer.partition(b"\r\n\r\n")
    made = head.split(b"vigil-id: ")[1].split(b"\r\n")[0]
    body, start = body.replace(made, b"made up"), head.find(b"inference-header-content-length: ")
    if start < 0:
        return head.count(b"\r\n"), json.loads(body, parse_float=lambda text: round(float(text), 5))
    length = int(head[start:].split(b"\r\n")[0].split(b" ")[1]) - len(made) + len(b"made up")
    numbers = np.frombuffer(body[length:], np.float32).reshape(rows, -1)
    return json.loads(body[:length]), numbers.round(5).tolist()


def test_one_that_cannot_be_read_leaves_the_others_together():
    asked = [spoken("json", ROWS[i : i + 1], "") for i in range(8)]
    asked[3] = posted("/v1/predict", b'{"rows": [[1, 2]]}')
    got, runs = asyncio.run(answers(asked))
    assert [status(one) for one in got] == [200, 200, 200, 422, 200, 200, 200, 200] and runs == 1
    assert b"rows[0]: must hold 6 values, found 2" in got[3]


def test_one_that_is_refused_leaves_the_others_their_answers():
    rows = ROWS.copy()
    rows[5, 2] = np.nan
    got, _ = asyncio.run(answers(rows))
    assert [i for i, one in enumerate(got) if status(one) != 200] == [5]
    assert b"rows[0][2]: must be a finite float32, found nan" in got[5]


def test_a_model_that_fails_for_one_of_them_answers_the_others():
    def prepare(server, lines):
        engine = server.hosts.only().serving().engine
        run = engine.run

        def failing(rows, names=(), options=None):
            if (rows == ROWS[9]).all(axis=-1).any():
                raise RuntimeError("this row breaks the model")
            return run(rows, names, options)

        engine.run = failing

    got, _ = asyncio.run(answers(ROWS, prepare))
    assert [i for i, one in enumerate(got) if status(one) != 200] == [9]
    assert status(got[9]) == 500


def test_more_than_may_be_in_flight_together_are_refused_one_by_one():
    def prepare(server, lines):
        server.hosts.only().admission.limit_rows = 20

    got, _ = asyncio.run(answers(ROWS, prepare))
    assert sorted(map(status, got)) == [200] * 20 + [503] * 12


def test_a_connection_that_closed_meanwhile_is_not_written_to():
    def prepare(server, lines):
        lines[3].closed = True

    got, _ = asyncio.run(answers(ROWS, prepare))
    assert [i for i, one in enumerate(got) if not one] == [3]


@pytest.mark.parametrize("said", ["joined", "several"])
@pytest.mark.parametrize("gone", [31, 32])
def test_those_that_wait_for_their_run_are_not_run_once_all_their_clients_are_gone(said, gone):
    counted = {}

    def prepare(server, lines):
        batcher = server.hosts.only().serving().batcher
        submit = batcher.submit  # as if the run before were under way

        def busy(job, turn_over=False):
            submit(job, turn_over)
            for line in lines[:gone]:
                line.closed = True
            asyncio.get_running_loop().call_soon(batcher._next)

        batcher._busy, batcher.submit = True, busy

    def look(server):
        server.account.settle()
        text = generate_latest(server.metrics.registry).decode()
        counted.update(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("vigil_request"))

    rows = ROWS if said == "joined" else [spoken("json", row[None], "") for row in ROWS]
    got, runs = asyncio.run(answers(rows, prepare, look))
    assert [bool(one) for one in got] == [False] * gone + [True] * (32 - gone)
    assert runs == (gone < 32)
    refused = counted.get('vigil_requests_rejected_total{model="tiny",reason="client_gone"}', 0)
    assert float(refused) == (32 if gone == 32 else 0)


def test_while_the_service_drains_every_answer_closes_its_connection():
    def prepare(server, lines):
        server.lifecycle.closing = True

    got, runs = asyncio.run(answers(ROWS, prepare))
    assert runs == 1 and all(b"connection: close\r\n" in one for one in got)


def test_no_run_is_longer_than_its_limit():
    got, runs = asyncio.run(answers(ROWS, max_batch_rows=10))
    assert runs == 4 and {status(one) for one in got} == {200}


def test_a_bug_while_they_are_answered_is_an_error_for_each_and_no_silence(caplog):
    def prepare(server, lines):
        server.predictor.joined = lambda *_: 1 / 0

        def begin(*_):
            raise RuntimeError("a bug")

        server.begin = begin

    got, _ = asyncio.run(answers(ROWS, prepare))
    assert {status(one) for one in got} == {500}
    assert {record.message for record in caplog.records} >= {"bulk_failed", "request_failed"}


def test_each_of_those_that_are_late_is_counted_with_its_own_time():
    counted = {}

    def prepare(server, lines):
        batcher = server.hosts.only().serving().batcher
        batcher._busy, batcher.submit = True, lambda job, turn_over=False: job.settle(late())

    def look(server):
        server.account.settle()
        text = generate_latest(server.metrics.registry).decode()
        counted.update(line.rsplit(" ", 1) for line in text.splitlines() if line.startswith("vigil_request"))

    got, _ = asyncio.run(answers(ROWS, prepare, look))
    assert {status(one) for one in got} == {503} and all(b"retry-after: 1" in one for one in got)
    assert float(counted['vigil_requests_rejected_total{model="tiny",reason="deadline"}']) == 32
    assert float(counted['vigil_requests_total{code="503",route="/v1/predict"}']) == 32
    assert float(counted['vigil_request_seconds_sum{route="/v1/predict"}']) > 0
