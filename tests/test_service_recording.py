"""What a policy says must not be recorded is on no disk, and labels find their rows by ids that nobody can read."""

import functools
import json
import os
import shutil
import signal
import sqlite3
import struct
from pathlib import Path

import numpy as np
import pytest
from ending import children_of, gone
from tiny_release import make_draft, make_files

from monitoring.log import labels, logfile, redaction
from registry import aliases, store
from registry.errors import DataError
from registry.release import InputSpec

KEY = "a-key-of-the-test-0123456789"
MARKED = 100
HOMES = InputSpec("float32", (4,), ("area", "income", "age", "city"), {"city": ("Bern", "Oslo")})
POLICY = """
ids = "hash"
[models.homes.columns]
income = "drop"
age = "hash"
area = [0, 1_000_000, 10_000_000]
"""


@pytest.fixture(scope="module")
def record(place, start_ready, tmp_path_factory, eventually):
    """Return a function that sends the marked values to a service with a policy, and gives its folder when it ended."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(place))
        tag = store.publish(
            make_draft("homes", HOMES, ("no", "yes")), make_files(place / "f", HOMES, ("no", "yes"))
        ).tag
        aliases.promote(tag, "first")

    @functools.cache
    def run(policy):
        folder = tmp_path_factory.mktemp("records")
        said = {}
        if policy:
            (folder.parent / f"{folder.name}.toml").write_text(policy)
            said = {"VIGIL_RECORD_POLICY": str(folder.parent / f"{folder.name}.toml"), "VIGIL_RECORD_KEY": KEY}
        counts = folder / "counts"
        counts.mkdir()
        said |= {"VIGIL_LOG": str(folder / "log.sqlite"), "VIGIL_METRICS_FOLDER": str(counts)}
        service = start_ready(place, **said)
        for i in range(MARKED):
            send(service, i)
        assert service.metric("vigil_input_rows_total") == MARKED
        eventually("the rows on the log", lambda: service.metric("vigil_records_total") == MARKED)
        shutil.copytree(counts, folder / "counts of the living")
        left = children_of(service.process.pid)
        service.process.send_signal(signal.SIGSTOP)  # or it would start another one
        for pid in (*left, service.process.pid):
            os.kill(pid, signal.SIGKILL)  # so that what waits to be written back stays where it is
        service.process.wait()
        eventually("the end of the worker, which holds the log", lambda: gone(*left))
        shutil.copy(service.log, folder / "service.log")
        return folder

    return run


def marked(i):
    """Return the id, the text and the numbers of one row that nobody else has."""
    return f"CANARY-{i:03}-person", f"CANARY-{i:03}-town", [1_000_001.0 + i, 2_000_001.0 + i, 3_000_001.0 + i]


def send(service, i):
    ident, town, (area, income, age) = marked(i)
    head = {"X-Request-Id": ident}
    row = {"area": area, "income": income, "age": age, "city": "Oslo"}
    answer = service.call("/v1/predict", {"rows": [row]}, head)
    assert answer[0] == 200
    assert service.call("/v1/predict", {"rows": [row | {"city": town}]}, head)[0] == 422
    assert service.call("/v1/predict", b'{"rows": [[' + town.encode(), head | {"Content-Type": "text/plain"})[0] >= 400
    assert service.call("/v1/labels", {"labels": [{"id": f"{ident}-0", "label": "no"}]})[0] == 200
    assert service.call("/v1/labels", {"labels": [{"id": f"{ident}-0", "label": town}]})[0] == 422


def hits(folder):
    """Return every marked value that is in a file below `folder`, as text or as the numbers of a row."""
    found = []
    for path in folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        for i in range(MARKED):
            ident, town, numbers = marked(i)
            texts = [ident.encode(), town.encode(), *(b"%d" % number for number in numbers)]
            texts += [struct.pack("<2f", *numbers[:2]), struct.pack("<2f", *numbers[1:])]
            found += [(path.name, text) for text in texts if text in content]
    return found


def test_no_marked_value_is_in_any_file(record):
    folder = record(POLICY)
    assert (folder / "log.sqlite-wal").stat().st_size > 0
    assert hits(folder) == []
    with sqlite3.connect(folder / "log.sqlite") as log:
        rows = log.execute("SELECT id, row, hashed FROM predictions").fetchall()
        joined = log.execute("SELECT count(DISTINCT p.id) FROM predictions p JOIN labels l ON l.id = p.id").fetchone()[
            0
        ]
    log.close()
    found = redaction.decode(HOMES, [row for _, row, _ in rows])
    assert len(rows) == len({ident for ident, _, _ in rows}) == joined == MARKED
    assert np.unique(found[:, 0]).tolist() == [5_500_000.0]  # the middle of the bucket
    assert np.isnan(found[:, 1:]).all()
    assert len({json.loads(hashed)["age"] for _, _, hashed in rows}) == MARKED


def test_the_search_finds_the_values_when_no_policy_is_in_force(record):
    found = hits(record(""))
    assert {text for _, text in found} >= {marked(i)[0].encode() for i in range(MARKED)}
    assert len([1 for _, text in found if len(text) == 8]) >= 2 * MARKED


def test_labels_of_a_file_find_rows_by_the_key_and_by_no_other(record, place, monkeypatch):
    monkeypatch.setenv("BENTOML_HOME", str(place))
    log = record(POLICY) / "log.sqlite"
    with pytest.raises(DataError, match="hashed with a key, and there is none here; give the service's"):
        labels.add(log, [("CANARY-000-person-0", "yes")])
    monkeypatch.setenv("VIGIL_RECORD_KEY", "another-key-0123456789")
    with pytest.raises(DataError, match="hashed with a key, and the one here is another"):
        labels.add(log, [("CANARY-000-person-0", "yes")])
    monkeypatch.setenv("VIGIL_RECORD_KEY", KEY)
    assert labels.add(log, [("CANARY-000-person-0", "yes"), ("CANARY-none", "yes")]).unknown == 1
    with pytest.raises(DataError, match="is not a class"):
        labels.add(log, [("CANARY-000-person-0", "perhaps")])
    assert hits(Path(log).parent) == []


def test_a_policy_that_does_not_fit_the_release_keeps_it_from_serving_and_says_why(place, start_service, tmp_path):
    (tmp_path / "policy.toml").write_text('[models.homes.columns]\nincom = "drop"\n')
    said = {"VIGIL_RECORD_POLICY": str(tmp_path / "policy.toml"), "VIGIL_LOG": str(tmp_path / "log.sqlite")}
    service = start_service(place, **said)
    status, answer = service.call("/readyz")
    assert status == 503
    assert (
        "policy.toml:2: models.homes.columns.incom: is no column of the release; did you mean 'income'?"
        in (answer["reason"])
    )


def test_a_log_from_before_policies_takes_them(tmp_path):
    before = logfile.SCHEMA.replace(",\n  hashed TEXT", "")
    with sqlite3.connect(tmp_path / "log.sqlite") as connection:
        connection.executescript(before)
        connection.execute(logfile.PREDICTION, ("a", 5.0, "m", "v", "a", b"", b""))
    connection.close()
    connection = logfile.connect(tmp_path / "log.sqlite")
    with connection:
        connection.execute(logfile.REDACTED, ("b", 5.0, "m", "v", "a", b"", b"", "{}"))
    assert connection.execute("SELECT id, hashed FROM predictions").fetchall() == [("a", None), ("b", "{}")]
    connection.close()
