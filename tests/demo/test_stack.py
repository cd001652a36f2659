import http.client
import json
import socket
import sys
import threading
import time

import numpy as np
import pytest
from ending import ended

from demo.stack import Receiver, Stack, free_ports, get, wait_for
from demo.traffic import Rows, Sender
from registry.errors import StackError

ALERT = {"status": "firing", "labels": {"alertname": "VigilDataDrift"}, "annotations": {"description": "why"}}


@pytest.fixture
def stack(tmp_path):
    made = Stack(tmp_path, {})
    yield made
    made.stop()


def test_a_program_that_ends_by_itself_is_named_with_the_end_of_its_log(stack):
    stack.start("brief", [sys.executable, "-c", "print('the reason'); raise SystemExit(3)"])
    with pytest.raises(StackError, match=r"brief: ended with status 3[\s\S]*the reason"):
        stack.ready("brief", free_ports(1)[0], "/", timeout_s=30)


def test_stop_ends_a_program_that_ignores_sigterm_and_its_children(stack, monkeypatch):
    monkeypatch.setattr("demo.stack.STOP_S", 0.5)
    port = free_ports(1)[0]
    child = (
        "import signal, subprocess, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        f"subprocess.run([sys.executable, '-m', 'http.server', '{port}', '--bind', '127.0.0.1'])"
    )
    stack.start("stubborn", [sys.executable, "-c", child])
    stack.ready("stubborn", port, "/", timeout_s=30)
    stack.stop()
    wait_for("the port being free", lambda: get(port, "/")[0] == 0 or None, 30)
    assert stack.processes == {}


def _with_a_child(stack, ends):
    port = free_ports(1)[0]
    child = f"[sys.executable, '-m', 'http.server', '{port}', '--bind', '127.0.0.1']"
    code = f"import signal, subprocess, sys, time; subprocess.Popen({child}); time.sleep(600)"
    stack.start("parent", [sys.executable, "-c", code])
    stack.ready("parent", port, "/", timeout_s=30)
    ends("parent")
    wait_for("the port being free", lambda: get(port, "/")[0] == 0 or None, 30)
    assert stack.processes == {}


def test_kill_ends_a_program_and_its_children_at_once(stack):
    _with_a_child(stack, stack.kill)


def test_end_leaves_no_child_that_outlives_its_parent(stack):
    _with_a_child(stack, stack.end)


def test_waiting_for_what_never_comes_ends_with_its_name():
    with pytest.raises(StackError, match="the moon: did not happen within 0.1 s"):
        wait_for("the moon", lambda: None, 0.1)


def test_free_ports_can_be_bound():
    for port in free_ports(3):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))


def test_the_receiver_finds_an_alert_by_name_status_and_time():
    receiver = Receiver()
    try:
        connection = http.client.HTTPConnection("127.0.0.1", receiver.port, timeout=5)
        connection.request("POST", "/", json.dumps({"receiver": "ticket", "alerts": [ALERT]}))
        assert connection.getresponse().status == 200
        connection.close()
        notice = receiver.find("VigilDataDrift", "firing", 0)
        assert notice is not None and notice.description == "why" and notice.receiver == "ticket"
        assert receiver.find("VigilDataDrift", "resolved", 0) is None
        assert receiver.find("VigilDataDrift", "firing", time.time() + 1) is None
    finally:
        receiver.close()


@pytest.fixture
def sender():
    """A sender whose rows nobody answers: only what waits is looked at."""
    made = Sender(free_ports(1)[0], rate_s=0.001, label_delay_s=0)
    wait_for("its first turn", lambda: made._stop.is_set() or True, 5)
    yield made
    made.close()


def test_only_takes_the_place_of_what_waits(sender):
    sender.send(Rows(np.zeros((5, 2)), ["a"] * 5))
    sender.only(Rows(np.ones((2, 2)), ["b"] * 2))
    assert [truth for _, truth in sender._rows] in (["b", "b"], ["b"])


def test_every_row_that_gets_no_answer_is_counted_as_lost():
    server = socket.create_server(("127.0.0.1", 0))

    def hang_up():
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            connection.close()

    thread = threading.Thread(target=hang_up, daemon=True)
    thread.start()
    sender = Sender(server.getsockname()[1], rate_s=200, label_delay_s=0)
    try:
        sender.send(Rows(np.zeros((5, 2), dtype=np.uint8), ["a"] * 5))
        wait_for("five losses", lambda: len(sender.lost) == 5 or None, 30)
    finally:
        sender.close()
        server.shutdown(socket.SHUT_RDWR)
        server.close()
        ended(thread)
    assert sender.sent == 5
