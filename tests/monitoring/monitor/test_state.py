import random
import resource
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from monitoring.log import logfile
from monitoring.metrics import MonitorMetrics
from monitoring.monitor import intake, state, tally, watch
from monitoring.monitor.contents import Scheme
from monitoring.monitor.intake import Source
from monitoring.monitor.parts import WatchSettings
from tests.monitoring.arrivals import answer, label

CLASSES = Scheme(("a", "b"))
NOW_S = 1_000_000.0


class Watched:
    """A log and a monitor that looks at it when it is told to; a new process each time."""

    def __init__(self, folder: Path):
        self.log = folder / "log.sqlite"
        self.state = state.beside(self.log)
        self.settings = WatchSettings(self.log, interval_s=1, window_s=86_400)

    def write(self, rows, first=0, labels=True):
        with closing(logfile.connect(self.log)) as connection:
            for i in range(first, first + rows):
                answer(connection, f"r{i}", NOW_S - 100 + i)
                if labels:
                    label(connection, f"r{i}", "ab"[i % 2], NOW_S)

    def look(self):
        """Run once and return a reader of the metrics."""
        metrics = MonitorMetrics(CollectorRegistry())
        watch.measure(self.settings, metrics, NOW_S)
        return lambda name, **labels: metrics.registry.get_sample_value(f"vigil_{name}", labels)


@pytest.fixture
def watched(tmp_path):
    return Watched(tmp_path)


def rebuilt(read):
    reasons = ("corrupt", "version", "bucket", "log_replaced")
    return {r: n for r in reasons if (n := read("monitor_rebuilds_total", reason=r))}


def counted(read):
    names = ("monitor_log_rows", "labels_unknown", "monitor_lag_rows")
    place = {"model": "m", "version": "v", "metric": "accuracy"}
    return [read(name) for name in names] + [read("quality_value", **place), read("quality_rows", **place)]


def test_a_second_run_reads_only_what_is_new(watched):
    watched.write(6)
    assert counted(watched.look()) == [6, 0, 0, 0.5, 6]
    with closing(sqlite3.connect(watched.log)) as connection, connection:
        connection.execute("UPDATE predictions SET predicted = 'z'")  # a run that read it again would see it
    watched.write(2, first=6)
    read = watched.look()
    assert counted(read) == [8, 0, 0, 0.5, 8] and rebuilt(read) == {}


@pytest.mark.parametrize("damage", [b"this is no database" * 1000, b""], ids=["other", "empty"])
def test_a_state_that_is_no_database_is_made_anew_from_the_log(watched, damage):
    watched.write(6)
    before = counted(watched.look())
    for ending in ("-wal", "-shm"):
        Path(f"{watched.state}{ending}").unlink(missing_ok=True)
    watched.state.write_bytes(damage)
    read = watched.look()
    assert counted(read) == before and rebuilt(read) == ({"corrupt": 1} if damage else {})


def test_a_state_of_another_structure_is_made_anew_from_the_log(watched):
    watched.write(6)
    before = counted(watched.look())
    with closing(sqlite3.connect(watched.state)) as connection:
        connection.execute(f"PRAGMA user_version = {state.STRUCTURE + 1}")
    read = watched.look()
    assert counted(read) == before and rebuilt(read) == {"version": 1}


def test_a_state_that_lost_a_table_is_made_anew_from_the_log(watched):
    watched.write(6)
    before = counted(watched.look())
    with closing(sqlite3.connect(watched.state)) as connection:
        connection.execute("DROP TABLE facts")
    read = watched.look()
    assert counted(read) == before and rebuilt(read) == {"version": 1}


def test_a_state_that_lacks_a_column_is_made_anew_from_the_log(watched):
    watched.write(6)
    before = counted(watched.look())
    with closing(sqlite3.connect(watched.state)) as connection:
        connection.execute("ALTER TABLE buckets DROP COLUMN squared")
    read = watched.look()
    assert counted(read) == before and rebuilt(read) == {"version": 1}


def test_a_shorter_window_with_shorter_buckets_makes_it_anew(watched):
    watched.write(6)
    watched.look()
    watched.settings = WatchSettings(watched.log, window_s=2400)
    read = watched.look()
    assert counted(read) == [6, 0, 0, 0.5, 6] and rebuilt(read) == {"bucket": 1}


