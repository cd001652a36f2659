"""What the real service tells of itself: counts over several workers, traces, and a log that stays short."""

import contextlib
import http.client
import json
import os
import signal
import socket
import urllib.parse
from collections import Counter
from pathlib import Path

import otlp_receiver
from tiny_release import IMAGE, rows_of

ROWS = rows_of(IMAGE, 3)


def workers(service):
    pid = service.process.pid
    return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def predict(service, times):
    for _ in range(times):
        status, _ = service.call("/v1/predict", {"rows": ROWS.tolist()})
        assert status == 200


def counts(service):
    """Return what should be the same whichever worker answers."""
    text = service.scrape()
    wanted = ("vigil_input_rows_total{", "vigil_signal_bin_total{", "vigil_records_total{", "vigil_requests_total{")
    found = Counter()
    for line in text.splitlines():
        if line.startswith(wanted) and ('signal="' not in line or 'signal="confidence"' in line):
            if line.startswith("vigil_requests_total") and "/predict" not in line:
                continue
            found[line.partition("{")[0]] += float(line.rsplit(" ", 1)[1])
    return dict(found)


def expected(requests):
    rows = requests * len(ROWS)
    return {
        "vigil_requests_total": requests,
        "vigil_input_rows_total": rows,
        "vigil_signal_bin_total": rows,
        "vigil_records_total": rows,
    }


def test_every_worker_shows_the_counts_of_all_of_them_and_of_one_that_was_killed(started, eventually):
    service = started(VIGIL_WORKERS="2")
    eventually("two workers", lambda: len(workers(service)) == 2)
    predict(service, 30)
    for _ in range(10):  # each a new connection, so either worker may answer
        eventually("the sum", lambda: counts(service) == expected(30))
    killed = workers(service)[0]
    os.kill(killed, signal.SIGKILL)
    eventually("a new worker", lambda: len(set(workers(service)) - {killed}) == 2)
    eventually("readiness", lambda: service.metric("vigil_ready") == 1)
    for _ in range(10):
        assert counts(service) == expected(30)
    predict(service, 20)
    for _ in range(10):
        eventually("the sum", lambda: counts(service) == expected(50))
    eventually("nothing in flight", lambda: service.metric("vigil_inflight_rows") == 0)
    eventually("the limits of both", lambda: service.metric("vigil_inflight_rows_limit") == 2 * 4096)


def test_a_worker_that_nobody_scrapes_holds_no_signals_back(started, eventually):
    service = started(VIGIL_WORKERS="2")
    eventually("two workers", lambda: len(workers(service)) == 2)
    predict(service, 10)
    eventually("the sum", lambda: counts(service) == expected(10))
    for _ in range(10):  # whoever answers
        predict(service, 1)
    address = urllib.parse.urlparse(service.url)

    def signals(asked):
        asked.request("GET", "/metrics")
        lines = asked.getresponse().read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if "bin_total{" in line and '"margin"' in line)

    # one connection is one worker
    with contextlib.closing(http.client.HTTPConnection(address.hostname, address.port, timeout=10)) as asked:
        eventually("the signals of both", lambda: signals(asked) == 20 * len(ROWS))


def test_two_services_on_one_machine_count_apart_and_one_that_starts_again_begins_at_0(started):
    first, second = started(), started()
    predict(first, 4)
    assert first.metric("vigil_input_rows_total") == 4 * len(ROWS)
    assert second.metric("vigil_input_rows_total") == 0
    first.stop()
    assert started().metric("vigil_input_rows_total") == 0


def test_traces_of_the_real_service_reach_a_receiver(started):
    with otlp_receiver.receiving() as (address, spans):
        service = started(VIGIL_TRACE_SHARE="1", OTEL_EXPORTER_OTLP_ENDPOINT=address, VIGIL_DRAIN_S="0")
        predict(service, 3)
        service.stop()
    names = Counter(span.name for _, span in spans)
    assert names["POST /v1/predict"] >= 3
    assert names["decode"] == names["queue"] == names["infer"] == names["encode"] == names["POST /v1/predict"]


def test_a_flood_of_bad_requests_leaves_a_short_log_without_rows(started):
    service = started()
    secret = "314159.2653"
    for _ in range(100):
        assert service.call("/v1/predict", {"rows": [[secret]]})[0] == 422
        assert service.call("/v1/predict", b"{")[0] == 400
        with socket.create_connection((urllib.parse.urlparse(service.url).hostname, service_port(service))) as raw:
            raw.sendall(b"\x00garbage\r\n\r\n")
            raw.recv(1000)
    lines = service.log.read_text().splitlines()
    events = Counter(json.loads(line).get("event", "") if line.startswith("{") else line[:40] for line in lines)
    assert len(lines) < 150, events.most_common(5)
    assert secret not in service.log.read_text()


def service_port(service):
    return urllib.parse.urlparse(service.url).port
