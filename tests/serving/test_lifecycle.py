"""How the service ends, and what it does when one of its processes does; always the real `bentoml serve`."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ending import gone
from load import address
from tiny_release import IMAGE, rows_of

from serving.lifecycle import SUPERVISOR

BODY = json.dumps({"rows": rows_of(IMAGE, 1).tolist()}).encode()
HEAD = b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
ROOT = Path(__file__).resolve().parents[2]
FOREVER_S = "600"
KILLS = 5


def workers(service):
    pid = service.process.pid
    try:
        return set(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    except FileNotFoundError:
        return set()


def events(service, name):
    found = []
    for line in service.log.read_text().splitlines():
        if f'"event": "{name}"' in line:
            found.append(json.loads(line))
    return found


def refuses(service):
    with socket.socket() as probe:
        return probe.connect_ex(address(service)) != 0


def test_sigterm_drains_first_and_then_finishes_what_is_in_flight(started, eventually):
    service = started(VIGIL_DRAIN_S="1.5")
    with socket.create_connection(address(service), timeout=20) as slow:
        slow.sendall(HEAD % len(BODY) + BODY[:-1])
        service.process.send_signal(signal.SIGTERM)
        eventually("readyz saying so", lambda: service.call("/readyz") == (503, {"ready": False, "reason": "draining"}))
        assert service.call("/v1/predict", BODY)[0] == 200
        assert service.headers("/livez")["Connection"] == "close"
        assert service.headers("/docs.json")["Connection"] == "close"
        eventually("the port being closed", lambda: refuses(service))
        assert service.process.poll() is None
        slow.sendall(BODY[-1:])
        answer = http.client.HTTPResponse(slow)
        answer.begin()
        assert answer.status == 200 and answer.headers["Connection"] == "close"
        assert json.loads(answer.read())["predictions"]
    assert service.process.wait(20) == 0


@pytest.mark.parametrize("numbers", [(signal.SIGINT,), (signal.SIGTERM, signal.SIGTERM)])
def test_an_interrupt_or_a_second_sigterm_does_not_wait_for_the_drain(started, eventually, numbers):
    service = started(VIGIL_DRAIN_S=FOREVER_S)
    for number in numbers:
        service.process.send_signal(number)
        if number != signal.SIGINT:
            eventually("the signal being heard", lambda: events(service, "draining"))
    service.process.wait(20)
    assert refuses(service)


def test_workers_follow_a_killed_parent_and_the_port_is_free(started, eventually):
    service = started()
    (worker,) = workers(service)
    service.process.kill()
    service.process.wait()
    eventually("the port being free", lambda: refuses(service))
    with socket.create_server(address(service)):
        eventually("the worker being gone", lambda: gone(worker))


@pytest.mark.proof
def test_the_port_of_a_killed_service_is_free_within_two_seconds(started, eventually):
    seconds = []
    for _ in range(KILLS):
        service = started()
        began_s = time.monotonic()
        service.process.kill()
        eventually("the port being free", lambda: refuses(service))  # noqa: B023
        seconds.append(time.monotonic() - began_s)
        service.process.wait()
        with socket.create_server(address(service)):
            pass
    print(f"\n{KILLS} killed services: the port is free after {min(seconds):.2f} to {max(seconds):.2f} s")
    assert max(seconds) <= 2


def test_a_worker_that_cannot_start_is_tried_three_times_and_then_ends_the_service(home, tmp_path):
    (tmp_path / "broken.py").write_text(
        f"import os, sys\nif {SUPERVISOR!r} in os.environ:\n    sys.exit(7)\nfrom service import Vigil\n"
    )
    command = [sys.executable, "-m", "bentoml", "serve", "broken:Vigil", "--port", "0"]
    environment = os.environ | {"BENTOML_HOME": str(home), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=90)
    assert done.returncode == 1
    ended = [json.loads(line) for line in done.stderr.splitlines() if '"event": "worker_ended"' in line]
    assert [(one["status"], one["was_up"]) for one in ended][:3] == [(7, False)] * 3
    assert '"event": "no_worker_can_start", "tried": 3' in done.stderr
