"""More than the service can do: what it takes is answered in time, all else is refused at once and in words."""

import json
import socket
import time
from pathlib import Path

import pytest
from load import Load, address, request
from slow_release import publish_slow
from tiny_release import IMAGE, rows_of

from registry import aliases

BODY = json.dumps({"rows": rows_of(IMAGE, 1).tolist()}).encode()
RUN_S = 0.1
MOST_ROWS = 4
QUANTITIES = {"VIGIL_THREADS": "1", "VIGIL_MAX_BATCH_ROWS": "1", "VIGIL_MAX_INFLIGHT_ROWS": str(MOST_ROWS)}


@pytest.fixture(scope="module")
def slow(tmp_path_factory, start_service, eventually):
    """Return a service whose every run takes `RUN_S`, one row at a time."""
    return serve_slow(tmp_path_factory.mktemp("slow"), start_service, eventually, RUN_S)


def serve_slow(home, start_service, eventually, run_s):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(home))
        aliases.promote(publish_slow(home, run_s).tag, "first")
    service = start_service(home, **QUANTITIES)
    eventually("readiness", lambda: service.call("/readyz")[0] == 200)
    return service


def worker(service):
    pid = service.process.pid
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def threads(service):
    return len(list(Path(f"/proc/{worker(service)}/task").iterdir()))


def overload(service, seconds, times=10):
    """Send `times` of what the service can do; returns its capacity in requests per second, and the tally."""
    started = time.perf_counter()
    with Load(address(service), request(BODY), 1) as alone:
        time.sleep(min(2.0, seconds))
    capacity = len(alone.seconds) / (time.perf_counter() - started)
    connections = 60
    kept = lambda status, headers, body: (status, headers.get(b"retry-after"), json.loads(body))  # noqa: E731
    with Load(address(service), request(BODY), connections, kept, every_s=connections / (times * capacity)) as tally:
        time.sleep(seconds)
    return capacity, tally


def test_ten_times_the_load_is_half_answered_half_refused_and_never_dropped(slow):
    _, tally = overload(slow, 3.0)
    assert tally.errors == [] and set(tally.statuses) == {200, 503}
    refused = [(wait, said["error"]) for status, wait, said in tally.answers if status == 503]
    assert all(int(wait) >= 1 and f"would pass the limit of {MOST_ROWS}" in why for wait, why in refused)
    assert tally.statuses[200] >= 5
    assert tally.quantile(0.5, 503) < tally.quantile(0.5, 200) / 2
    assert slow.metric("vigil_requests_rejected_total", reason="queue_full") == tally.statuses[503]


def test_a_deadline_ends_the_wait_and_the_run_and_the_next_request_is_served(slow, eventually):
    before = threads(slow)
    for path in ("/v1/predict", "/v1/predict", "/v1/predict"):
        status, said = slow.call(path, BODY, {"X-Request-Timeout": "0.02", "Content-Type": "application/json"})
        assert status == 503 and "deadline passed" in said["error"]
    assert slow.metric("vigil_requests_rejected_total", reason="deadline") >= 3
    assert slow.call("/v1/predict", BODY)[0] == 200
    eventually("all rows let out", lambda: slow.metric("vigil_inflight_rows") == 0)
    assert threads(slow) <= before + 4


def test_work_of_a_client_that_went_away_in_the_queue_is_dropped_and_counted(slow, eventually):
    gone = slow.metric("vigil_requests_rejected_total", reason="client_gone")
    rows = slow.metric("vigil_input_rows_total")
    clients = [socket.create_connection(address(slow)) for _ in range(3)]
    try:
        for client in clients:
            client.sendall(request(BODY))
            eventually("the place taken", lambda c=client: slow.metric("vigil_inflight_rows") >= clients.index(c) + 1)
    finally:
        for client in reversed(clients):
            client.close()
    eventually("all rows let out", lambda: slow.metric("vigil_inflight_rows") == 0)
    assert slow.metric("vigil_requests_rejected_total", reason="client_gone") >= gone + 1
    assert slow.metric("vigil_input_rows_total") <= rows + 2
    assert slow.call("/v1/predict", BODY)[0] == 200


@pytest.mark.proof
def test_at_ten_times_the_capacity_what_is_accepted_is_in_time_and_goodput_stays(home, start_service, eventually):
    service = serve_slow(home, start_service, eventually, 0.2)
    busy_s = lambda: service.metric("vigil_stage_seconds_sum", stage="infer")  # noqa: E731
    started, worked = time.perf_counter(), busy_s()
    capacity, tally = overload(service, 60.0)
    goodput = (busy_s() - worked) / (time.perf_counter() - started)  # of the one thread that can run the model
    bound_s = MOST_ROWS / capacity
    print(
        f"10 x {capacity:.1f}/s for 60 s: {dict(tally.statuses)}, {len(tally.errors)} resets; goodput {goodput:.0%} of "
        f"the time; accepted p99 {tally.quantile(0.99):.2f} s = {tally.quantile(0.99) / bound_s:.2f} x the bound of "
        f"{bound_s:.2f} s; refused p50 {tally.quantile(0.5, 503) * 1e3:.1f} ms, p99 "
        f"{tally.quantile(0.99, 503) * 1e3:.1f} ms"
    )
    assert tally.errors == [] and set(tally.statuses) == {200, 503}
    assert all(wait for status, wait, _ in tally.answers if status == 503)
    assert goodput >= 0.9 and tally.quantile(0.99) <= 2 * bound_s


@pytest.mark.proof
def test_a_hundred_calls_that_run_out_of_time_leave_no_thread_behind(home, start_service, eventually):
    service = serve_slow(home, start_service, eventually, 1.0)
    before = threads(service)
    with Load(address(service), request(BODY, headers=[("X-Request-Timeout", "0.2")]), 4) as tally:
        eventually("100 calls", lambda: sum(tally.statuses.values()) >= 100, 120)
    most = threads(service)
    status, _ = service.call("/v1/predict", BODY)
    calls = sum(tally.statuses.values())
    print(f"{calls} calls of 0.2 s to runs of 1 s: {dict(tally.statuses)}; threads before {before}, after {most}")
    assert status == 200 and most <= before + 4 and not tally.errors and set(tally.statuses) == {503}
