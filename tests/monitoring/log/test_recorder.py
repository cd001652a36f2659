import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ending import ended
from prometheus_client import CollectorRegistry

from monitoring.log import logfile, recorder
from monitoring.log.pseudonym import Pseudonyms
from monitoring.log.recorder import Recorder, Records, Shadowed
from monitoring.metrics import ServingMetrics
from registry.errors import RequestError

ROOT = Path(__file__).resolve().parents[3]
WRITER = """
import sys; sys.path.insert(0, {root!r})
from pathlib import Path
import numpy as np
from monitoring.log.recorder import Recorder, Records, Shadowed
import time
from monitoring.log import recorder as recorder_module, retention
recorder_module.COMMIT_S = 0.01
retention.LOOK_S = 0.01
recorder = Recorder(Path(sys.argv[1]), keep=retention.Limits(days=1))
old = [f"old-{{sys.argv[2]}}-{{i}}" for i in range(300)]
recorder.put(Records("m", "v", 1.0, old, ["a"] * 300, np.ones((300, 2), dtype="f4"), np.ones((300, 3), dtype="f4")))
now = time.time()
for i in range(100_000):
    name = f"{{sys.argv[2]}}-{{i}}"
    recorder.put(Records("m", "v", now, [name], ["a"], np.ones((1, 2), dtype="f4"), np.ones((1, 3), dtype="f4")))
    if i % 5 == 0:
        recorder.flush()
        recorder.label([(name, "a")])
        print(name, flush=True)
"""


def records(*ids, model="m"):
    n = len(ids)
    return Records(
        model, "v", 5.0, list(ids), ["a"] * n, np.full((n, 2), 0.5, dtype=np.float32), np.ones((n, 3), np.float32)
    )


@pytest.fixture
def metrics():
    return ServingMetrics(CollectorRegistry())


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log.sqlite"


@pytest.fixture
def open_recorder(log, metrics):
    made = []

    def start(**settings):
        made.append(Recorder(log, metrics=metrics, **settings))
        return made[-1]

    yield start
    for one in made:
        one.close()


def value(metrics, name, **labels):
    return metrics.registry.get_sample_value(name, labels) or 0.0


def dropped(metrics, reason):
    return value(metrics, "vigil_records_dropped_total", model="m", reason=reason)


def rows(log):
    connection = sqlite3.connect(log)
    try:
        return [ident for (ident,) in connection.execute("SELECT id FROM predictions ORDER BY seq")]
    finally:
        connection.close()


def test_what_was_put_is_on_the_log_in_order_and_counted(open_recorder, log, metrics):
    recording = open_recorder()
    for i in range(50):
        recording.put(records(f"{i}-a", f"{i}-b"))
    assert recording.flush()
    assert rows(log) == [f"{i}-{k}" for i in range(50) for k in "ab"]
    assert value(metrics, "vigil_records_total", model="m") == 100


def test_a_row_comes_back_bit_for_bit(open_recorder, log):
    recording = open_recorder()
    row = np.array([[0.1, np.pi, -1e-30]], dtype=np.float32)
    recording.put(Records("m", "v", 1.5, ["a"], ["x"], np.array([[0.25, 0.75]], dtype=np.float32), row))
    assert recording.flush()
    connection = sqlite3.connect(log)
    found = connection.execute("SELECT time_s, predicted, probabilities, row FROM predictions").fetchone()
    connection.close()
    assert found == (1.5, "x", np.array([0.25, 0.75], dtype=np.float32).tobytes(), row.tobytes())


def test_an_id_that_was_seen_is_counted_and_the_first_answer_stays(open_recorder, log, metrics):
    recording = open_recorder()
    recording.put(records("a", "b"))
    recording.put(records("b", "c"))
    assert recording.flush()
    recording.put(records("a"))
    assert recording.flush()
    assert rows(log) == ["a", "b", "c"]
    assert dropped(metrics, "duplicate_id") == 2
    assert value(metrics, "vigil_records_total", model="m") == 3


def test_of_many_rows_at_once_each_is_written_and_each_that_was_seen_counted(open_recorder, log, metrics):
    recording, ids = open_recorder(), [str(i % 230) for i in range(250)]
    recording.put(records(*ids))
    assert recording.flush()
    assert rows(log) == ids[:230]
    assert dropped(metrics, "duplicate_id") == 20 and value(metrics, "vigil_records_total", model="m") == 230


