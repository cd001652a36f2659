"""A log of ten million rows: read in bounded memory, and after that a run costs what is new."""

import json
import os
import random
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest

from monitoring.log import logfile
from monitoring.monitor import state

ROOT = Path(__file__).resolve().parents[2]
ROWS = 10_000_000
NEW_ROWS = 10_000
RUN = """
import json, sys, time
from pathlib import Path
from prometheus_client import CollectorRegistry
from monitoring.monitor import watch
from monitoring.metrics import MonitorMetrics
from monitoring.monitor.parts import WatchSettings
metrics, place = MonitorMetrics(CollectorRegistry()), ("m", "v", "accuracy")
monitor, began = watch.prepare(WatchSettings(Path(sys.argv[1])), metrics), time.perf_counter()
assert watch.look_once(monitor, time.time()) == {}
ended, cpu_s = time.perf_counter(), time.process_time()
assert watch.look_once(monitor, time.time()) == {}
value, accuracy = metrics.registry.get_sample_value, dict(zip(("model", "version", "metric"), place))
print(json.dumps({
    "seconds": ended - began, "again_s": time.perf_counter() - ended, "cpu_s": cpu_s,
    "rss_mb": int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024,
    "rows": value("vigil_monitor_log_rows"), "lag": value("vigil_monitor_lag_rows"),
    "labels": value("vigil_monitor_labels_read"), "accuracy": value("vigil_quality_value", accuracy),
}))
"""
LABELS = """
    INSERT INTO labels(id, time_s, label)
    SELECT id, time_s + 600, CASE WHEN seq % 20 = 1 THEN 'wrong' ELSE predicted END
    FROM predictions WHERE seq > ? AND seq % 2 = 1"""


def write(log, rows, first):
    """Write rows over the 30 days before now, every second one with a label, of which one in ten is another class."""
    draw, now_s = random.Random(first), time.time()
    outputs, row = b"\0" * 40, b"\1" * 64
    times_s = (now_s - 30 * 86_400 * (1 - (i + 1) / (ROWS + NEW_ROWS)) for i in range(first, first + rows))
    answers = ((f"{draw.getrandbits(96):024x}", time_s, str(i % 10), outputs, row) for i, time_s in enumerate(times_s))
    with closing(logfile.connect(log)) as connection:
        for setting in ("synchronous=OFF", "cache_size=-2000000"):
            connection.execute(f"PRAGMA {setting}")
        with connection:
            columns = "id, time_s, model, version, predicted, probabilities, row"
            connection.executemany(f"INSERT INTO predictions({columns}) VALUES (?, ?, 'm', 'v', ?, ?, ?)", answers)
            connection.execute(LABELS, (first,))


def run(log):
    """Let a process of its own look at the log once; returns what it says."""
    command = [sys.executable, "-c", RUN, str(log)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=True)
    return json.loads(done.stdout)


@pytest.mark.proof
def test_ten_million_rows_are_read_in_bounded_memory_and_then_a_run_costs_what_is_new(tmp_path):
    log = tmp_path / "log"
    write(log, ROWS, 0)
    first = run(log)
    write(log, NEW_ROWS, ROWS)
    second = run(log)
    entries = first["rows"] + first["labels"]
    print(
        f"{first['rows']:.0f} rows and {first['labels']:.0f} labels, log {log.stat().st_size / 1e9:.1f} GB: read in "
        f"{first['seconds']:.0f} s ({first['cpu_s']:.0f} of CPU), {entries / first['seconds']:.0f}/s, "
        f"{first['rss_mb']:.0f} MB at most, state {state.beside(log).stat().st_size / 1e6:.0f} MB; after a restart "
        f"{NEW_ROWS} more rows in {second['seconds']:.2f} s; then nothing new {second['again_s'] * 1e3:.0f} ms"
    )
    assert (first["rows"], first["lag"], first["labels"]) == (ROWS, 0, ROWS / 2)
    assert (second["rows"], second["lag"], second["labels"]) == (ROWS + NEW_ROWS, 0, (ROWS + NEW_ROWS) / 2)
    assert second["accuracy"] == pytest.approx(0.9, abs=0.005)
    assert max(one["rss_mb"] for one in (first, second)) < 200
