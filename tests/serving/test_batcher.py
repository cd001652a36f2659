import asyncio
import threading

import numpy as np
import pytest

from registry.errors import RequestError
from serving.batcher import Admission, Batcher


class Doubling:
    """Stands where an engine stands: answers 2 x, refuses rows below 0, and keeps the size of its batches."""

    def __init__(self, expected_s):
        self.batches = []
        self.threads = set()
        self._expected_s = expected_s

    def expected_s(self, rows):
        return self._expected_s

    def run(self, rows):
        self.batches.append(len(rows))
        self.threads.add(threading.get_ident())
        if (rows < 0).any():
            raise RuntimeError("negative")
        return [rows * 2.0]


@pytest.fixture(params=[0.0, 1.0], ids=["on the loop", "in a thread"])
def engine(request):
    return Doubling(request.param)


def answers(engine, requests, max_batch_rows=64):
    async def ask():
        batcher = Batcher(engine, max_batch_rows, observe=lambda rows: None)
        try:
            return await asyncio.gather(*(batcher.submit(rows) for rows in requests), return_exceptions=True)
        finally:
            batcher.close()

    return asyncio.run(ask())


def rows(*values):
    return np.array(values, dtype=np.float32)[:, None]


def test_each_request_gets_the_answer_to_its_own_rows(engine):
    requests = [rows(*range(i, i + 1 + i % 3)) for i in range(50)]
    for sent, answer in zip(requests, answers(engine, requests), strict=True):
        np.testing.assert_array_equal(answer.outputs, sent * 2)
        assert answer.queue_s >= 0 and answer.infer_s > 0


def test_requests_that_come_together_run_together(engine):
    answers(engine, [rows(1)] * 40)
    assert len(engine.batches) <= 2 and sum(engine.batches) == 40


def test_a_batch_is_never_longer_than_its_limit_unless_one_request_is(engine):
    answers(engine, [rows(*range(3))] * 20 + [rows(*range(30))] + [rows(1)] * 5, max_batch_rows=8)
    assert sorted(engine.batches)[-1] == 30
    assert all(size <= 8 for size in engine.batches if size != 30)
    assert sum(engine.batches) == 95


def test_the_error_of_one_request_is_its_own(engine):
    got = answers(engine, [rows(1), rows(-1), rows(2, 3)])
    assert isinstance(got[1], RuntimeError)
    np.testing.assert_array_equal(got[0].outputs, rows(2))
    np.testing.assert_array_equal(got[2].outputs, rows(4, 6))


def test_short_runs_stay_on_the_loop_and_long_ones_leave_it():
    for expected_s, on_loop in ((0.0, True), (1.0, False)):
        engine = Doubling(expected_s)
        answers(engine, [rows(1)])
        assert (engine.threads == {threading.get_ident()}) is on_loop


def test_a_client_that_goes_away_stops_nobody(engine):
    async def ask():
        batcher = Batcher(engine, 64, observe=lambda rows: None)
        gone = asyncio.ensure_future(batcher.submit(rows(1)))
        stays = asyncio.ensure_future(batcher.submit(rows(5)))
        await asyncio.sleep(0)
        gone.cancel()
        answer = await stays
        batcher.close()
        return answer

    np.testing.assert_array_equal(asyncio.run(ask()).outputs, rows(10))


def test_what_passes_the_bound_is_refused_with_503_and_leaves_room_when_others_leave():
    admission = Admission(10)
    admission.enter(8)
    with pytest.raises(RequestError, match="8 rows are in flight, 3 more would pass the limit of 10") as caught:
        admission.enter(3)
    assert caught.value.status == 503 and caught.value.reason == "queue_full"
    admission.leave(8)
    admission.enter(10)


def test_more_rows_than_ever_fit_are_refused_with_413():
    with pytest.raises(RequestError, match="11 in one request, at most 10 are accepted; send several") as caught:
        Admission(10).enter(11)
    assert caught.value.status == 413


def test_requests_that_wait_when_the_batcher_closes_are_still_answered(engine):
    async def ask():
        batcher = Batcher(engine, max_batch_rows=1, observe=lambda rows: None)
        waiting = [asyncio.ensure_future(batcher.submit(rows(i))) for i in range(10)]
        await asyncio.sleep(0)
        batcher.close()
        return await asyncio.wait_for(asyncio.gather(*waiting), 10)

    assert [answer.outputs[0, 0] for answer in asyncio.run(ask())] == [2.0 * i for i in range(10)]