def test_what_is_inserted_by_one_statement_has_no_more_values_than_every_sqlite_takes():
    assert logfile.INSERTED_ROWS * logfile.REDACTED_ROW.count("?") <= 999


def shadowed(*ids, time_s=5.0):
    return Shadowed("m", "w", time_s, list(ids), ["b"] * len(ids), np.full((len(ids), 2), 0.25, dtype=np.float32))


def test_a_challengers_answer_is_on_the_log_only_beside_the_champions(open_recorder, log, metrics):
    recorder_ = open_recorder()
    recorder_.put(records("a", "b"))
    recorder_.put(shadowed("b", "c"))  # nobody recorded c
    recorder_.put(shadowed("a", time_s=6.0))  # the answer to another request that took the same id
    recorder_.put(shadowed("b"))
    assert recorder_.flush()
    with sqlite3.connect(log) as connection:
        rows = connection.execute("SELECT id, time_s, model, version, predicted, outputs FROM shadow").fetchall()
    connection.close()
    assert rows == [("b", 5.0, "m", "w", "b", np.full(2, 0.25, dtype=np.float32).tobytes())]
    assert metrics.registry.get_sample_value("vigil_shadow_records_total", {"model": "m"}) == 1
    assert metrics.registry.get_sample_value("vigil_records_total", {"model": "m"}) == 2
    dropped = [f.samples for f in metrics.registry.collect() if f.name == "vigil_records_dropped"]
    assert dropped == [[]]


def test_a_log_from_before_challenges_takes_them(open_recorder, log):
    before = "".join(f"{said};" for said in recorder.SCHEMA.split(";") if "shadow" not in said)
    with sqlite3.connect(log) as connection:
        connection.executescript(before)
        connection.execute(recorder.PREDICTION, ("a", 5.0, "m", "v", "a", b"", b""))
    connection.close()
    recorder_ = open_recorder()
    recorder_.put(shadowed("a"))
    assert recorder_.flush()
    with sqlite3.connect(log) as connection:
        assert connection.execute("SELECT count(*) FROM shadow").fetchone() == (1,)
    connection.close()


