import time
from contextlib import closing

import pytest
from prometheus_client import CollectorRegistry
from tiny_release import IMAGE, rows_of

from monitoring import recorder
from monitoring.metrics import MonitorMetrics
from monitoring.reports import conditions, report, shelf
from monitoring.reports.due import Reporter, ReportSettings
from serving.engine import Engine

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
        self.metrics = MonitorMetrics(CollectorRegistry())
        record(self.log, release, rows_of(IMAGE, 3), 0.0)
        self.connection = recorder.connect(self.log)
        self.start(NOON_S)

    def start(self, now_s):
        self.reporter = Reporter(ReportSettings(self.log, self.reports), self.metrics, now_s)

    def look(self, now_s):
        """Look, and again until no report is under way; return the kinds and reasons of all reports, newest first."""
        self.reporter.look(self.connection, [self.release.name], now_s)
        deadline = time.monotonic() + 60
        while self.reporter.busy and time.monotonic() < deadline:
            time.sleep(0.02)
            self.reporter.look(self.connection, [self.release.name], now_s)
        assert not self.reporter.busy
        return [(found.out.split("-")[-1].removesuffix(".html"), found.reason) for _, found in shelf.kept(self.reports)]

    def counted(self, kind, outcome):
        return self.metrics.registry.get_sample_value(
            "vigil_reports_total", {"model": self.release.name, "kind": kind, "outcome": outcome}
        )

    def measure(self, upper, rows=500):
        place = (self.release.name, self.release.version, "accuracy")
        self.metrics.quality_upper.labels(*place).set(upper)
        self.metrics.quality_floor.labels(*place).set(0.9)
        self.metrics.quality_rows.labels(*place).set(rows)
        self.metrics.quality_min_rows.labels(self.release.name).set(200)


@pytest.fixture
def watching(tmp_path, publish):
    made = Watching(tmp_path, publish())
    yield made
    made.reporter.close()
    made.connection.close()


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
    watching.measure(upper=0.95)
    assert watching.look(NOON_S) == []
    watching.measure(upper=0.85, rows=199)
    assert watching.look(NOON_S + 400) == []
    watching.measure(upper=0.85)
    assert watching.look(NOON_S + 800) == [("alert", "accuracy under its floor: 0.850 is under 0.900")]
    watching.start(NOON_S + 1200)
    assert len(watching.look(NOON_S + 800 + HOUR_S - 1)) == 1
    assert len(watching.look(NOON_S + 800 + HOUR_S + 300)) == 2


def test_what_may_call_for_a_report_is_not_looked_at_again_within_five_minutes(watching):
    watching.look(NOON_S)
    watching.measure(upper=0.85)
    assert watching.look(NOON_S + 299) == []
    assert len(watching.look(NOON_S + 300)) == 1


def test_a_report_that_fails_is_counted_and_due_again_the_next_day_only(watching):
    damaged = watching.release.path / "model.onnx"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1])
    assert watching.look(NOON_S + DAY_S) == watching.look(NOON_S + DAY_S + 60) == []
    assert watching.counted("daily", "failed") == 1
    damaged.write_bytes(whole)
    assert len(watching.look(NOON_S + 2 * DAY_S)) == 1


def test_a_report_that_outlasts_its_time_is_ended_and_counted(watching):
    watching.reporter.look(watching.connection, ["tiny"], NOON_S + DAY_S)
    assert watching.reporter.busy
    watching.reporter.look(watching.connection, ["tiny"], NOON_S + DAY_S + report.TIME_S)
    assert not watching.reporter.busy and watching.counted("daily", "too_slow") == 1
    assert shelf.kept(watching.reports) == []


def test_closing_ends_a_report_under_way(watching):
    watching.reporter.look(watching.connection, ["tiny"], NOON_S + DAY_S)
    watching.reporter.close()
    assert not watching.reporter.busy


def test_a_model_without_rows_or_a_release_that_is_gone_stops_no_other(watching, publish):
    with watching.connection:
        old = ("x", NOON_S, "gone", "20260101-000000-00000000", "1", b"", b"")
        watching.connection.execute(recorder.PREDICTION, old)
    watching.measure(upper=0.85)
    watching.reporter.look(watching.connection, ["never", "gone", "tiny"], NOON_S)
    assert watching.reporter.busy


def test_recorded_rows_that_moved_call_for_a_report_that_names_the_signals(tmp_path, publish):
    made, log = publish(), tmp_path / "log.sqlite"
    rows = rows_of(IMAGE, 300, seed=8)
    record(log, made, rows, NOON_S - 3 * HOUR_S)
    metrics = MonitorMetrics(CollectorRegistry())
    with closing(recorder.connect(log)) as connection:
        assert conditions.calling(connection, made.tag, metrics, NOON_S) == []
        rows[:, :, :4] //= 2  # the left half gets darker
        record(log, made, rows, NOON_S)
        short, medium = conditions.calling(connection, made.tag, metrics, NOON_S)
    assert short.startswith("drift over 1 h: ") and medium.startswith("drift over 24 h: ")
    assert "brightness" in short and " more" in short


def test_rows_of_which_a_policy_kept_nothing_call_for_nothing(tmp_path, publish):
    made, log = publish(), tmp_path / "log.sqlite"
    record(log, made, rows_of(IMAGE, 300, seed=8), NOON_S)
    with closing(recorder.connect(log)) as connection:
        with connection:
            connection.execute("UPDATE predictions SET row = x''")
        assert conditions.calling(connection, made.tag, MonitorMetrics(CollectorRegistry()), NOON_S) == []
