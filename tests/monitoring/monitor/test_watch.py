import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from ending import ended
from prometheus_client.parser import text_string_to_metric_families
from tiny_release import HOMES

from demo.stack import free_ports, get
from monitoring.log import recorder
from monitoring.monitor import state, watch
from monitoring.monitor.parts import Part
from monitoring.monitor.watch import WatchSettings
from registry.errors import StackError

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def monitor(tmp_path, eventually):
    """Return a function that starts the monitor in a thread, waits for a run, and gives a reader of its metrics.

    The reader asks until a page comes, so that a series that is not on it was really not shown.
    """
    running = []

    def start(parts=None, good=True, **changed):
        usual = {"log": tmp_path / "log.sqlite", "port": free_ports(1)[0], "interval_s": 0.02}
        settings = WatchSettings(**usual | changed)
        port = settings.port
        stop = threading.Event()
        thread = threading.Thread(target=watch.watch, args=(settings, stop, parts))
        thread.start()
        running.append((stop, thread))
        sign = "vigil_monitor_last_success_timestamp_seconds" if good else "vigil_monitor_log_rows"
        eventually("the first run", lambda: read(port).get(sign))
        return lambda: eventually("a page of metrics", lambda: read(port))

    yield start
    for stop, thread in running:
        stop.set()
        ended(thread)


def read(port):
    status, body = get(port, "/metrics")
    if status != 200:
        return {}
    families = text_string_to_metric_families(body.decode())
    return {one.name + "".join(f" {v}" for v in one.labels.values()): one.value for f in families for one in f.samples}


def healthy(port):
    status, body = get(port, "/healthz")
    return status == 200 and body


def fill(log, release, right, wrong, unlabelled=0):
    connection = recorder.connect(log)
    now, blob = time.time(), np.ones(10, dtype=np.float32).tobytes()
    with connection:
        for i in range(right + wrong + unlabelled):
            row = (f"{release.version}-{i}", now, release.name, release.version, "1", blob, blob)
            connection.execute(recorder.PREDICTION, row)
    pairs = [(f"{release.version}-{i}", "1" if i < right else "2") for i in range(right + wrong)]
    recorder.add_labels(connection, pairs)
    connection.close()


def test_it_shows_accuracy_interval_floor_coverage_and_its_own_age(monitor, tmp_path, publish, eventually):
    made = publish()
    fill(tmp_path / "log.sqlite", made, right=80, wrong=20, unlabelled=100)
    found = monitor(min_rows=50)()
    place = f" accuracy tiny {made.version}"
    assert found["vigil_quality_value" + place] == 0.8
    assert found["vigil_quality_lower" + place] == pytest.approx(0.711, abs=1e-3)
    assert found["vigil_quality_upper" + place] == pytest.approx(0.867, abs=1e-3)
    assert found["vigil_quality_rows" + place] == 100
    assert found["vigil_quality_floor" + place] == 0.9
    assert found[f"vigil_label_coverage_ratio tiny {made.version}"] == 0.5
    assert found["vigil_quality_min_rows tiny"] == 50
    assert found["vigil_monitor_interval_seconds"] == 0.02
    assert abs(found["vigil_monitor_last_success_timestamp_seconds"] - time.time()) < 60


def test_unknown_repeated_and_contradicting_labels_are_shown(monitor, tmp_path, publish, eventually):
    made = publish()
    fill(tmp_path / "log.sqlite", made, right=3, wrong=0)
    first = f"{made.version}-0"
    connection = recorder.connect(tmp_path / "log.sqlite")
    recorder.add_labels(connection, [("nobody", "1"), (first, "1"), (first, "2")])
    connection.close()
    found = monitor()()
    names = ("unknown", "duplicate", "conflict")
    assert [found[f"vigil_labels_{name}"] for name in names] == [1, 1, 1]


def test_a_restart_counts_nothing_twice(monitor, tmp_path, publish):
    made = publish()
    fill(tmp_path / "log.sqlite", made, right=10, wrong=5)
    kept = ("vigil_quality", "vigil_label", "vigil_monitor_log_rows")
    one, two = ({k: v for k, v in monitor()().items() if k.startswith(kept)} for _ in range(2))
    assert one == two and one["vigil_monitor_log_rows"] == 15


def test_before_the_first_row_it_waits_and_then_sees_it(monitor, tmp_path, publish, eventually):
    look = monitor()
    assert look()["vigil_monitor_log_rows"] == 0
    fill(tmp_path / "log.sqlite", publish(), right=1, wrong=0)
    eventually("the row", lambda: look().get("vigil_monitor_log_rows") == 1)


def test_a_scrape_never_falls_between_two_runs(monitor, tmp_path, publish):
    made = publish()
    fill(tmp_path / "log.sqlite", made, right=20, wrong=0)
    look = monitor(interval_s=0.001)
    for _ in range(150):
        assert look()[f"vigil_quality_value accuracy tiny {made.version}"] == 1.0


def test_a_damaged_log_is_counted_and_the_monitor_recovers(monitor, tmp_path, publish, eventually):
    log = tmp_path / "log.sqlite"
    look = monitor()
    log.write_bytes(b"this is no database" * 100)
    eventually("the failure", lambda: any(k.startswith("vigil_monitor_failures_total") for k in look()))
    log.unlink()
    fill(log, publish(), right=2, wrong=0)
    eventually("the rows", lambda: look().get("vigil_monitor_log_rows") == 2)


