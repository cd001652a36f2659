import threading

import pytest

from monitoring.log import logfile
from monitoring.monitor import state
from monitoring.monitor.parts import Part, Parts, WatchSettings

FOREVER = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT max(i) FROM n"


@pytest.fixture
def run(tmp_path):
    """Return a function that makes the parts of a monitor with an empty log and state."""
    settings = WatchSettings(tmp_path / "log", part_s=0.2)
    logfile.connect(settings.log).close()
    state.open_or_make(state.beside(settings.log))[0].close()

    def make(*looks):
        return Parts([Part(look.__name__, look) for look in looks], settings)

    return make


def good(look):
    rows = look.log.execute("SELECT count(*) FROM predictions").fetchone()[0]
    return lambda metrics: metrics.append((rows, look.now_s, look.since_s))


def bad(_):
    raise KeyError("no")


def test_each_part_reads_log_and_state_and_returns_what_is_shown(run):
    shown, failed = run(good).look(100_000.0)
    seen = []
    shown["good"](seen)
    assert seen == [(0, 100_000.0, 13_600.0)] and failed == {}


def test_a_part_that_fails_is_told_and_stops_no_other(run):
    shown, failed = run(bad, good).look(1.0)
    assert list(shown) == ["good"] and failed == {"bad": "KeyError"}


@pytest.mark.parametrize("which", ["log", "state"])
def test_a_query_that_takes_too_long_is_broken_off(run, which):
    def slow(look):
        getattr(look, which).execute(FOREVER).fetchone()

    parts = run(slow, good)
    for _ in range(2):
        shown, failed = parts.look(1.0)
        assert list(shown) == ["good"] and failed == {"slow": "Timeout"}


def test_a_part_that_hangs_is_not_begun_again_before_it_ended(run, eventually):
    begun, end = [], threading.Event()

    def hung(look):
        begun.append(look)
        end.wait()
        return lambda metrics: None

    parts = run(hung, good)
    found = [parts.look(1.0) for _ in range(3)]
    assert [failed["hung"] for _, failed in found] == ["Timeout", "Hangs", "Hangs"]
    assert all(list(shown) == ["good"] for shown, _ in found) and len(begun) == 1
    end.set()
    eventually("the end of it", lambda: not parts.running["hung"].is_alive())
    assert parts.look(1.0)[1] == {} and len(begun) == 2


def test_a_part_cannot_keep_the_process_alive(run):
    parts = run(good)
    parts.look(1.0)
    assert parts.running["good"].daemon
