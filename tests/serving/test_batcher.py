import asyncio
import math
import threading
import time

import numpy as np
import pytest

from registry.errors import RequestError
from serving.admission import Admission
from serving.batcher import Batcher, Job


class Doubling:
    """Stands where an engine stands: answers 2 x, refuses rows below 0, and keeps the size of its batches."""

    def __init__(self, expected_s):
        self.batches = []
        self.threads = set()
        self._expected_s = expected_s

    def expected_s(self, rows):
        return self._expected_s

    def join(self, parts):
        return np.concatenate(parts)

    def run(self, rows, names=(), options=None):
        self.batches.append(len(rows))
        self.threads.add(threading.get_ident())
        if (rows < 0).any():
            raise RuntimeError("negative")
        return [rows * 2.0 if name == "main" else rows + 100.0 for name in names]


class Looping(Doubling):
    """Runs until it is told to stop, as a model that never ends."""

    def run(self, rows, names=(), options=None):
        self.batches.append(len(rows))
        until = time.monotonic() + 20
        while not options.terminate and time.monotonic() < until:
            time.sleep(0.001)
        raise RuntimeError("stopped")


@pytest.fixture(params=[0.0, 1.0], ids=["on the loop", "in a thread"])
def engine(request):
    return Doubling(request.param)


def jobs(engine, made, max_batch_rows=64, before=lambda job: None, also=()):
    """Return the jobs after each was settled."""

    async def ask():
        batcher = Batcher(engine, ("main", *also), max_batch_rows, observe=lambda rows: None)
        left, done = len(made), asyncio.get_running_loop().create_future()

        def settled(_):
            nonlocal left
            left -= 1
            if not left:
                done.set_result(None)

        for job in made:
            job.done = settled
            before(job)
            batcher.submit(job)
        await asyncio.wait_for(done, 30)
        batcher.close()
        return made

    return asyncio.run(ask())


def answers(engine, requests, max_batch_rows=64):
    return jobs(engine, [Job(rows, None) for rows in requests], max_batch_rows)


def rows(*values):
    return np.array(values, dtype=np.float32)[:, None]


def test_each_request_gets_the_answer_to_its_own_rows(engine):
    requests = [rows(*range(i, i + 1 + i % 3)) for i in range(50)]
    for sent, job in zip(requests, answers(engine, requests), strict=True):
        np.testing.assert_array_equal(job.answers["main"], sent * 2)
        assert job.queue_s >= 0 and job.infer_s > 0 and job.error is None and job.finite


def test_a_request_gets_the_other_outputs_it_asked_for_though_its_batch_has_others(engine):
    made = [Job(rows(1), None), Job(rows(2, 3), None, ("other",)), Job(rows(4), None, ("main",))]
    for job in jobs(engine, made):
        np.testing.assert_array_equal(job.answers["main"], job.rows * 2)
    np.testing.assert_array_equal(made[1].answers["other"], rows(102, 103))
    assert engine.batches == [4]


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
    assert isinstance(got[1].error, RuntimeError)
    np.testing.assert_array_equal(got[0].answers["main"], rows(2))
    np.testing.assert_array_equal(got[2].answers["main"], rows(4, 6))


def test_an_answer_that_is_not_finite_is_told(engine):
    got = answers(engine, [rows(1), rows(math.inf)])
    assert not any(job.finite for job in got)  # of one run: which of them it is, is looked at one by one


def test_short_runs_stay_on_the_loop_and_long_ones_leave_it():
    for expected_s, on_loop in ((0.0, True), (1.0, False)):
        engine = Doubling(expected_s)
        answers(engine, [rows(1)])
        assert (engine.threads == {threading.get_ident()}) is on_loop


def test_a_request_past_its_deadline_or_without_a_client_is_never_run(engine):
    late, gone, good = (Job(rows(i), None) for i in range(3))
    late.deadline = time.perf_counter() - 1
    gone.gone = True
    jobs(engine, [late, gone, good])
    assert engine.batches == [1]
    assert isinstance(late.error, RequestError) and (late.error.status, late.error.reason) == (503, "deadline")
    assert gone.error.reason == "client_gone"
    np.testing.assert_array_equal(good.answers["main"], rows(4))


