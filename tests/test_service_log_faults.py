"""The disk of the prediction log fills up, or hangs: predictions go on, every row is counted, and it recovers alone."""

import resource
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
from tiny_release import TABLE, make_draft, make_files, rows_of

from registry import aliases, store

BATCH = 250
EVERY = {"VIGIL_RECORD_ROWS_PER_S": "1e9", "VIGIL_RECORD_MB_PER_S": "1e9"}
LABEL = {"labels": [{"id": "r0-0", "label": "no"}]}
HOLDER = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("holds it", flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def home(place):
    """A store with one champion."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(place))
        classes = ("no", "yes")
        aliases.promote(
            store.publish(make_draft("m", TABLE, classes), make_files(place / "f", TABLE, classes)).tag, "first"
        )
    return place


@pytest.fixture
def disk(tmp_path):
    """Yield a folder on a disk of its own, of 6 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("needs a disk to fill: run the tests as root, where mount is allowed")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def send(service, requests, begin=0):
    """Send so many batches; return the statuses that were not 200."""
    rows = rows_of(TABLE, BATCH).tolist()
    found = [service.call("/v1/predict", {"rows": rows}, {"X-Request-Id": f"r{begin + i}"})[0] for i in range(requests)]
    return [status for status in found if status != 200]


def counted(service):
    """Return how many rows were written, dropped for want of room, and dropped for any reason."""
    return (
        service.metric("vigil_records_total"),
        service.metric("vigil_records_dropped_total", reason="queue_full"),
        service.metric("vigil_records_dropped_total"),
    )


def rows_in(log):
    """Return the rows of a log that is whole."""
    connection = sqlite3.connect(log)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return connection.execute("SELECT count(*) FROM predictions").fetchone()[0]
    finally:
        connection.close()


def hold_out(service, log, eventually, free):
    """Send until rows are dropped, make room with `free()`, and demand that every row is accounted for."""
    sent = 0
    while counted(service)[1] == 0:
        assert send(service, 20, sent) == []
        sent += 20
        assert sent < 1000, "the log never stopped"
    assert send(service, 10, sent) == []
    sent += 10
    assert service.call("/v1/labels", LABEL)[0] == 503
    free()
    eventually("every row counted", lambda: counted(service)[0] + counted(service)[2] == sent * BATCH, 60)
    assert send(service, 4, sent) == []
    sent += 4
    eventually("the last rows written", lambda: counted(service)[0] + counted(service)[2] == sent * BATCH)
    written, no_room, dropped = counted(service)
    assert no_room == dropped > 0 and rows_in(log) == written >= 20_000
    assert service.call("/v1/labels", LABEL)[0] == 200
    print(f"{sent * BATCH:,} rows: {written:,.0f} written, {dropped:,.0f} dropped and counted, 0 requests failed")


def test_a_full_disk_costs_no_answer_and_every_row_is_counted(home, disk, start_ready, eventually):
    filler = disk / "filler"
    filler.write_bytes(bytes(5 << 20))
    service = start_ready(home, VIGIL_LOG=str(disk / "log.sqlite"), **EVERY)
    hold_out(service, disk / "log.sqlite", eventually, filler.unlink)


def test_a_quota_costs_no_answer_and_every_row_is_counted(home, tmp_path, start_ready, eventually):
    log = tmp_path / "log.sqlite"
    service = start_ready(home, VIGIL_LOG=str(log), **EVERY)
    limit(log, 600_000)
    hold_out(service, log, eventually, lambda: limit(log, resource.RLIM_INFINITY))


def test_a_writer_that_hangs_costs_no_answer_and_every_row_is_counted(home, tmp_path, start_ready, eventually):
    log = tmp_path / "log.sqlite"
    service = start_ready(home, VIGIL_LOG=str(log), **EVERY)
    assert send(service, 1, 9999) == []
    eventually("the log", lambda: counted(service)[0] == BATCH)
    with holding(log):
        with ThreadPoolExecutor(12) as clients:
            labels = [clients.submit(service.call, "/v1/labels", LABEL) for _ in range(12)]
            assert service.call("/metrics")[0] == service.call("/readyz")[0] == 200  # they do not wait for the labels
            assert not all(one.done() for one in labels)
            assert {one.result()[0] for one in labels} == {503}
        sent = 0
        while counted(service)[1] == 0:
            assert send(service, 20, sent) == []
            sent += 20
    eventually("every row counted", lambda: counted(service)[0] + counted(service)[2] == (sent + 1) * BATCH, 60)
    written, no_room, dropped = counted(service)
    assert no_room == dropped > 0 and rows_in(log) == written >= 20_000
    assert service.call("/v1/labels", LABEL)[0] == 200
    print(f"{(sent + 1) * BATCH:,} rows: {written:,.0f} written, {dropped:,.0f} dropped and counted, 0 requests failed")


@contextmanager
def holding(log):
    """Stop, by SIGSTOP, a process that has the log to itself for writing; when this ends it is killed."""
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(log)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "holds it\n"
        holder.send_signal(signal.SIGSTOP)
        yield
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


def limit(log, most_bytes):
    """Let no process of the service that writes `log` write a file larger than that."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            ours = f"VIGIL_LOG={log}\0".encode() in (process / "environ").read_bytes()
        except OSError:  # it ended meanwhile
            continue
        if ours:
            resource.prlimit(int(process.name), resource.RLIMIT_FSIZE, (most_bytes, resource.RLIM_INFINITY))