def test_while_the_log_is_locked_put_returns_drops_are_exact_and_it_recovers_alone(
    open_recorder, log, metrics, monkeypatch
):
    monkeypatch.setattr(recorder, "WRITER_BUSY_S", 0.05)
    monkeypatch.setattr(recorder, "RETRY_S", 0.05)
    recording = open_recorder(limit_rows=100)
    recording.put(records("first"))
    assert recording.flush()
    other = sqlite3.connect(log, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    for i in range(250):
        recording.put(records(f"{i}"))
    assert dropped(metrics, "queue_full") == 150
    assert not recording.flush(timeout_s=0.3)
    other.execute("COMMIT")
    other.close()
    assert recording.flush(timeout_s=20)
    assert rows(log) == ["first", *(str(i) for i in range(100))]
    assert value(metrics, "vigil_records_total", model="m") == 101


def test_large_rows_are_limited_by_bytes_and_what_does_not_fit_is_counted(open_recorder, log, metrics, monkeypatch):
    monkeypatch.setattr(recorder, "COMMIT_S", 60.0)  # only flush() wakes the writer: all ten wait at once
    one_row_bytes = 2 * 4 + 3 * 4
    recording = open_recorder(limit_bytes=4 * one_row_bytes)
    for i in range(10):
        recording.put(records(str(i)))
    assert dropped(metrics, "queue_full") == 6
    assert recording.flush()
    assert rows(log) == ["0", "1", "2", "3"]
    recording.put(records("4"))  # the room is given back
    assert recording.flush()
    assert rows(log)[-1] == "4"


def test_a_row_put_after_close_is_counted_as_lost(open_recorder, log, metrics):
    recording = open_recorder()
    recording.put(records("a"))
    recording.close()
    recording.put(records("b", "c"))
    assert rows(log) == ["a"]
    assert dropped(metrics, "write_failed") == 2


def test_closing_while_the_log_is_locked_ends_and_counts_what_is_lost(open_recorder, log, metrics, monkeypatch):
    monkeypatch.setattr(recorder, "RETRY_S", 0.05)
    recording = open_recorder()
    recording.put(records("first"))
    assert recording.flush()
    other = sqlite3.connect(log, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    recording.put(records("a", "b"))
    recording.close(timeout_s=0.2)  # shorter than one try of the writer
    other.execute("COMMIT")
    other.close()
    ended(recording._writer)
    counted = dropped(metrics, "write_failed") + value(metrics, "vigil_records_total", model="m")
    assert dropped(metrics, "write_failed") == 2 and counted == 3


def test_a_row_that_no_disk_takes_does_not_stop_those_behind_it(open_recorder, log, metrics, monkeypatch):
    recording = open_recorder()
    broken = records("a")
    recording.put(Records(broken.model, "v", 5.0, ["a", "b"], ["x"], broken.outputs, broken.rows))
    recording.flush()
    recording.put(records("c"))
    assert recording.flush()
    assert rows(log) == ["c"]
    assert dropped(metrics, "write_failed") == 2


def test_a_full_disk_is_survived_with_exact_counts(open_recorder, log, metrics, monkeypatch):
    monkeypatch.setattr(recorder, "RETRY_S", 0.05)
    connect, limit = recorder.connect, {"pages": 30}

    def small(path, *arguments):
        connection = connect(path, *arguments)
        connection.execute(f"PRAGMA max_page_count = {limit['pages']}")
        return connection

    monkeypatch.setattr(recorder, "connect", small)
    recording = open_recorder(limit_rows=400)
    sent = 1000
    for i in range(sent):
        recording.put(records(f"row-{i}-{'x' * 200}"))
    recording.flush(timeout_s=1)
    limit["pages"] = 1_000_000  # space returns
    assert recording.flush(timeout_s=20)
    kept = value(metrics, "vigil_records_total", model="m")
    assert kept + dropped(metrics, "queue_full") + dropped(metrics, "write_failed") == sent
    assert len(rows(log)) == kept >= 400
    recording.put(records("afterwards"))
    assert recording.flush()
    assert rows(log)[-1] == "afterwards"


def test_a_log_that_can_never_be_written_stops_nobody_and_every_row_is_counted(tmp_path, metrics, monkeypatch):
    monkeypatch.setattr(recorder, "RETRY_S", 0.05)
    (tmp_path / "file").write_text("not a folder")
    recording = Recorder(tmp_path / "file" / "log.sqlite", metrics=metrics)
    for i in range(20):
        recording.put(records(str(i)))
    recording.close()
    assert dropped(metrics, "write_failed") == 20


def test_labels_that_cannot_be_written_are_refused_with_503(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    recording = Recorder(tmp_path / "file" / "log.sqlite")
    try:
        with pytest.raises(RequestError, match="labels: the log .* cannot be written") as caught:
            recording.label([("a", "b")])
        assert caught.value.status == 503
    finally:
        recording.close()


@pytest.mark.parametrize("kills", [15, pytest.param(100, marks=pytest.mark.proof)])
def test_nothing_acknowledged_is_lost_however_often_the_writer_is_killed(log, kills):
    acknowledged = set()
    for kill in range(kills):
        command = [sys.executable, "-c", WRITER.format(root=str(ROOT)), str(log), str(kill)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        lines = [process.stdout.readline().strip()]
        time.sleep(0.01 * (kill % 7))  # not waiting for something: a different moment to die at
        os.kill(process.pid, signal.SIGKILL)
        rest, _ = process.communicate()
        whole = rest if rest.endswith("\n") else rest.rpartition("\n")[0]
        acknowledged |= {line for line in [*lines, *whole.split()] if line}
        connection = sqlite3.connect(log)
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        connection.close()
    connection = recorder.connect(log)
    labels = {ident for (ident,) in connection.execute("SELECT id FROM labels")}
    old = connection.execute("SELECT count(*) FROM predictions WHERE id LIKE 'old-%'").fetchone()[0]
    predictions = {ident for (ident,) in connection.execute("SELECT id FROM predictions")}
    connection.close()
    print(f"{kills} kills: {len(acknowledged)} rows acknowledged, {len(acknowledged - predictions)} of them lost")
    assert len(acknowledged) >= kills and old < kills * 300
    assert acknowledged <= labels and acknowledged <= predictions


def test_labels_tell_how_many_are_of_no_row_on_the_log_also_where_ids_are_hashed(tmp_path):
    for i, pseudonyms in enumerate((None, Pseudonyms(b"k" * 32))):
        recording = recorder.Recorder(tmp_path / f"{i}.sqlite", pseudonyms=pseudonyms)
        try:
            recording.put(records("a", "b"))
            added = recording.label([("a", "3"), ("nobody", "3"), ("b", "3")])
        finally:
            recording.close()
        assert (added.accepted, added.unknown) == (3, 1)
