import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from monitoring.log import sampling
from monitoring.log.recorder import Recorder
from monitoring.log.sampling import Bucket, Sampler
from monitoring.metrics import ServingMetrics

REQUESTS = st.lists(st.tuples(st.floats(0, 0.5), st.integers(1, 300)), max_size=200)  # seconds since the last, rows


class Clock:
    """A clock that is set by hand."""

    def __init__(self):
        self.now_s = 0.0

    def monotonic(self):
        return self.now_s


@pytest.fixture
def clock(monkeypatch):
    made = Clock()
    monkeypatch.setattr(sampling, "time", made)
    return made


def let_through(clock, rate, requests):
    """Return (moment, rows, whether taken) of each request."""
    bucket, said = Bucket(rate), []
    for wait_s, rows in requests:
        clock.now_s += wait_s
        said.append((clock.now_s, rows, bucket.take(rows)))
    return said


@given(REQUESTS, st.floats(1, 5000))
def test_no_more_than_the_rate_gets_through_but_the_last_request_and_a_burst(requests, rate):
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock()
        patch.setattr(sampling, "time", clock)
        said = let_through(clock, rate, requests)
    taken = sum(rows for _, rows, took in said if took)
    last = max((rows for _, rows, _ in said), default=0)
    assert taken <= rate * (clock.now_s + 2 * sampling.BURST_S) + last


@given(st.lists(st.integers(1, 300), max_size=50))
def test_below_the_rate_every_request_gets_through(sizes):
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock()
        patch.setattr(sampling, "time", clock)
        said = let_through(clock, 301.0, [(1.0, rows) for rows in sizes])
    assert all(took for _, _, took in said)


def test_large_and_small_requests_of_one_moment_have_the_same_chance(clock):
    said = let_through(clock, 100.0, [(0.0007 * (1 + k % 5), 64 if k % 2 else 1) for k in range(200_000)])
    shares = [sum(took for _, rows, took in said if rows == size) for size in (1, 64)]
    assert shares[0] == pytest.approx(shares[1], rel=0.1)


def test_infinity_lets_everything_through_and_zero_nothing(clock):
    assert all(took for _, _, took in let_through(clock, float("inf"), [(0, 10**9)] * 3))
    assert not any(took for _, _, took in let_through(clock, 0.0, [(1, 1)] * 3))


def test_what_is_left_out_is_counted_in_rows(clock):
    left_out = []
    sampler = Sampler(Bucket(10), left_out.append)
    assert [sampler.wants(rows) for rows in (4, 8, 5, 6)] == [True, True, False, False]
    assert left_out == [5, 6]


@given(REQUESTS, st.floats(1, 5000), st.floats(1, 5e6), st.integers(1, 50_000))
def test_neither_rows_nor_bytes_exceed_their_rate_but_for_the_last_request_and_a_burst(
    tmp_path_factory, requests, rows_per_s, bytes_per_s, row_bytes
):
    log = tmp_path_factory.mktemp("log") / "log.sqlite"
    with pytest.MonkeyPatch.context() as patch:
        clock = Clock()
        patch.setattr(sampling, "time", clock)
        recorder = Recorder(log, rows_per_s=rows_per_s, bytes_per_s=bytes_per_s)
        sampler, taken = recorder.sampler("m", row_bytes), 0
        for wait_s, rows in requests:
            clock.now_s += wait_s
            taken += rows * sampler.wants(rows)
    recorder.close()
    last, seconds = max((rows for _, rows in requests), default=0), clock.now_s + 2 * sampling.BURST_S
    assert taken <= rows_per_s * seconds + last and taken * row_bytes <= bytes_per_s * seconds + last * row_bytes


@pytest.mark.parametrize(("row_bytes", "most"), [(1, 128), (8, 128), (32, 32), (5000, 1)])
def test_large_rows_are_bound_by_their_bytes_and_small_ones_by_their_number(tmp_path, clock, row_bytes, most):
    recorder = Recorder(tmp_path / "log.sqlite", rows_per_s=128, bytes_per_s=1024)
    sampler = recorder.sampler("m", row_bytes)
    assert sum(sampler.wants(1) for _ in range(200)) == most
    recorder.close()


@pytest.mark.parametrize("rates", [(0.0, 1e6), (100.0, 0.0), (math.inf, 0.0), (0.0, math.inf)])
def test_a_rate_of_nothing_records_nothing(tmp_path, rates):
    recorder = Recorder(tmp_path / "log.sqlite", rows_per_s=rates[0], bytes_per_s=rates[1])
    assert not any(recorder.sampler("m", 100).wants(1) for _ in range(3))
    recorder.close()


def test_rows_beyond_the_rate_never_reach_the_queue_and_are_no_loss(tmp_path, clock):
    metrics = ServingMetrics(CollectorRegistry())
    recorder = Recorder(tmp_path / "log.sqlite", metrics=metrics, rows_per_s=10)
    sampler = recorder.sampler("m")
    assert [sampler.wants(6) for _ in range(4)] == [True, True, False, False]
    assert metrics.registry.get_sample_value("vigil_records_sampled_out_total", {"model": "m"}) == 12
    assert not [s for f in metrics.registry.collect() for s in f.samples if s.name == "vigil_records_dropped_total"]
    recorder.close()
