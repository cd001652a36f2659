import time
from contextlib import closing

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from tiny_release import IMAGE, TABLE, rows_of

from monitoring.log import recorder
from monitoring.metrics import MonitorMetrics
from monitoring.monitor import state, watch
from monitoring.monitor.parts import Look, WatchSettings
from monitoring.reports import conditions, report, shelf
from monitoring.reports.due import Reporter
from serving.engine import Engine
from tests.monitoring import recorded

DAY_S, HOUR_S = 86_400.0, 3600.0
NOON_S = 20_000 * DAY_S + DAY_S / 2


def record(log, release, rows, at_s):
    outputs = Engine(release, ("cpu",), threads=1).run(rows)[0]
    with closing(recorder.connect(log)) as connection, connection:
        for i, (row, p) in enumerate(zip(rows, outputs, strict=True)):
            said = (f"{at_s}-{i}", at_s, release.name, release.version, str(p.argmax()), p.tobytes(), row.tobytes())
            connection.execute(recorder.PREDICTION, said)


class Watching:
    """A monitor that only writes reports; the log holds old rows alone, of which a report is quickly written."""

    def __init__(self, folder, release):
        self.log, self.reports, self.release = folder / "log.sqlite", folder / "reports", release
        self.settings = WatchSettings(self.log, state=folder / "state.sqlite", window_s=30 * DAY_S)
        self.metrics = MonitorMetrics(CollectorRegistry())
        record(self.log, release, rows_of(IMAGE, 400), NOON_S - 2 * DAY_S)
        self.start(NOON_S)

    def start(self, now_s):
        self.reporter = Reporter(self.reports, self.settings.report_check_s, now_s)

    def ask(self, now_s):
        watch.measure(self.settings, MonitorMetrics(CollectorRegistry()), now_s)
        with closing(recorder.connect(self.log)) as rows, closing(state.connect(self.settings.state)) as counts:
            self.reporter.look(Look(rows, counts, self.settings, now_s))
        self.reporter.show(self.metrics)

    def look(self, now_s):
        """Look, and again until no report is under way; return the kinds and reasons of all reports, newest first."""
        self.ask(now_s)
        deadline = time.monotonic() + 60
        while self.reporter.busy and time.monotonic() < deadline:
            time.sleep(0.02)
            self.ask(now_s)
        assert not self.reporter.busy
        return [(found.out.split("-")[-1].removesuffix(".html"), found.reason) for _, found in shelf.kept(self.reports)]

    def counted(self, kind, outcome):
        return self.metrics.registry.get_sample_value(
            "vigil_reports_total", {"model": self.release.name, "kind": kind, "outcome": outcome}
        )

    def label(self, right, wrong):
        """Say the truth of as many rows as `right` and `wrong` together."""
        with closing(recorder.connect(self.log)) as connection:
            known = connection.execute("SELECT id, predicted FROM predictions ORDER BY seq").fetchall()
            truth = [(ident, said if i < right else "none") for i, (ident, said) in enumerate(known[: right + wrong])]
            recorder.add_labels(connection, truth)


@pytest.fixture
def watching(tmp_path, publish):
    made = Watching(tmp_path, publish())
    yield made
    made.reporter.close()


def test_a_report_comes_once_a_day_also_across_a_restart(watching):
    assert watching.look(NOON_S) == []
    assert watching.look(NOON_S + DAY_S) == [("daily", "the day")]
    assert len(watching.look(NOON_S + DAY_S + 10 * HOUR_S)) == 1
    watching.start(NOON_S + DAY_S + 11 * HOUR_S)
    assert len(watching.look(NOON_S + DAY_S + 11 * HOUR_S)) == 1
    assert len(watching.look(NOON_S + 2 * DAY_S)) == 2
    watching.start(NOON_S + 4 * DAY_S)  # it was down at midnight: the report is due at once
    assert len(watching.look(NOON_S + 4 * DAY_S)) == 3
    assert watching.counted("daily", "written") == 3


