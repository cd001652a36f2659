import sqlite3
import threading
import time
from contextlib import closing

import numpy as np
import pytest
from filled_log import count, fill, label, shadow
from prometheus_client import CollectorRegistry
from tiny_release import TABLE, make_draft, make_files, rows_of

import vigil
from monitoring.judge import slices
from monitoring.log import erase as erasing
from monitoring.log import logfile, redaction
from monitoring.log.erase import erase
from monitoring.log.pseudonym import Pseudonyms
from monitoring.metrics import MonitorMetrics
from monitoring.monitor import state, watch
from monitoring.monitor.parts import WatchSettings
from registry import store
from registry.errors import DataError
from registry.release import InputSpec

KEY = "0123456789abcdef-secret"


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log.sqlite"


@pytest.fixture
def released(publish):
    return publish("m", spec=TABLE, classes=("a", "b"))


def traces(log, *texts):
    """Return which of `texts` are in a file of the log."""
    content = b"".join(path.read_bytes() for path in log.parent.glob(log.name + "*"))
    return [text for text in texts if text.encode() in content]


def names(log):
    connection = sqlite3.connect(log)
    try:
        return [ident for (ident,) in connection.execute("SELECT id FROM predictions ORDER BY seq")]
    finally:
        connection.close()


def test_rows_labels_and_shadow_rows_of_a_person_go_and_nothing_else(released, log):
    ids = [f"person-{i:02}-{k}" for i in range(40) for k in range(3)]
    fill(log, released, ids)
    shadow(log, ids)
    label(log, [(ident, said) for ident in ids for said in "ab"] + [("person-07-9", "a"), ("person-071-0", "a")])
    erased = erase(log, ["person-07"])
    assert (erased.ids, erased.rows, erased.labels, erased.shadow, erased.rebuilt) == (4, 3, 7, 3, False)
    assert names(log) == [ident for ident in ids if not ident.startswith("person-07")]
    assert (count(log, "labels"), count(log, "shadow")) == (2 * 117 + 1, 117)
    assert traces(log, "person-07-") == [] and traces(log, "person-08-", "person-071-0") == [
        "person-08-",
        "person-071-0",
    ]


def test_what_was_erased_is_in_no_file_though_it_waited_to_be_written_back(released, log):
    reader = logfile.connect(log)  # so that closing others does not write it back
    fill(log, released, [f"someone-{i:04}" for i in range(500)])
    assert traces(log.with_name(log.name + "-wal"), "someone-0123")
    erase(log, ["someone-0123"], exact=True)
    assert traces(log, "someone-0123") == [] and len(names(log)) == 499
    reader.close()


def test_traces_that_another_program_left_are_removed_too(released, log):
    fill(log, released, [f"someone-{i:04}" for i in range(500)])
    connection = sqlite3.connect(log)
    connection.execute("PRAGMA secure_delete=OFF")
    with connection:
        connection.execute("DELETE FROM predictions WHERE id = 'someone-0123'")
    connection.close()
    fill(log, released, ["someone-0123"])
    assert log.read_bytes().count(b"someone-0123") > 2  # the row and its index
    erased = erase(log, ["someone-0123"])
    assert erased.rows == 1 and erased.rebuilt and traces(log, "someone-0123") == []


def test_an_id_that_is_part_of_anothers_does_not_write_the_file_anew(released, log):
    fill(log, released, ["customer-1", "customer-12", "customer-123"])
    assert not erase(log, ["customer-12"]).rebuilt
    assert names(log) == ["customer-1", "customer-123"]


def test_exact_leaves_the_rows_of_the_request_of_that_name(released, log):
    fill(log, released, ["a-request", "a-request-0", "a-request-1", "a-request-x"])
    assert erase(log, ["a-request"], exact=True).rows == 1
    assert erase(log, ["a-request"]).rows == 2
    assert names(log) == ["a-request-x"]


def test_hashed_ids_are_found_by_the_key(released, log, monkeypatch):
    keyed = Pseudonyms(KEY.encode())
    fill(log, released, ["plain-7-0", *(keyed.ident(f"plain-7-{i}") for i in range(5000)), keyed.ident("other-0")])
    connection = logfile.connect(log)
    logfile.note(connection, logfile.IDS, keyed.fingerprint)
    connection.close()
    with pytest.raises(DataError, match="hashed with a key, and there is none here"):
        erase(log, ["plain-7"])
    monkeypatch.setenv("VIGIL_RECORD_KEY", KEY)
    assert erase(log, ["plain-7"]).rows == 5001
    assert names(log) == [keyed.ident("other-0")]


