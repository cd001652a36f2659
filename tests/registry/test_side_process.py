"""`vigil models sync --every` as it runs beside a server; always the real process."""

import json
import os
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

import vigil
from grafana import fleet_rules
from registry import share, share_verbs, store

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def following(tmp_path, shared):
    """Return a context in which the store `replica` follows the shared place; a minute at most."""

    @contextmanager
    def follow():
        environment = os.environ | {"BENTOML_HOME": str(tmp_path / "replica"), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "vigil", "models", "sync", shared, "--every", "0.1"]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        running = subprocess.Popen(command, env=environment, text=True, **pipes)
        end = threading.Timer(60, running.kill)
        end.start()
        try:
            yield running
        finally:
            end.cancel()
            running.kill()
            running.communicate()

    return follow


def ended(running, number=signal.SIGTERM):
    """Return the exit status and what is left on stderr after a signal."""
    running.send_signal(number)
    said = running.communicate(timeout=20)[1]
    return running.returncode, said


def test_it_follows_until_it_is_told_to_end(shared, promoted, tmp_path, eventually, following):
    first = promoted(1)
    replica = tmp_path / "replica"
    with following() as running:
        assert "holds no releases" in running.stderr.readline()
        share.push(shared)
        assert "champion" in running.stdout.readline()
        second = promoted(2)
        share.push(shared)
        assert running.stdout.readline().startswith(f"tiny: champion {second.version}, copied {second.version} (")
        third = promoted(3)
        share.push(shared)
        assert running.stdout.readline().startswith(f"tiny: champion {third.version}")
        eventually("its sign of life", lambda: (replica / "vigil" / "synced").read_text() == f"{shared}\n")
        eventually("the first champion goes", lambda: not (replica / "models" / "tiny" / first.version).exists())
        assert json.loads(running.stderr.readline())["releases"] == [first.tag]  # what went, and nothing else
        assert ended(running) == (0, "")


def test_a_first_look_that_did_not_reach_the_place_is_made_up_for(at, shared, promoted, tmp_path, following):
    made = promoted(1)
    share.push(shared)
    at("replica")
    share.pull(shared)
    path = store.open_release(made.tag).path / "model.onnx"
    path.write_bytes(b"x")
    (tmp_path / "shared").rename(tmp_path / "away")
    (tmp_path / "shared").touch()
    with following() as running:
        assert "sync_failed" in running.stderr.readline()
        (tmp_path / "shared").unlink()
        (tmp_path / "away").rename(tmp_path / "shared")
        assert f"champion {made.version}, as before, copied" in running.stdout.readline()
    assert path.read_bytes() == made.read("model.onnx")


def test_ctrl_c_ends_it_also_where_a_script_started_it_in_the_background(shared, promoted, following):
    promoted(1)
    share.push(shared)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell does for `&`; it is inherited
    try:
        with following() as running:
            assert "champion" in running.stdout.readline()
            assert ended(running, signal.SIGINT) == (0, "")
    finally:
        signal.signal(signal.SIGINT, before)


def test_nobody_can_follow_so_rarely_that_the_alert_takes_it_for_stuck(capsys):
    assert 3 * share_verbs.MOST_EVERY_S <= fleet_rules.SYNC_S
    for every in ("20.1", "300", "0", "nan"):
        with pytest.raises(SystemExit):
            vigil.main(["models", "sync", "file:///nowhere", "--every", every])
        assert "accepted is a number of seconds above 0 and up to 20, found" in capsys.readouterr().err