def test_a_damaged_state_is_made_anew_from_the_log_while_the_monitor_runs(monitor, tmp_path, publish, eventually):
    made = publish()
    fill(tmp_path / "log.sqlite", made, right=30, wrong=10)
    look = monitor()
    place = f"vigil_quality_value accuracy tiny {made.version}"
    assert look()[place] == 0.75
    kept = state.beside(tmp_path / "log.sqlite")
    with open(kept, "r+b") as file:  # in place: the pages of its tables, not the head of the file
        file.seek(100)
        file.write(b"\xff" * (kept.stat().st_size - 100))
    Path(f"{kept}-wal").unlink(missing_ok=True)
    eventually("a new state", lambda: look().get("vigil_monitor_rebuilds_total corrupt", 0) >= 1)
    eventually("the same counts", lambda: state.is_whole(kept) and look().get("vigil_monitor_log_rows") == 40)
    eventually("a good run", lambda: look().get(place) == 0.75)


def test_a_part_that_fails_or_hangs_stops_no_other_and_the_monitor_says_so(monitor, tmp_path, publish, eventually):
    made = publish()
    fill(tmp_path / "log.sqlite", made, right=30, wrong=10)

    def bad(_):
        raise KeyError("no")

    def badly_shown(_):
        return bad

    def hung(_):
        end.wait()
        return lambda metrics: None

    end = threading.Event()
    parts = [*watch.usual_parts(), Part("bad", bad), Part("badly", badly_shown), Part("hung", hung)]
    look = monitor(parts=parts, part_s=0.1, good=False)
    place = f"vigil_quality_value accuracy tiny {made.version}"
    eventually("the quality", lambda: look().get(place) == 0.75)
    eventually("that one hangs", lambda: look().get("vigil_monitor_failures_total Hangs"))
    eventually("that two fail", lambda: look().get("vigil_monitor_failures_total KeyError", 0) > 1)
    quality = "vigil_monitor_part_last_success_timestamp_seconds quality"
    found = eventually("that another one works", lambda: (page := look()).get(quality) and page)
    assert "vigil_monitor_last_success_timestamp_seconds" not in {k for k, v in found.items() if v}
    end.set()


def test_health_is_shown_beside_the_metrics(monitor, tmp_path, publish, eventually):
    fill(tmp_path / "log.sqlite", publish(), right=3, wrong=0)
    monitor(port=(port := free_ports(1)[0]))
    said = json.loads(eventually("its health", lambda: healthy(port)))
    assert (said["status"], said["lag_rows"], said["failing"]) == ("ok", 0, {})
    assert abs(said["last_success_s"] - time.time()) < 60 and said["age_s"] < 60


def test_rows_of_a_deleted_release_are_still_measured(monitor, tmp_path, publish):
    made = publish()
    fill(tmp_path / "log.sqlite", made, right=4, wrong=0)
    shutil.rmtree(made.path)
    found = monitor()()
    assert found[f"vigil_quality_value accuracy tiny {made.version}"] == 1.0
    assert f"vigil_quality_floor accuracy tiny {made.version}" not in found


@pytest.fixture
def homes(tmp_path, publish):
    """Publish a regression with answers on the log: 80 of 100 labels are within its tolerance of 2.5."""
    made = publish("homes", spec=HOMES, classes=())
    connection = recorder.connect(tmp_path / "log.sqlite")
    blob = np.ones(1, dtype=np.float32).tobytes()
    with connection:
        for i in range(100):
            row = (f"{i}", time.time(), "homes", made.version, "100.0", blob, blob)
            connection.execute(recorder.PREDICTION, row)
    recorder.add_labels(connection, [(f"{i}", "102.5" if i < 80 else "102.6") for i in range(100)])
    connection.close()
    return made


def test_the_quality_of_a_regression_is_the_share_within_its_tolerance(monitor, homes):
    found = monitor(min_rows=50)()
    place = f" within_tolerance homes {homes.version}"
    assert found["vigil_quality_value" + place] == 0.8
    assert found["vigil_quality_lower" + place] == pytest.approx(0.711, abs=1e-3)
    assert found["vigil_quality_floor" + place] == 0.9
    assert found["vigil_quality_rows" + place] == 100


def test_a_deleted_regression_has_no_quality_since_its_tolerance_is_gone(monitor, homes):
    shutil.rmtree(homes.path)
    found = monitor()()
    assert found[f"vigil_label_coverage_ratio homes {homes.version}"] == 1.0
    assert not [name for name in found if name.startswith("vigil_quality_value")]


def test_a_taken_port_is_named(tmp_path, monitor):
    port = free_ports(1)[0]
    monitor(port=port)
    with pytest.raises(StackError, match=f"127.0.0.1:{port}: .*stop what listens there or choose --port"):
        watch.watch(WatchSettings(log=tmp_path / "log.sqlite", port=port), threading.Event())


def test_sigterm_ends_the_monitor_with_status_0(home, eventually):
    port = free_ports(1)[0]
    command = [sys.executable, "-m", "vigil", "watch", "--port", str(port), "--interval-s", "60"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    try:
        eventually("the monitor", lambda: get(port, "/metrics")[0] == 200)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
