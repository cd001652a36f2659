"""The whole house, once, for real: what `make demo` promises."""

import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from demo import stack

ROOT = Path(__file__).resolve().parents[2]
LIMIT_S = 400


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    missing = stack.missing_programs()
    assert not missing, f"install what the demo needs: sudo apt-get install {' '.join(missing)}"
    out = tmp_path_factory.mktemp("demo")
    return out, _demo(out, os.environ["PATH"])


def _demo(out, path):
    command = [sys.executable, "-m", "vigil", "demo", "--out", str(out)]
    environment = os.environ | {"PATH": path}
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=LIMIT_S)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_the_last_line_says_that_all_of_it_happened(told):
    _, result = told
    assert result["ok"] is True
    assert result["control_alerts"] == 0
    assert result["lost_requests"] == 0 and result["requests"] > 200
    assert result["skipped"] == []
    for step in ("drift_alert_s", "quality_alert_s", "quality_clear_s", "rollback_s", "wall_s"):
        assert 0 < result[step] < LIMIT_S, step


def test_the_page_holds_the_timeline_the_signals_the_confusion_matrices_and_evidently(told):
    out, _ = told
    page = (out / "report.html").read_text()
    for part in ("Timeline", "Drift per signal", "spread_x", "Truth against prediction", "srcdoc=", "data:image/png"):
        assert part in page, part
    assert page.count("labelled rows") >= 2  # one matrix for each release


def test_bentoml_lists_the_releases_of_the_demo(told):
    out, _ = told
    environment = os.environ | {"BENTOML_HOME": str(out / "out" / "bentoml"), "BENTOML_DO_NOT_TRACK": "True"}
    command = [sys.executable, "-m", "bentoml", "models", "list", "--output", "json"]
    listed = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert len([one for one in json.loads(listed.stdout) if one["tag"].startswith("digits:")]) == 2


def test_the_history_names_the_forced_promotion_and_the_rollback(told):
    out, _ = told
    said = json.loads((out / "out" / "bentoml" / "vigil" / "aliases" / "digits.json").read_text())
    assert [change["action"] for change in said["history"]] == ["promote", "promote", "rollback"]
    assert said["history"][1]["forced"] and not said["history"][0]["forced"]


def test_no_program_of_the_demo_is_left_running(told, eventually):
    out = str(told[0]).encode()
    eventually("the end of what the demo started", lambda: not [line for line in _command_lines() if out in line])


def _command_lines():
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # it has just ended
            if folder.name.isdigit():
                yield (folder / "cmdline").read_bytes()


@pytest.mark.proof
def test_without_prometheus_the_demo_says_what_to_install_and_goes_on(tmp_path):
    result = _demo(tmp_path, path=str(tmp_path))
    assert result["ok"] is True and result["control_alerts"] is None
    assert "sudo apt-get install prometheus prometheus-alertmanager" in result["skipped"][0]