@pytest.mark.parametrize("rows", [2, 20], ids=["shorter", "longer"])
def test_a_log_in_the_place_of_another_is_read_from_its_start(watched, rows):
    watched.write(6)
    watched.look()
    for ending in ("", "-wal", "-shm"):
        Path(f"{watched.log}{ending}").unlink(missing_ok=True)
    watched.write(rows, first=50)
    read = watched.look()
    assert counted(read) == [rows, 0, 0, 0.5, rows] and rebuilt(read) == {"log_replaced": 1}


def test_a_log_that_was_copied_to_another_file_is_gone_on_with(watched, tmp_path):
    watched.write(6)
    watched.look()
    content = watched.log.read_bytes()
    watched.log.rename(tmp_path / "old")
    watched.log.write_bytes(content)
    watched.write(2, first=6)
    read = watched.look()
    assert counted(read) == [8, 0, 0, 0.5, 8] and rebuilt(read) == {}


@pytest.mark.parametrize("seed", range(12))
def test_a_state_with_a_damaged_page_or_a_lost_end_is_right_again_after_a_start(watched, seed):
    watched.write(60)
    before = counted(watched.look())
    draw, content = random.Random(seed), bytearray(watched.state.read_bytes())
    begin = draw.randrange(0, len(content), 4096)
    if seed % 3:
        content[begin : begin + 4096] = draw.randbytes(4096) if seed % 3 == 1 else bytes(4096)
    else:
        del content[draw.randrange(4096, len(content)) :]
    watched.state.write_bytes(content)
    assert counted(watched.look()) == before
    assert state.is_whole(watched.state)


def test_a_full_disk_loses_nothing_and_doubles_nothing(watched):
    watched.write(20)
    metrics = MonitorMetrics(CollectorRegistry())
    monitor = watch.prepare(watched.settings, metrics)
    assert watch.look_once(monitor, NOW_S) == {}
    watched.write(3000, first=20)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))  # no file can grow over that
    try:
        with pytest.raises(sqlite3.OperationalError):
            watch.look_once(monitor, NOW_S)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert watch.look_once(monitor, NOW_S) == {}
    value = metrics.registry.get_sample_value
    assert (value("vigil_monitor_log_rows"), value("vigil_monitor_labels_read")) == (3020, 3020)
    assert value("vigil_quality_rows", {"model": "m", "version": "v", "metric": "accuracy"}) == 3020


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=20))
def test_errors_add_up_without_rounding_and_can_be_taken_back(values):
    total = sum(tally.exact(value) for value in values)
    assert tally.inexact(format(total + tally.exact(0.1) - total, "x")) == 0.1
    assert all(tally.inexact(format(tally.exact(value), "x")) == value for value in values)


@given(st.lists(st.floats(1e-3, 1e9), min_size=1), st.floats(0.01, 1))
def test_a_quantile_of_the_delays_is_within_5_percent_of_that_of_numpy(delays, share):
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        state.empty(connection, 300.0)
        counts = tally.Tally()
        connection.execute("INSERT INTO releases VALUES (1, 'm', 'v', NULL)")
        for delay in delays:
            counts.delays[1, 0, tally.delay_bin(delay)] += 1
        counts.write(connection)
        (found,) = state.delay_quantiles(connection, "m", 0.0, (share,))
    assert found == pytest.approx(np.quantile(delays, share, method="inverted_cdf"), rel=0.05)


def test_a_window_is_the_sum_of_its_buckets(watched):
    with closing(logfile.connect(watched.log)) as connection:
        for i in range(200):
            answer(connection, f"r{i}", NOW_S + 60 * (i % 100), version="vw"[i % 2], predicted="ab"[i % 3 == 0])
            label(connection, f"r{i}", "ab"[i % 5 == 0], NOW_S)
    with closing(logfile.connect(watched.log)) as rows, closing(state.open_or_make(watched.state)[0]) as counts:
        source = Source(rows, counts, lambda *_: CLASSES, NOW_S, state.BUCKET_S)
        assert intake.read_on(source)
        for since_s in (0.0, NOW_S + 1000, NOW_S + 1e6):
            buckets = state.aggregates(counts, "m", since_s)
            assert state.window(counts, "m", since_s) == state.total(buckets)
            assert all(one.start_s + one.length_s > since_s for one in buckets)
        whole = state.window(counts, "m", 0.0)["v", ""]
    assert (whole.rows, whole.start_s, whole.length_s) == (100, 999_900.0, 6000.0)
    expected = Counter(("ab"[i % 5 == 0], "ab"[i % 3 == 0]) for i in range(0, 200, 2))
    assert whole.confusion == expected
    assert whole.right == expected["a", "a"] + expected["b", "b"]
