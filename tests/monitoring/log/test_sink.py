import os
import signal
import subprocess
import sys
from pathlib import Path

import fsspec
import pyarrow.parquet as pq
import pytest
from filled_log import fill, label, shadow
from fsspec.registry import _registry
from fsspec.spec import AbstractFileSystem
from tiny_release import TABLE

import vigil
from monitoring.log import logfile, sink
from monitoring.log.erase import wanted
from monitoring.log.pseudonym import Pseudonyms
from monitoring.log.sink import Target, export
from registry.errors import ConfigError, DataError
from registry.remote import Remote

ROOT = Path(__file__).resolve().parents[3]
HOUR = 3600.0
NOW = 500_000 * HOUR


@pytest.fixture
def log(tmp_path):
    return tmp_path / "log.sqlite"


@pytest.fixture
def released(publish):
    return publish("m", spec=TABLE, classes=("a", "b"))


@pytest.fixture(params=["file", "memory"])
def url(request, tmp_path):
    yield f"file://{tmp_path}/parts" if request.param == "file" else "memory://parts"
    fsspec.filesystem("memory").store.clear()


def exported(url, kind=sink.ROWS):
    """Return the ids in all parts of a kind, in the order of the parts."""
    target = Target(url)
    found = []
    for name in target.parts():
        if name.startswith(kind):
            with target.open(name) as file:
                found += pq.read_table(file)["id"].to_pylist()
    return found


def test_closed_hours_are_exported_once_and_what_comes_later_follows(released, log, url):
    fill(log, released, [f"old-{i}" for i in range(10)], NOW - 2 * HOUR, step_s=HOUR / 6)
    label(log, [("old-0", "a"), ("old-1", "a")], NOW + 1)
    first = export(log, url, NOW)
    assert (first.parts, first.rows, first.labels) == (2, 10, 0)
    fill(log, released, ["late"], NOW - HOUR)
    fill(log, released, ["new-0", "new-1"], NOW + 60)
    second = export(log, url, NOW + 120)
    assert second.rows == 1
    assert export(log, url, NOW + 120).parts == 0
    last = export(log, url, NOW + 120, whole=True)
    assert (last.rows, last.labels) == (2, 2)
    assert sorted(exported(url)) == sorted([*(f"old-{i}" for i in range(10)), "late", "new-0", "new-1"])


def test_parts_are_by_release_and_hour_with_labels_and_shadow_rows_beside(released, publish, log, url):
    other = publish("n", seed=2, spec=TABLE, classes=("a", "b"))
    fill(log, released, ["a", "b"], NOW - HOUR)
    shadow(log, ["a", "b"], NOW - HOUR)
    fill(log, other, ["c"], NOW)
    label(log, [("a", "a"), ("b", "b"), ("c", "a")])
    done = export(log, url, NOW, whole=True)
    assert (done.rows, done.labels, done.shadow) == (3, 3, 2)
    folders = {name.rsplit("/", 1)[0] for name in Target(url).parts()}
    assert {f"rows/m/{released.version}/2027-01-15/07", f"rows/n/{other.version}/2027-01-15/08"} <= folders
    assert (exported(url, sink.LABELS), exported(url, sink.SHADOW)) == (["a", "b", "c"], ["a", "b"])


def test_rows_that_were_deleted_before_their_turn_are_told(released, log, url):
    fill(log, released, [f"{i}" for i in range(5)], NOW - HOUR)
    connection = logfile.connect(log)
    with connection:
        connection.execute("DELETE FROM predictions WHERE id IN ('0', '3')")
    connection.close()
    done = export(log, url, NOW)
    assert (done.rows, done.gone) == (3, 2) and "2 were deleted" in done.to_text()


def test_a_row_of_a_wrong_clock_does_not_hold_up_the_rest(released, log, url):
    fill(log, released, ["far"], NOW + 1e9)
    fill(log, released, ["near"], NOW - HOUR)
    assert export(log, url, NOW).rows == 2


def test_a_target_that_fails_is_named_and_what_is_missing_follows(released, log, tmp_path):
    fill(log, released, ["a"], NOW - HOUR)
    (tmp_path / "parts").write_text("no folder")
    with pytest.raises(DataError, match="parts: cannot be written: .*; what is missing follows the next time"):
        export(log, f"file://{tmp_path}/parts", NOW)
    (tmp_path / "parts").unlink()
    assert export(log, f"file://{tmp_path}/parts", NOW).rows == 1


def test_two_targets_each_get_all(released, log, tmp_path):
    fill(log, released, ["a"], NOW - HOUR)
    for name in ("one", "two"):
        assert export(log, f"file://{tmp_path}/{name}", NOW).rows == 1
        assert exported(f"file://{tmp_path}/{name}") == ["a"]


def test_two_exports_at_a_time_are_refused(released, log, tmp_path):
    fill(log, released, ["a"], NOW - HOUR)
    with sink._alone(log), pytest.raises(DataError, match="another export of it is under way"):
        export(log, f"file://{tmp_path}/parts", NOW)


