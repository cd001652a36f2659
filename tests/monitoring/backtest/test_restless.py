import numpy as np
import pytest
from tiny_release import TABLE, make_draft, make_files, rows_of

from monitoring.backtest import counted, run
from monitoring.backtest.counted import Batch
from monitoring.backtest.restless import Restless
from monitoring.backtest.rules import Rules
from monitoring.log.opened import opened
from monitoring.shift import drift
from registry import store
from tests.monitoring.recorded import T0_S, answers, record, times

RULES = Rules(60, 60, 60, 60, (("short", 600), ("medium", 1200), ("long", 6000)))


@pytest.fixture
def known(tmp_path):
    made = store.publish(make_draft(spec=TABLE), make_files(tmp_path / "files", TABLE, rows=2000))
    return opened(made.tag)


def runs(count, length, seed):
    """Return rows of which `length` in a row come from one place: each is its own, and they are like one another."""
    places = np.repeat(rows_of(TABLE, -(-count // length), seed), length, axis=0)[:count]
    return (0.9 * places + 0.4 * rows_of(TABLE, count, seed + 1)).astype(np.float32)


def test_the_unrest_is_that_of_all_looks_at_neighbouring_windows(known, monkeypatch):
    for name, value in (("RENEWED", 0), ("HISTORY_WINDOWS", 10), ("FEWEST_WINDOWS", 3)):  # at every look
        monkeypatch.setattr(f"monitoring.backtest.restless.{name}", value)
    rows, at = runs(6000, 40, seed=3), times(6000, 2)
    whole = Batch(known.release.version, at, rows, answers(known.release, rows))
    counts = counted.count(whole, known, RULES.bucket_s)
    restless, first = Restless(counts, known, RULES), int(T0_S // 60)
    for steps in np.array_split(np.arange(first + 1, first + 121), 5):
        found = restless.over(steps)[-1]
    windows = {}
    for step in range(first + 10, first + 121):  # the time looked back over, and one short window before
        inside = (counts.buckets >= step - 10) & (counts.buckets < step)
        windows[step] = drift.Window(
            counts.counts[inside].sum(axis=0).astype(float),
            counts.sums[inside].sum(axis=0),
            int(counts.rows[inside].sum()),
        )
    looks = range(first + 20, first + 121)
    z = np.array([drift.unlike(known.reference, windows[step - 10], windows[step]) for step in looks])
    expected = drift.calmed(z)
    assert expected.level.max() > 1  # these rows do depend on one another
    assert found.level == pytest.approx(expected.level, rel=1e-6)
    assert found.scale == pytest.approx(expected.scale, rel=1e-6)


def test_rows_that_come_in_runs_raise_alarms_only_until_their_unrest_is_known(known, tmp_path):
    rows, at = runs(36_000, 40, seed=5), times(36_000, 72)
    record(tmp_path / "log.sqlite", known.release, rows, at)
    (found,) = run.backtest(run.Order(tmp_path / "log.sqlite"))
    known_from_s = T0_S + 50 * 3600  # of 48 hours and more
    ended_s = [one.to_s or at[-1] for one in found.firings if one.alert == "VigilDataDrift"]
    assert ended_s and max(ended_s) < known_from_s


def test_nothing_is_known_of_the_unrest_of_two_days(known):
    rows = rows_of(TABLE, 100, seed=3)
    whole = Batch(known.release.version, times(100, 8), rows, answers(known.release, rows))
    restless, first = Restless(counted.count(whole, known, RULES.bucket_s), known, RULES), int(T0_S // 60)
    assert restless.over(first + np.arange(0, 480, 10)) == [None] * 48