def test_the_monitor_keeps_nothing_of_an_erased_row_but_counts(log, tmp_path):
    towns = (*(f"CANARY-town-{i}" for i in range(4)), "Bern")
    spec = InputSpec("float32", (2,), ("age", "town"), {"town": towns})
    fitted = slices.fit(("town",), spec, rows_of(spec, 400), np.ones(400, dtype=bool), 0.8)
    said = {"metric": "accuracy", "floor": 0.8, "slices": slices.to_manifest(fitted)}
    draft = make_draft("m", spec, ("a", "b"), quality=said)
    made = store.publish(draft, make_files(tmp_path / "files", spec, ("a", "b")))
    ids = [f"person-{i:02}" for i in range(40)]
    fill(log, made, ids, time.time() - 60)
    label(log, [(ident, f"CANARY-label-{ident}") for ident in ids] + [("stranger-1", "CANARY-none")], time.time())
    counts = tmp_path / "elsewhere" / "counts"
    settings = WatchSettings(log, state=counts)
    shown = []
    for gone in ([], [*ids[:39], "stranger-1"]):
        if gone:
            erased = erase(log, gone, exact=True, counts=counts)
            assert (erased.rows, erased.labels, erased.counted) == (39, 40, 39)
            files = b"".join(path.read_bytes() for path in counts.parent.iterdir())
            assert [i for i in ids if f"CANARY-label-{i}".encode() in files] == ids[39:]
        metrics = MonitorMetrics(CollectorRegistry())
        watch.measure(settings, metrics, time.time())
        shown.append({s.name + str(s.labels): s.value for f in metrics.registry.collect() for s in f.samples})
        with closing(state.connect(counts)) as connection:
            known = connection.execute("SELECT seq, slices FROM joined").fetchall()
            assert len(known) == (1 if gone else 40) and all(text.startswith("town=") for _, text in known)
            assert connection.execute("SELECT count(*) FROM orphans").fetchone() == (not gone,)
    rows = [name for name in shown[0] if name.startswith("vigil_quality_slice_rows")]
    assert rows and {name: shown[0][name] for name in rows} == {name: shown[1][name] for name in rows}
    assert [one["vigil_labels_unknown{}"] for one in shown] == [1, 0]


def test_a_state_that_cannot_be_written_is_named_with_the_cure(released, log):
    fill(log, released, ["someone-1"])
    state.beside(log).write_bytes(b"no state" * 200)
    with pytest.raises(DataError, match="what the monitor knows of the rows is not erased: .* delete it"):
        erase(log, ["someone-1"])
    assert names(log) == ["someone-1"]  # so that it can be repeated


def test_a_reader_that_stays_is_waited_for_and_named(released, log, monkeypatch):
    fill(log, released, ["someone-1"])
    reader = logfile.connect(log)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM predictions").fetchone()
    monkeypatch.setattr(erasing, "WAIT_S", 0.2)
    with pytest.raises(DataError, match="the rows are erased, but .*-wal holds traces .* end that, and repeat"):
        erase(log, ["someone-1"])
    monkeypatch.setattr(erasing, "WAIT_S", 20)
    timer = threading.Timer(0.2, reader.rollback)
    timer.start()
    assert erase(log, ["someone-1"]).rows == 0
    timer.join()
    reader.close()
    assert traces(log, "someone-1") == []


def test_the_verb_erases_by_id_and_by_file_and_says_what_is_gone(released, log, tmp_path, capsys):
    fill(log, released, ["a-0", "a-1", "b-0", "c-0", "d-0"])
    (tmp_path / "ids").write_text("b\n\nc-0\n")
    said = ["log", "erase", "--log", str(log), "--id", "a"]
    assert vigil.main([*said, "--ids", str(tmp_path / "ids")]) == 0
    assert capsys.readouterr().out == "erased 4 rows, 0 labels, 0 answers of challengers of 4 row ids\n"
    assert vigil.main([*said, "--json"]) == 0
    assert '"rows": 0' in capsys.readouterr().out
    assert vigil.main([*said[:-1], "d-0"]) == 0
    assert capsys.readouterr().out == "erased 1 row, 0 labels, 0 answers of challengers of 1 row id\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "name whose rows: --id ID"),
        (["--ids", "none"], "none: cannot be read"),
        (["--ids", "empty"], "empty: holds no ids"),
        (["--id", "a", "--log", "no.sqlite"], "no.sqlite: there is no prediction log"),
        (["--id", "a", "--log", "empty.d"], "empty.d: not all was erased"),
    ],
)
def test_an_erasure_that_cannot_be_is_refused_with_the_cure(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "empty.d").mkdir()
    assert vigil.main(["log", "erase", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_bytes_of_a_dropped_row_are_none(released, log):
    fill(log, released, ["a"], redaction=redaction.Redaction(TABLE, whole=True))
    connection = sqlite3.connect(log)
    assert connection.execute("SELECT length(row) FROM predictions").fetchone() == (0,)
    connection.close()