def test_the_verb_says_what_it_wrote_and_shows_no_password(released, log, tmp_path, capsys):
    fill(log, released, ["a"], NOW - HOUR)
    assert vigil.main(["log", "export", "--log", str(log), "--to", f"file://{tmp_path}/parts"]) == 0
    assert capsys.readouterr().out.startswith(f"file://{tmp_path}/parts: 1 new parts, 1 rows, 0 labels")
    assert vigil.main(["log", "export", "--log", str(log), "--to", "nowhere://me:secret@host/x?token=1"]) == 2
    shown = capsys.readouterr().err
    assert "nowhere://host/x" in shown and "secret" not in shown and "token" not in shown


def test_a_person_is_erased_from_the_parts_and_nothing_else_is(released, log, url, capsys):
    ids = [f"{who}-{i}" for who in ("anna", "annabel", "ben") for i in range(3)]
    fill(log, released, ids, NOW - HOUR, step_s=300.0)
    label(log, [("anna-0", "a"), ("ben-0", "b")], NOW - HOUR)
    export(log, url, NOW)
    before = [name for name in Target(url).parts() if name.startswith(sink.ROWS)]
    said = ["log", "erase", "--log", str(log), "--id", "anna", "--exports", url]
    assert vigil.main(said) == 0
    assert capsys.readouterr().out.endswith(f"\n{url}: 4 rows and labels in 2 parts\n")
    assert sorted(exported(url)) == sorted(ids[3:]) and exported(url, sink.LABELS) == ["ben-0"]
    assert [name for name in Target(url).parts() if name.startswith(sink.ROWS)] == before
    assert vigil.main([*said, "--json"]) == 0
    assert '"parts": 0, "rows": 0' in capsys.readouterr().out
    assert export(log, url, NOW).parts == 0  # what was erased does not come back


def test_hashed_ids_are_erased_from_the_parts_by_the_key(released, log, tmp_path, monkeypatch):
    keyed, url = Pseudonyms(b"0123456789abcdef-secret"), f"file://{tmp_path}/parts"
    fill(log, released, [keyed.ident("anna-0"), keyed.ident("anna-1"), keyed.ident("ben-0")], NOW - HOUR)
    connection = logfile.connect(log)
    logfile.note(connection, logfile.IDS, keyed.fingerprint)
    connection.close()
    export(log, url, NOW)
    monkeypatch.setenv("VIGIL_RECORD_KEY", "0123456789abcdef-secret")
    assert sink.erase(url, wanted(log, ["anna"])) == (1, 2)
    assert exported(url) == [keyed.ident("ben-0")]


EXPORTER = """
import sys; sys.path.insert(0, {root!r})
from pathlib import Path
from monitoring.log import sink
print("begun", flush=True)
sink.export(Path(sys.argv[1]), sys.argv[2], {now})
print("done", flush=True)
"""


def killed_exports(log, url, kills, delay_s):
    """Export again and again, killed each time a little later; return how many ended by themselves."""
    ended = 0
    for kill in range(kills):
        command = [sys.executable, "-c", EXPORTER.format(root=str(ROOT), now=NOW), str(log), url]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "begun\n"
        try:
            process.wait(delay_s * kill)
            ended += 1
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    return ended


@pytest.mark.parametrize("kills", [5, pytest.param(50, marks=pytest.mark.proof)])
def test_an_export_that_is_killed_again_and_again_leaves_no_row_out_and_none_twice(released, log, tmp_path, kills):
    url, ids = f"file://{tmp_path}/parts", [f"{i}" for i in range(2000)]
    fill(log, released, ids, NOW - 100 * HOUR, step_s=180.0)
    killed = kills - killed_exports(log, url, kills, 0.2 / kills)
    export(log, url, NOW)
    found = exported(url)
    print(f"{killed} exports killed: {len(found)} of {len(ids)} rows, {len(found) - len(set(found))} twice")
    assert found and sorted(found) == sorted(ids)


def test_a_package_that_is_missing_is_named_with_the_command_that_brings_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(DataError, match="s3://b/x: s3:// needs the package s3fs, which is not .*: pip install s3fs$"):
        Target("s3://user:word@b/x")
    with pytest.raises(ConfigError, match="s3:// needs the package s3fs, which is not installed: pip install s3fs$"):
        Remote("s3://b/x")


def test_the_variables_for_storage_that_speaks_s3_reach_its_file_system(monkeypatch):
    told = {"ENDPOINT_URL": "http://127.0.0.1:9", "KEY": "who", "SECRET": "word"}
    monkeypatch.setattr(fsspec.config, "conf", {})
    fsspec.config.set_conf_env(fsspec.config.conf, {f"FSSPEC_S3_{name}": value for name, value in told.items()})

    class Storage(AbstractFileSystem):
        protocol = "s3"

        def __init__(self, endpoint_url, key, secret):
            super().__init__()
            self.told = endpoint_url, key, secret

    monkeypatch.setitem(_registry, "s3", Storage)
    files, _ = fsspec.core.url_to_fs("s3://bucket/parts")
    assert files.told == tuple(told.values())
    text = (ROOT / "docs" / "log.md").read_text()
    assert all(f"`FSSPEC_S3_{name}" in text for name in told)