def test_a_run_is_stopped_when_the_last_of_its_deadlines_has_passed():
    engine, made = Looping(1.0), [Job(rows(1), None), Job(rows(2), None)]
    settled = []

    def soon(job):
        job.deadline = time.perf_counter() + (0.2 if job is made[0] else 0.6)
        told = job.done
        job.done = lambda one: (settled.append((one, time.perf_counter())), told(one))

    jobs(engine, made, before=soon)
    assert [job for job, _ in settled] == made  # the first is answered while the run goes on for the second
    assert [job.error.reason for job in made] == ["deadline", "deadline"]
    assert all(at >= job.deadline for job, at in settled)
    assert engine.batches == [2]


def test_the_wait_grows_with_the_rows_that_are_ahead():
    engine = Doubling(1.0)

    async def ask():
        batcher = Batcher(engine, ("main",), 4, observe=lambda rows: None)
        waits = [batcher.expected_wait_s()]
        done = asyncio.Event()
        for _ in range(6):
            batcher.submit(Job(rows(1, 2), lambda job: done.set()))
            waits.append(batcher.expected_wait_s())
        await done.wait()
        batcher.close()
        return waits

    waits = asyncio.run(ask())
    assert waits[0] == 0 and waits == sorted(waits) and waits[-1] == pytest.approx(3, abs=0.5)


def test_admission_refuses_what_is_too_many_now_and_what_never_fits():
    admission = Admission(10)
    admission.enter(8)
    with pytest.raises(RequestError) as full:
        admission.enter(3)
    assert (full.value.status, full.value.reason, full.value.retry_s) == (503, "queue_full", 1.0)
    with pytest.raises(RequestError) as never:
        admission.enter(11)
    assert (never.value.status, never.value.retry_s) == (413, None)
    admission.leave(8)
    admission.enter(10)


def test_admission_tells_of_each_change_and_of_no_refusal():
    admission, told = Admission(10), []
    admission.show = told.append
    admission.enter(8)
    with pytest.raises(RequestError):
        admission.enter(3)
    admission.leave(8)
    assert told == [8, 0]


def test_requests_that_wait_when_the_batcher_closes_are_still_answered(engine):
    async def ask():
        batcher = Batcher(engine, ("main",), 1, observe=lambda rows: None)
        made = [Job(rows(i), lambda job: None) for i in range(10)]
        for job in made:
            batcher.submit(job)
        batcher.close()
        async with asyncio.timeout(20):
            while not all(job.settled for job in made):
                await asyncio.sleep(0)
        return made

    assert [job.answers["main"][0, 0] for job in asyncio.run(ask())] == [2.0 * i for i in range(10)]


def test_an_output_that_drift_watches_comes_with_every_answer(engine):
    made = [Job(np.full((2, 1), i), None, ("main", "other") if i == 2 else ()) for i in range(4)]
    for job in jobs(engine, made, also=("embedding",)):
        assert job.answers["embedding"].tolist() == (job.rows + 100.0).tolist()
        assert job.answers["main"].tolist() == (job.rows * 2.0).tolist()


def at_once(engine, job, busy=False):
    """Return whether `job` was run at once."""

    async def ask():
        batcher = Batcher(engine, ("main",), 64, observe=lambda rows: None)
        if busy:
            batcher.submit(Job(rows(1), lambda _: None))
        ran = batcher.run_now(job)
        await asyncio.sleep(0)
        batcher.close()
        return ran

    return asyncio.run(ask())


def test_one_that_is_run_at_once_has_its_answer_or_its_error_and_nobody_is_told():
    good, bad = Job(rows(1, 2), None), Job(rows(-1), None)
    assert at_once(Doubling(0.0), good) and at_once(Doubling(0.0), bad)
    np.testing.assert_array_equal(good.answers["main"], rows(2, 4))
    assert str(bad.error) == "negative" and not good.settled and not bad.settled


def test_nothing_is_run_at_once_that_takes_long_or_is_late_or_before_those_who_wait():
    long, second, late = (Job(rows(1), None) for _ in range(3))
    late.deadline = late.since
    assert not at_once(Doubling(1.0), long) and not at_once(Doubling(0.0), second, busy=True)
    assert not at_once(Doubling(0.0), late)
    assert not long.answers and not second.answers and not late.answers
