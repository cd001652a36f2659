"""A monitor that is killed at any moment counts every row and label once."""

import os
import random
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from demo.stack import free_ports
from monitoring.log import logfile
from monitoring.metrics import MonitorMetrics
from monitoring.monitor import state, watch
from monitoring.monitor.parts import WatchSettings
from tests.monitoring import arrivals

ROOT = Path(__file__).resolve().parents[2]
MONITOR = """
import sys, threading
from pathlib import Path
from monitoring.monitor import watch
from monitoring.monitor.parts import WatchSettings
settings = WatchSettings(Path(sys.argv[1]), port=int(sys.argv[2]), interval_s=0.001, window_s=240.0, batch_rows=7)
watch.watch(settings, threading.Event())
"""


class Writer(threading.Thread):
    """Answers and labels that come to a log in random order: early, late, twice, corrected, for nobody."""

    def __init__(self, log, seed):
        super().__init__()
        self._log, self._random, self.stop = log, random.Random(seed), threading.Event()
        self._began_s = time.time()

    def run(self):
        draw, first = self._random, 0
        with closing(logfile.connect(self._log)) as connection:
            while not self.stop.is_set():
                events = [("answer", i) for i in range(first, first + 40)]
                events += [("label", draw.randrange(max(0, first - 200), first + 60)) for _ in range(40)]
                events.append(("label", -1 - first))  # of an id that never comes
                draw.shuffle(events)
                with connection:
                    for kind, i in events:
                        if kind == "answer":
                            row = (
                                f"r{i}",
                                self._began_s + i / 7,
                                "m",
                                f"v{i % 2}",
                                draw.choice("abc"),
                                b"12345678",
                                b"",
                            )
                            connection.execute(logfile.PREDICTION, row)
                        else:
                            said = (f"r{i}", self._began_s + i / 7 + draw.randrange(-50, 200_000), draw.choice("abc"))
                            connection.execute(logfile.LABEL, said)
                first += 40
                self.stop.wait(0.02)


def kill(log, kills, seed):
    """Kill a monitor so many times while the log grows; returns in how many of its lives it had read something."""
    draw, port, lives = random.Random(seed), free_ports(1)[0], 0
    writer = Writer(log, seed)
    writer.start()
    command = [sys.executable, "-c", MONITOR, str(log), str(port)]
    try:
        for _ in range(kills):
            before = _read(log)
            process = subprocess.Popen(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
            try:
                deadline = time.monotonic() + 60
                while _read(log) == before and time.monotonic() < deadline:
                    time.sleep(0.005)
                time.sleep(draw.uniform(0, 0.3))
            finally:
                process.kill()
                process.wait()
            lives += _read(log) > before
    finally:
        writer.stop.set()
        writer.join()
    return lives


def compare(log):
    """Read the rest, hold everything against the oracle, and return how many rows and labels there were."""
    settings = WatchSettings(log, window_s=240.0, batch_rows=7)
    metrics = MonitorMetrics(CollectorRegistry())
    watch.measure(settings, metrics, time.time())
    with closing(logfile.connect(log)) as connection:
        found = arrivals.truth(connection, state.LATE_S)
        buckets, facts = arrivals.kept(state.beside(log))
        arrivals.assert_says(found, buckets, facts)
        assert metrics.registry.get_sample_value("vigil_monitor_lag_rows") == 0
        assert all(found.facts.values()), "each kind of label must have come"
        assert facts["rows_read"] == sum(found.rows.values())
        return facts["rows_read"], facts["labels_read"], len(buckets)


def test_a_monitor_that_is_killed_again_and_again_counts_every_row_and_label_once(tmp_path):
    lives = kill(tmp_path / "log", 3, seed=0)
    rows, _, buckets = compare(tmp_path / "log")
    assert lives == 3 and rows > 100 and buckets > 3


@pytest.mark.proof
def test_fifty_kills_at_random_moments_double_and_lose_nothing(tmp_path):
    lives = kill(tmp_path / "log", 50, seed=1)
    rows, labels, buckets = compare(tmp_path / "log")
    print(
        f"50 kills, {lives} of them while it read: {rows} rows and {labels} labels in {buckets} buckets as the oracle"
    )
    assert lives == 50


def _read(log):
    place = state.beside(log)
    if not place.exists():
        return 0
    with closing(state.connect(place)) as connection:
        try:
            facts = state.facts(connection)
        except sqlite3.OperationalError:  # it was killed before it made the tables
            return 0
        return facts.get("rows_read", 0) + facts.get("labels_read", 0)
