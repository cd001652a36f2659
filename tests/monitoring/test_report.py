import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tiny_release import HOMES, IMAGE, rows_of

from monitoring import recorder, report
from monitoring.report import Job
from registry.errors import DataError
from serving.engine import Engine

ROOT = Path(__file__).resolve().parents[2]
BROKEN = """
import sys, json, warnings
import numpy as np, pandas as pd
from pathlib import Path
from monitoring import report
draw = np.random.default_rng(0)
def frame(rows, shift):
    return pd.DataFrame({
        "moved": draw.standard_normal(rows) + shift, "same": draw.standard_normal(rows),
        "empty": np.nan, "constant": 1.0, "words": 0.0, "gone": 0.0, "predicted_class": draw.choice(list("ab"), rows)})
reference, current = frame(6000, 0.0), frame(800, 1.0)
current["words"] = "text"
del current["gone"]
current["extra"] = 1.0
print(report.build(reference, current, Path(sys.argv[1])).to_json())
"""


def record(log, release, rows):
    outputs = Engine(release, ("cpu",), threads=1).run(rows)[0]
    connection = recorder.connect(log)
    with connection:
        for i, (row, p) in enumerate(zip(rows, outputs, strict=True)):
            said = (f"{i}", time.time(), release.name, release.version, str(p.argmax()), p.tobytes(), row.tobytes())
            connection.execute(recorder.PREDICTION, said)
    connection.close()


def test_recorded_traffic_that_moved_is_named_and_the_rest_passes(tmp_path, publish):
    made, log, out = publish(), tmp_path / "log.sqlite", tmp_path / "report.html"
    rows = rows_of(IMAGE, 400, seed=8)
    rows[:, :, :4] //= 2  # the left half gets darker
    record(log, made, rows)
    findings = report.write_report(Job(log, made.tag, 3600.0, out))
    assert (findings.rows, findings.reference_rows) == (400, 300)
    assert {"brightness", "centre_x"} <= findings.drifted.keys()
    assert "centre_y" in findings.passed
    assert out.stat().st_size > 100_000 and "brightness" in out.read_text()


def test_a_regression_with_text_columns_is_reported_without_a_warning(tmp_path, publish):
    made, log, out = publish("homes", spec=HOMES, classes=()), tmp_path / "log.sqlite", tmp_path / "report.html"
    rows = rows_of(HOMES, 400, seed=8)
    rows[:200, 1] = 2  # half of all now come from Rome
    record(log, made, rows)
    code = (
        "import sys; from pathlib import Path; from monitoring import report;"
        f"job = report.Job(Path({str(log)!r}), {made.tag!r}, 3600.0, Path({str(out)!r}));"
        "reference, current = report.frames(job);"
        "print(sorted(set(current['city'])), list(current));"
        "print(report.build(reference, current, job.out).to_json())"
    )
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    columns, said = done.stdout.splitlines()
    assert columns == "['Bern', 'Oslo', 'Rome'] ['area', 'city', 'heating', 'prediction']"
    findings = report.Findings(**json.loads(said))
    assert "city" in findings.drifted and {"area", "heating"} <= findings.passed.keys()
    assert findings.broken == {} and "Rome" in out.read_text()


def test_columns_that_cannot_be_judged_become_findings_and_long_tables_are_capped(tmp_path):
    out = tmp_path / "report.html"
    command = [sys.executable, "-c", BROKEN, str(out)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    said = json.loads(done.stdout.splitlines()[-1])
    assert set(said["drifted"]) == {"moved"}
    assert {"same", "predicted_class"} <= set(said["passed"])
    assert said["broken"] == {
        "empty": "holds no value", "words": "is not a number", "gone": "is absent", "extra": "is not in the reference",
    }  # fmt: skip
    assert (said["rows"], said["reference_rows"]) == (800, 5000)
    assert out.exists()


def test_a_window_without_rows_says_how_to_get_some(tmp_path, publish):
    with pytest.raises(DataError, match="holds no row of .* send some, or widen --window-s"):
        report.write_report(Job(tmp_path / "log.sqlite", publish().tag, 60.0, tmp_path / "out.html"))


def test_a_folder_that_is_not_there_is_named_before_anything_is_computed(tmp_path):
    out = tmp_path / "no" / "report.html"
    with pytest.raises(DataError, match=r"report\.html: there is no folder .*no; make it or choose another --out"):
        report.write_report(Job(tmp_path / "log.sqlite", "tiny:20260101-000000-00000000", 3600.0, out))


def test_a_report_that_takes_too_long_is_ended(tmp_path, publish, monkeypatch):
    monkeypatch.setattr(report, "TIME_S", 0.05)
    with pytest.raises(DataError, match=r"not done after 0.05 s; choose a shorter --window-s"):
        report.write_report(Job(tmp_path / "log.sqlite", publish().tag, 60.0, tmp_path / "out.html"))


def test_the_caller_does_not_load_evidently(tmp_path, publish):
    made, log = publish(), tmp_path / "log.sqlite"
    record(log, made, rows_of(IMAGE, 150, seed=8))
    code = (
        "import sys; from pathlib import Path; from monitoring.report import Job, write_report;"
        f"write_report(Job(Path({str(log)!r}), {made.tag!r}, 3600.0, Path({str(tmp_path / 'r.html')!r})));"
        "print([m for m in ('evidently', 'pandas', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "[]\n"


def test_the_text_for_people_names_what_drifted_first():
    findings = report.Findings(10, 20, {"a": 1e-9}, {"b": 0.5}, {"c": "holds no value"}, "r.html")
    lines = findings.to_text().splitlines()
    assert lines[0] == "10 recorded rows against 20 reference rows: r.html"
    assert lines[1].split() == ["drifted", "a", "p", "=", "1e-09"]
    assert lines[2].split(maxsplit=3) == ["left", "out", "c", "holds no value"]
    assert np.all(["b" not in line.split() for line in lines])
