"""Alerts on slices, estimates and labels that stop, replayed: fired when the numbers say they must."""

import numpy as np
import pytest
from tiny_release import HOMES, IMAGE, make_draft, make_files, rows_of

from grafana import profile, quality_rules
from monitoring.backtest import counted, replay, rules, run, sqlite_log
from monitoring.backtest.run import Order
from monitoring.judge import intervals, slices
from monitoring.log import parquet
from monitoring.log.decoded import Selection
from monitoring.log.opened import opened
from registry import aliases, store
from tests.monitoring.recorded import T0_S, answers, label, record, said

DAY_S, EACH_S, DELAY_S = 86_400, 30, 600
ROME, LAST = (0.6, 0.75), 1.0  # days: when answers are wrong in Rome, and after which no label comes
ROWS = int(2.4 * DAY_S / EACH_S)


@pytest.fixture(scope="module")
def replayed(place, tmp_path_factory):
    """A log and what its replay finds: a model estimated to be under its floor, whose labels say it is not, but in Rome
    for some hours; then no label comes."""
    folder = tmp_path_factory.mktemp("labelled")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(place))
        known = rows_of(HOMES, 3000)
        parts = slices.to_manifest(slices.fit(("city",), HOMES, known, np.ones(3000, bool), 0.9))
        quality = {"metric": "accuracy", "floor": 0.9, "slices": parts}
        files = make_files(folder / "files", HOMES, ("cheap", "dear"), right=0.8, rows=3000)
        made = store.publish(make_draft("parts", HOMES, ("cheap", "dear"), quality=quality), files)
        aliases.promote(made.tag, "first")
        rows = known[np.random.default_rng(3).integers(0, 3000, ROWS)]
        at_s, outputs = T0_S + np.arange(ROWS) * EACH_S, answers(made, rows)
        record(folder / "log.sqlite", made, rows, at_s, outputs=outputs)
        day = (at_s - T0_S) / DAY_S
        wrong = (rows[:, 1] == 2) & (day >= ROME[0]) & (day < ROME[1])
        truth = np.where(wrong, "none", said(made, outputs))
        told = np.flatnonzero(day < LAST)
        label(folder / "log.sqlite", [(str(i), truth[i], at_s[i] + DELAY_S) for i in told])
        yield folder, made, run.backtest(Order(folder / "log.sqlite"))[0], (rows, at_s, wrong)


def of(found, name):
    return [one for one in found.firings if one.alert == name]


def test_a_slice_under_its_floor_fires_when_its_interval_says_so(replayed):
    _, _, found, (rows, at_s, wrong) = replayed
    (fired,) = of(found, rules.SLICE)
    assert (fired.says, fired.severity) == ("accuracy at most where city=Rome", "warning")
    rome, sure = rows[:, 1] == 2, slices.confidence(4)
    under = []
    for step in range(int(T0_S // 120), int(at_s[-1] // 120)):
        known = rome & (at_s + DELAY_S < step * 120) & (at_s >= step * 120 - DAY_S) & (at_s < T0_S + LAST * DAY_S)
        if known.sum() >= 200 and intervals.wilson(int((known & ~wrong).sum()), int(known.sum()), sure)[1] < 0.9:
            under.append(step * 120)
    assert abs(fired.since_s - under[0]) <= 120 and fired.from_s == fired.since_s + 120
    assert abs(fired.to_s - (under[-1] + 120)) <= 120
    # All rows together are under it later alone, when the wrong ones are the most of those that still have labels.
    assert all(one.since_s > T0_S + LAST * DAY_S for one in of(found, rules.FLOOR))


def test_labels_that_stop_are_late_a_day_after_the_last_one(replayed):
    _, _, found, (_, at_s, _) = replayed
    (fired,) = of(found, rules.LATE)
    newest_s = at_s[at_s < T0_S + LAST * DAY_S][-1] + DELAY_S
    assert fired.since_s == pytest.approx(newest_s + DAY_S, abs=60) and fired.from_s == fired.since_s + 900
    assert fired.to_s is None and fired.says == "s since the newest label" and fired.value > DAY_S


def test_an_estimate_under_the_floor_is_told_when_labels_are_too_few_to_say_more(replayed):
    _, _, found, (_, at_s, _) = replayed
    (fired,) = of(found, rules.ESTIMATE)
    few_s = at_s[int(LAST * DAY_S / EACH_S) - 199] + DAY_S  # fewer than 200 labelled rows are in the window from here
    assert fired.since_s == pytest.approx(few_s, abs=180) and fired.from_s == fired.since_s + 900
    assert fired.to_s is None and 0.78 < fired.value < 0.9
    assert not of(found, rules.DRIFT)


def test_an_export_of_the_log_fires_the_same(replayed, monkeypatch, place):
    monkeypatch.setenv("BENTOML_HOME", str(place))
    folder, _, found, _ = replayed
    parquet.write_file(folder / "log.sqlite", folder / "log.parquet", Selection())
    assert run.backtest(Order(folder / "log.parquet"))[0].firings == found.firings


@pytest.mark.parametrize("name", profile.PROFILES)
def test_what_is_replayed_of_labels_is_what_the_rules_say(name):
    made, replays = profile.PROFILES[name], rules.PROFILES[name]
    told = {one.name: one for one in quality_rules.alerts(made)}
    late = told[rules.LATE].expr
    assert f"> {replays.labels_late_s} + {rules.LATE_DELAYS} * " in late and replays.labels_late_s == made.labels_late_s
    waits = {rules.SLICE: replays.urgent_s, rules.ESTIMATE: replays.patient_s, rules.LATE: replays.patient_s}
    assert {one: told[one].for_s for one in waits} == waits
    assert {told[one].severity for one in waits} == {"warning"}


def test_whether_a_log_is_measured_in_slices_is_looked_up_once_for_all_its_parts(replayed, monkeypatch, place):
    monkeypatch.setenv("BENTOML_HOME", str(place))
    monkeypatch.setattr(sqlite_log, "PART_ROWS", 1000)
    folder, made, found, _ = replayed
    parts = sqlite_log.parts(folder / "log.sqlite", made.name, run.EVER_S, rules.PROFILES["production"])
    monkeypatch.delattr(sqlite_log, "_sliced")  # which reads the whole log
    seen = counted.together(part.read() for part in parts)
    known = {made.version: opened(made.tag)}
    assert len(parts) > 5 and len(seen.slices) == 3
    assert tuple(replay.replay(made.name, seen, known, rules.PROFILES["production"])) == found.firings


def test_labels_that_are_sent_again_change_neither_the_replay_of_the_log_nor_that_of_its_export(publish, tmp_path):
    made, log = publish(), tmp_path / "log.sqlite"
    at_s = T0_S + np.arange(600.0)
    right = said(made, record(log, made, rows_of(IMAGE, 600, seed=8), at_s))
    told = [(str(i), right[i] if i % 3 else "none", at_s[i] + 60) for i in range(600)]
    label(log, told)
    once = run.backtest(Order(log))[0].firings
    label(log, [(ident, truth, T0_S + 1200) for ident, truth, _ in told])
    parquet.write_file(log, tmp_path / "export.parquet", Selection())
    from_log, from_export = (run.backtest(Order(tmp_path / name))[0] for name in ("log.sqlite", "export.parquet"))
    assert {rules.FLOOR, rules.DECLINED} <= {one.alert for one in once}
    assert from_export.firings == from_log.firings
    assert [(one.alert, one.from_s) for one in from_log.firings] == [(one.alert, one.from_s) for one in once]
