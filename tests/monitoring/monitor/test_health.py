import json
import socket
import threading

import pytest

from demo.stack import free_ports, get
from monitoring.monitor.health import Answer, Health, served
from registry.errors import StackError


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def health():
    """Return the health of a monitor with runs every 30 s, and its clock."""
    clock = Clock()
    return Health(30.0, clock), clock


def said(health):
    answer = health.page("/healthz", "")
    found = json.loads(answer.body)
    assert found["alive"] == (answer.status == 200)
    return answer.status, found["status"]


def test_a_monitor_is_well_for_three_intervals_after_a_good_run(health):
    health, clock = health
    health.moved((0, 0.0))
    health.ended({})
    clock.now = 90.0
    assert said(health) == (200, "ok")
    clock.now = 90.1
    assert said(health) == (503, "stale")
    health.ended({})
    assert said(health) == (200, "ok")


def test_a_monitor_whose_first_run_never_ends_becomes_stale(health):
    health, clock = health
    assert said(health) == (200, "behind")
    clock.now = 91.0
    assert said(health) == (503, "stale")


def test_a_monitor_that_reads_an_old_log_for_long_is_alive_and_says_how_much_is_left(health):
    health, clock = health
    for i in range(20):
        clock.now = 50.0 * i
        health.moved((1000 - i, 5.0))
        assert said(health) == (200, "behind")
    found = json.loads(health.page("/healthz", "").body)
    assert (found["lag_rows"], found["lag_s"], found["last_success_s"]) == (981, 5.0, None)
    clock.now += 91
    assert said(health) == (503, "stale")


def test_a_part_that_goes_on_failing_makes_it_stale_and_is_named(health):
    health, clock = health
    for i in range(10):
        clock.now = 30.0 * i
        health.moved((3, 1.0))
        health.ended({"quality": "KeyError"} if i else {})
    assert said(health) == (503, "stale")
    assert json.loads(health.page("/healthz", "").body)["failing"] == {"quality": "KeyError"}


def test_a_short_interval_does_not_make_it_hasty():
    clock = Clock()
    health = Health(0.1, clock)
    health.ended({})
    clock.now = 60.0
    assert said(health) == (200, "ok")
    clock.now = 60.1
    assert said(health) == (503, "stale")


def test_a_page_is_found_by_the_longest_beginning_and_others_are_named():
    def page(name):
        return lambda path, accepts: Answer(200, "text/plain", f"{name} {path}".encode())

    port = free_ports(1)[0]
    with served("127.0.0.1", port, {"/a": page("one"), "/a/b": page("two")}):
        assert get(port, "/a?x=1") == (200, b"one /a")
        assert get(port, "/a/c") == (200, b"one /a/c")
        assert get(port, "/a/b/c") == (200, b"two /a/b/c")
        assert get(port, "/ab") == (404, b"no such page; there are /a, /a/b\n")


def test_a_client_that_says_nothing_holds_up_no_other_and_not_the_end():
    port = free_ports(1)[0]
    with served("127.0.0.1", port, {"/a": lambda *_: Answer(200, "text/plain", b"a")}):
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
        assert get(port, "/a") == (200, b"a")
    for one in silent:
        one.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "pages"]


def test_a_taken_port_is_named_with_the_cure():
    port = free_ports(1)[0]
    message = f"127.0.0.1:{port}: .*stop what listens there or choose --port"
    with served("127.0.0.1", port, {}), pytest.raises(StackError, match=message), served("127.0.0.1", port, {}):
        pass