def test_quality_under_its_floor_asks_for_a_report_at_most_once_an_hour(watching):
    watching.label(right=150, wrong=49)  # of at least 200 rows
    assert watching.look(NOON_S + 300) == []
    watching.label(right=190, wrong=10)
    assert watching.look(NOON_S + 600) == []
    watching.label(right=160, wrong=80)
    assert watching.look(NOON_S + 900) == [
        ("alert", "accuracy under its floor: surely under 0.723, the floor is 0.900")
    ]
    watching.start(NOON_S + 1200)
    assert len(watching.look(NOON_S + 900 + HOUR_S - 1)) == 1
    assert len(watching.look(NOON_S + 900 + HOUR_S + 300)) == 2


def test_what_may_call_for_a_report_is_looked_at_every_five_minutes(watching):
    watching.look(NOON_S + 300)
    watching.label(right=0, wrong=300)
    assert watching.look(NOON_S + 599) == []
    assert len(watching.look(NOON_S + 600)) == 1


def test_a_report_that_fails_is_counted_and_due_again_the_next_day_only(watching):
    damaged = watching.release.path / "model.onnx"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1])
    assert watching.look(NOON_S + DAY_S) == watching.look(NOON_S + DAY_S + 60) == []
    assert watching.counted("daily", "failed") == 1
    damaged.write_bytes(whole)
    assert len(watching.look(NOON_S + 2 * DAY_S)) == 1


def test_a_report_that_outlasts_its_time_is_ended_and_counted(watching):
    watching.ask(NOON_S + DAY_S)
    assert watching.reporter.busy
    watching.ask(NOON_S + DAY_S + report.TIME_S)
    assert not watching.reporter.busy and watching.counted("daily", "too_slow") == 1
    assert shelf.kept(watching.reports) == []


def test_closing_ends_a_report_under_way(watching):
    watching.ask(NOON_S + DAY_S)
    watching.reporter.close()
    assert not watching.reporter.busy


def test_a_release_that_is_gone_stops_no_other(watching):
    with closing(recorder.connect(watching.log)) as connection, connection:
        old = ("x", NOON_S - DAY_S, "gone", "20260101-000000-00000000", "1", b"\0" * 40, b"\0" * 64)
        connection.execute(recorder.PREDICTION, old)
    watching.label(right=0, wrong=300)
    assert [kind for kind, _ in watching.look(NOON_S + 300)] == ["alert"]


def look_at(log, now_s):
    settings = WatchSettings(log)
    watch.measure(settings, MonitorMetrics(CollectorRegistry()), now_s)
    return Look(recorder.connect(log), state.connect(state.beside(log)), settings, now_s)


def calling(log, tag):
    look = look_at(log, NOON_S)
    with closing(look.log), closing(look.state):
        return conditions.calling(look, tag)


def test_recorded_rows_that_moved_call_for_a_report_that_names_the_signals(tmp_path, publish):
    made, log = publish("table", spec=TABLE), tmp_path / "log.sqlite"
    rows = rows_of(TABLE, 300, seed=8)
    record(log, made, rows, NOON_S - 3 * HOUR_S)
    assert calling(log, made.tag) == []
    record(log, made, rows + np.array([2, 2, 2], np.float32), NOON_S)
    short, medium = calling(log, made.tag)
    assert short.startswith("drift over 1 h: ") and medium.startswith("drift over 24 h: ")
    assert {"age", "height", "weight"} & set(short.replace(",", "").split()) and " more" in short


def test_what_a_policy_did_not_keep_calls_for_nothing_and_the_rest_does(tmp_path, publish):
    made, log = publish("table", spec=TABLE), tmp_path / "log.sqlite"
    rows = rows_of(TABLE, 300, seed=8)
    unweighed = np.array([0, 0, np.nan], np.float32)
    recorded.record(log, made, rows, np.full(300, NOON_S), kept=rows + unweighed)
    assert calling(log, made.tag) == []
    rows[:, 0] += 3
    recorded.record(log, made, rows, np.full(300, NOON_S), kept=rows + unweighed, begin=300)
    assert calling(log, made.tag)[0].startswith("drift over 1 h: ") and "age" in calling(log, made.tag)[0]


def test_rows_of_which_a_policy_kept_nothing_call_for_nothing(tmp_path, publish):
    made, log = publish(), tmp_path / "log.sqlite"
    record(log, made, rows_of(IMAGE, 300, seed=8), NOON_S)
    with closing(recorder.connect(log)) as connection, connection:
        connection.execute("UPDATE predictions SET row = x''")
    assert calling(log, made.tag) == []
