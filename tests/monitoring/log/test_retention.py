import time

import numpy as np
import pytest
from filled_log import count
from prometheus_client import CollectorRegistry

from monitoring.log import logfile, retention
from monitoring.log.recorder import Limits, Recorder, Records, Shadowed
from monitoring.log.retention import Retention
from monitoring.metrics import ServingMetrics

DAY = 86_400.0
WIDE = 2000  # float32 numbers of a row: 8 kB, which does not fit one page


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log.sqlite"


@pytest.fixture
def metrics():
    return ServingMetrics(CollectorRegistry())


def value(metrics, name, **labels):
    return metrics.registry.get_sample_value(name, labels) or 0.0


def deleted(metrics, what, reason):
    return value(metrics, "vigil_log_deleted_total", what=what, reason=reason)


def write(log, ids, age_days, model="m", width=3, labelled=True):
    """Write rows of one age with a label and a challenger's answer each."""
    when, n = time.time() - age_days * DAY, len(ids)
    outputs = np.full((n, 2), 0.5, dtype=np.float32)
    connection = logfile.connect(log)
    with connection:
        rows = np.random.default_rng(0).standard_normal((n, width)).astype(np.float32)
        logfile.put(connection, Records(model, "v", when, ids, ["a"] * n, outputs, rows), ids)
        logfile.put(connection, Shadowed(model, "w", when, ids, ["a"] * n, outputs), ids)
        if labelled:
            connection.executemany(logfile.LABEL, [(ident, when, "a") for ident in ids])
    connection.close()


def run(log, limits, metrics=None):
    """Take steps until there is no more to do; return how many."""
    connection, keeping = logfile.connect(log), Retention(log, limits, metrics)
    steps = 0
    while keeping.step(connection):
        steps += 1
    connection.close()
    return steps


def ids_of(log, table="predictions"):
    connection = logfile.connect(log)
    try:
        return {ident for (ident,) in connection.execute(f"SELECT id FROM {table}")}
    finally:
        connection.close()


def test_rows_past_their_age_go_with_labels_and_shadow_rows_and_are_counted(log, metrics):
    for model in ("m", "n"):
        write(log, [f"{model}-old-{i}" for i in range(300)], 8, model)
        write(log, [f"{model}-new-{i}" for i in range(30)], 6, model)
    assert run(log, Limits(days=7), metrics) > 1
    expected = {f"{model}-new-{i}" for model in "mn" for i in range(30)}
    assert ids_of(log) == ids_of(log, "labels") == ids_of(log, "shadow") == expected
    assert [deleted(metrics, what, "age") for what in ("predictions", "labels", "shadow")] == [600, 600, 600]
    assert time.time() - value(metrics, "vigil_log_oldest_timestamp_seconds") == pytest.approx(6 * DAY, abs=60)


def test_labels_without_a_row_go_by_their_own_age(log):
    write(log, ["kept"], 1, labelled=False)
    connection = logfile.connect(log)
    with connection:
        for ident, age in (("kept", 9), ("never", 9), ("kept", 1), ("early", 1)):
            connection.execute(logfile.LABEL, (ident, time.time() - age * DAY, "a"))
    connection.close()
    run(log, Limits(days=7))
    assert ids_of(log, "labels") == {"kept", "early"} and count(log, "labels") == 3


def test_a_log_that_is_too_large_loses_its_oldest_rows_and_the_file_shrinks(log, metrics):
    for day in range(6, 0, -1):
        write(log, [f"{day}-{i}" for i in range(250)], day, width=WIDE)
    before = log.stat().st_size
    assert before > 10e6
    run(log, Limits(mb=6), metrics)
    connection = logfile.connect(log)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    connection.close()
    left = ids_of(log)
    assert log.stat().st_size < 6.2e6 and len(left) > 500
    assert left == {f"{day}-{i}" for day in range(6, 0, -1) for i in range(250)} - {
        f"{k // 250 * -1 + 6}-{k % 250}" for k in range(1500 - len(left))
    }
    assert deleted(metrics, "predictions", "size") == 1500 - len(left)


def test_labels_alone_do_not_fill_the_disk(log, metrics):
    write(log, ["row"], 0)
    connection = logfile.connect(log)
    with connection:
        connection.executemany(logfile.LABEL, [(f"nobody-{i}-{'x' * 80}", time.time(), "a") for i in range(20_000)])
    connection.close()
    run(log, Limits(mb=1), metrics)
    connection = logfile.connect(log)
    assert retention.space(connection).used_bytes < 1e6
    connection.close()


def test_pages_are_used_again_when_the_file_may_not_shrink(log):
    write(log, [f"{i}" for i in range(500)], 8, width=WIDE)
    connection = logfile.connect(log)
    connection.execute("PRAGMA auto_vacuum=NONE")
    connection.execute("VACUUM")  # as a log from before it could
    connection.close()
    before = log.stat().st_size
    run(log, Limits(days=7))
    write(log, [f"new-{i}" for i in range(480)], 0, width=WIDE)
    assert log.stat().st_size == before and len(ids_of(log)) == 480


def test_no_limits_delete_nothing(log, metrics):
    write(log, ["a"], 10_000)
    assert run(log, Limits(), metrics) == 0
    assert ids_of(log) == {"a"}
    assert value(metrics, "vigil_log_size_bytes") >= value(metrics, "vigil_log_used_bytes") > 0


def test_a_recorder_deletes_while_it_writes_and_also_while_nothing_comes(log, metrics, monkeypatch, eventually):
    write(log, [f"old-{i}" for i in range(3000)], 8)
    recording = Recorder(log, metrics=metrics, keep=Limits(days=7))
    outputs, rows = np.full((1, 2), 0.5, dtype=np.float32), np.ones((1, 3), dtype=np.float32)
    for i in range(200):
        recording.put(Records("m", "v", time.time(), [f"new-{i}"], ["a"], outputs, rows))
        recording.flush()
    eventually("the old rows gone", lambda: deleted(metrics, "predictions", "age") == 3000)
    recording.close()
    assert ids_of(log) == {f"new-{i}" for i in range(200)}
    assert value(metrics, "vigil_records_total", model="m") == 200


def test_what_was_deleted_is_overwritten(log):
    write(log, [f"somebody-{i:04}" for i in range(2000)], 8)
    run(log, Limits(days=7))
    connection = logfile.connect(log)
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    connection.close()
    assert b"somebody-" not in log.read_bytes()


@pytest.mark.proof
def test_no_step_keeps_the_writer_for_long(log):
    for part in range(40):
        write(log, [f"{part}-{i}" for i in range(2500)], 8, width=20)
    write(log, ["new"], 0)
    connection, keeping = logfile.connect(log), Retention(log, Limits(days=7))
    took = []
    while True:
        begun = time.perf_counter()
        more = keeping.step(connection)
        took.append(time.perf_counter() - begun)
        if not more:
            break
    connection.close()
    took.sort()
    print(
        f"100,000 rows with labels and shadow rows deleted in {len(took)} steps: "
        f"median {took[len(took) // 2] * 1e3:.0f} ms, 95 % below {took[len(took) * 95 // 100] * 1e3:.0f} ms, "
        f"longest {took[-1] * 1e3:.0f} ms"
    )
    assert ids_of(log) == {"new"} and len(took) > 10
