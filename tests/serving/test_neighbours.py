"""What runs beside a service: another service on the same host and store, and a monitor that dies and comes back."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from load import Load, address, request
from tiny_release import IMAGE, make_draft, make_files, rows_of

from demo.stack import free_ports
from registry import aliases, store

BODY = json.dumps({"rows": rows_of(IMAGE, 1).tolist()}).encode()
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    home = tmp_path_factory.mktemp("neighbours")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(home))
        aliases.promote(store.publish(make_draft(), make_files(home / "files")).tag, "first")
    return home


def ready(service, eventually):
    eventually("readiness", lambda: service.call("/readyz")[0] == 200)
    return service


def recorded(home):
    with contextlib.closing(sqlite3.connect(home / "vigil" / "log.sqlite")) as log:
        return log.execute("SELECT count(*) FROM predictions").fetchone()[0]


class Monitor:
    """A running `vigil watch` that looks every 0.2 s."""

    def __init__(self, home):
        self._port = free_ports(1)[0]
        self._command = [sys.executable, "-m", "vigil", "watch", "--port", str(self._port), "--interval-s", "0.2"]
        self._environment = os.environ | {"BENTOML_HOME": str(home)}

    def __enter__(self):
        self.process = subprocess.Popen(
            self._command, cwd=ROOT, env=self._environment, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def rows(self):
        """Return how many rows it has seen in the log, None before it answers."""
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self._port}/metrics") as page:
            for line in page.read().decode().splitlines():
                if line.startswith("vigil_monitor_log_rows "):
                    return int(float(line.split()[1]))
        return None


def test_two_services_count_exactly_their_own_and_a_killed_monitor_misses_nothing(place, start_service, eventually):
    services = [ready(start_service(place), eventually) for _ in range(2)]
    monitor = Monitor(place)
    sent = (30, 20)
    with monitor:
        eventually("the monitor", lambda: monitor.rows() == 0)
        for service, count in zip(services, sent, strict=True):
            assert [service.call("/v1/predict", BODY)[0] for _ in range(count)] == [200] * count
        eventually("all rows", lambda: monitor.rows() == sum(sent))
    for service, count in zip(services, sent, strict=True):
        assert service.metric("vigil_requests_total", route="/v1/predict", code="200") == count
        assert service.metric("vigil_input_rows_total") == count
    assert services[0].call("/v1/predict", BODY)[0] == 200
    with monitor:
        eventually("the row it was not there for", lambda: monitor.rows() == sum(sent) + 1)
    assert recorded(place) == sum(sent) + 1


@pytest.mark.proof
def test_serving_does_not_notice_a_monitor_that_hangs_or_dies(home, publish, start_service, eventually):
    aliases.promote(publish().tag, "first")
    service, monitor = ready(start_service(home), eventually), Monitor(home)
    took = {}

    def load(name, seconds=10):
        with Load(address(service), request(BODY), 4) as tally:
            time.sleep(seconds)
        assert tally.failed is None
        took.setdefault(name, []).append(tally.quantile(0.99) * 1e3)
        return tally.statuses[200]

    total = load("no monitor", 5)
    took.clear()
    for _ in range(2):
        with monitor:
            eventually("the monitor", lambda: monitor.rows() is not None)
            total += load("at work")
            monitor.process.send_signal(signal.SIGSTOP)
            total += load("hanging")
        total += load("dead")
    fates = ("records", "records_dropped", "records_sampled_out")
    fate = lambda: {one: service.metric(f"vigil_{one}_total") for one in fates}  # noqa: E731
    eventually("every row written or counted as left out", lambda: sum(fate().values()) == total, 60)
    rows = recorded(home)
    with monitor:
        eventually("every row on the log seen", lambda: monitor.rows() == rows, 60)
    p99 = {name: round(min(both), 2) for name, both in took.items()}
    print(f"{total} requests, all 200; {fate()}; p99 in ms with the monitor {p99}")
    assert rows == fate()["records"] and fate()["records_dropped"] == 0
