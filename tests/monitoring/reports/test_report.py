import json
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from tiny_release import HOMES, IMAGE, TABLE, rows_of

from monitoring.log import recorder
from monitoring.reports import report, traffic
from monitoring.reports.findings import Findings, Quality, parse
from monitoring.reports.report import Job
from monitoring.reports.traffic import Window
from registry.errors import DataError
from registry.release import InputSpec
from serving.engine import Engine

ROOT = Path(__file__).resolve().parents[3]
BROKEN = """
import sys, json, warnings
import numpy as np, pandas as pd
from dataclasses import asdict
from pathlib import Path
from monitoring.reports import report
draw = np.random.default_rng(0)
def frame(rows, shift):
    return pd.DataFrame({
        "moved": draw.standard_normal(rows) + shift, "same": draw.standard_normal(rows),
        "empty": np.nan, "endless": 1.0, "constant": 1.0, "half": draw.standard_normal(rows), "words": 0.0, "gone": 0.0,
        "when": 0.0, "predicted_class": draw.choice(list("ab"), rows)})
reference, current = frame(6000, 0.0), frame(800, 1.0)
current["words"] = "text"
current["endless"] = np.inf
current.loc[::2, "half"] = np.nan
reference["when"] = current["when"] = pd.Timestamp(0)
del current["gone"]
current["extra"] = 1.0
for rows in (current, current[:1], current[:0]):
    print(json.dumps(asdict(report.build(reference, rows, Path(sys.argv[1])))))
"""


def record(log, release, rows, predicted=None, kept=None):
    outputs = Engine(release, ("cpu",), threads=1).run(rows)[0]
    connection = recorder.connect(log)
    with connection:
        for i, (row, p) in enumerate(zip(rows if kept is None else kept, outputs, strict=True)):
            answer = str(p.argmax()) if predicted is None else predicted
            said = (f"{i}", time.time(), release.name, release.version, answer, p.tobytes(), row.tobytes())
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
        "import sys; from pathlib import Path; from monitoring.reports import report, traffic;"
        f"window = traffic.Window(Path({str(log)!r}), 0.0, 1e12, 5000);"
        f"reference, current, quality = traffic.frames({made.tag!r}, window);"
        "print(sorted(set(current['city'])), list(current));"
        f"found = report.build(reference, current, Path({str(out)!r}));"
        "print([*found.drifted], [*found.passed], found.broken)"
    )
    command = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0 and done.stderr == "", done.stderr
    columns, said = done.stdout.splitlines()
    names = ["prediction", "area", "city", "heating", "area empty", "heating empty"]
    assert columns == f"['Bern', 'Oslo', 'Rome'] {names}"
    assert "'city'" in said.split("]")[0] and "'area'" in said.split("]")[1] and "'heating'" in said.split("]")[1]
    assert said.endswith("{}") and "Rome" in out.read_text()


def test_columns_that_cannot_be_judged_become_findings_and_long_tables_are_capped(tmp_path):
    out = tmp_path / "report.html"
    command = [sys.executable, "-c", BROKEN, str(out)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True)
    said, one_row, no_row = map(json.loads, done.stdout.splitlines()[-3:])
    assert set(said["drifted"]) == {"moved"}
    assert {"same", "half", "constant", "predicted_class"} == set(said["passed"])
    assert said["broken"] == {
        "empty": "holds no value", "endless": "holds no value", "words": "is not a number", "gone": "is absent",
        "when": "is neither text nor a number", "extra": "is not in the reference",
    }  # fmt: skip
    assert (said["rows"], said["reference_rows"], said["empty"]) == (800, 5000, "")
    assert one_row["rows"] == 1 and one_row["drifted"] == {} and len(one_row["passed"]) == 4
    assert no_row["rows"] == 0 and no_row["empty"] == "no column can be compared"
    assert out.exists()


def test_of_a_wide_table_the_outputs_and_the_first_columns_are_shown(tmp_path, publish):
    names = tuple(f"column_{i}" for i in range(60))
    wide = InputSpec("float32", (60,), names)
    made, log = publish("wide", spec=wide, classes=("a", "b")), tmp_path / "log.sqlite"
    record(log, made, rows_of(wide, 20, seed=3))
    reference, current, _ = traffic.frames(made.tag, Window(log, 0.0, 1e12, 5000))
    usable, broken = report.comparable(reference, current)
    assert usable == ["confidence", "margin", "entropy", "predicted_class", *names[:46]]
    assert broken == dict.fromkeys(names[46:], "more than 50 columns")


def test_a_row_that_is_not_of_the_release_is_left_out(tmp_path, publish):
    made, log = publish("table", spec=TABLE), tmp_path / "log.sqlite"
    record(log, made, rows_of(TABLE, 20, seed=3))
    with closing(recorder.connect(log)) as connection, connection:
        connection.execute("UPDATE predictions SET row = 'text' WHERE seq = 3")
        connection.execute("UPDATE predictions SET probabilities = x'00' WHERE seq = 4")
    assert [len(one) for one in traffic.frames(made.tag, Window(log, 0.0, 1e12, 5000))[:2]] == [300, 18]


def test_a_window_without_rows_is_a_finding_that_says_how_to_get_some_and_has_a_page(tmp_path, publish):
    made, log = publish(), tmp_path / "log.sqlite"
    record(log, made, rows_of(IMAGE, 20))
    found = report.make(Job(log, made.tag, 7200.0, tmp_path / "out.html", until_s=1e9))
    assert found.rows == 0 and "holds no row of" in found.empty and "in the 2h before" in found.empty
    assert "send some, or widen --window" in found.to_text()
    assert "nothing to compare" in (tmp_path / "out.html").read_text()


def test_a_column_that_the_log_does_not_keep_is_left_out_and_named(tmp_path, publish):
    made, log = publish("table", spec=TABLE), tmp_path / "log.sqlite"
    rows = rows_of(TABLE, 200, seed=4)
    record(log, made, rows, kept=np.where(np.arange(3) == 1, np.nan, rows).astype(np.float32))
    reference, current, _ = traffic.frames(made.tag, Window(log, 0.0, 1e12, 5000))
    usable, broken = report.comparable(reference, current)
    assert broken == {"height": "holds no value"} and {"age", "weight", "confidence"} <= set(usable)


def test_rows_of_which_the_log_keeps_nothing_leave_the_outputs_to_compare(tmp_path, publish):
    made, log = publish(), tmp_path / "log.sqlite"
    record(log, made, rows_of(IMAGE, 50))
    with closing(recorder.connect(log)) as connection, connection:
        connection.execute("UPDATE predictions SET row = x''")
    usable, broken = report.comparable(*traffic.frames(made.tag, Window(log, 0.0, 1e12, 5000))[:2])
    assert usable == ["confidence", "margin", "entropy", "predicted_class"]
    assert set(broken.values()) == {"holds no value"}


def test_the_sample_of_a_long_window_is_spread_evenly_over_it(tmp_path, publish):
    made, log = publish("table", spec=TABLE), tmp_path / "log.sqlite"
    rows = np.zeros((4000, 3), np.float32)
    rows[:, 0] = np.arange(4000)
    record(log, made, rows)
    with closing(recorder.connect(log)) as connection:
        found, outputs = traffic.sample(connection, made, Window(log, 0.0, 1e12, 500))
    assert len(found) == len(outputs) and 495 <= len(found) <= 500
    assert np.histogram(found[:, 0], bins=10, range=(0, 4000))[0] == pytest.approx(50, abs=3)
    assert {0, 1} == {int(i) % 2 for i in found[:, 0]}


def test_quality_of_the_window_counts_the_last_label_of_each_row(tmp_path, publish):
    made, log = publish(), tmp_path / "log.sqlite"
    record(log, made, rows_of(IMAGE, 100), predicted="1")
    with closing(recorder.connect(log)) as connection:
        recorder.add_labels(connection, [("0", "2"), *((str(i), "1") for i in range(60)), ("9", "3"), ("else", "1")])
    found = traffic.frames(made.tag, Window(log, 0.0, 1e12, 5000))[2]
    assert (found.labelled, found.value, found.floor) == (60, pytest.approx(59 / 60), 0.9)
    assert not found.under_floor


def test_quality_of_a_regression_counts_what_is_near_enough(tmp_path, publish):
    made, log = publish("homes", spec=HOMES, classes=()), tmp_path / "log.sqlite"
    record(log, made, rows_of(HOMES, 10), predicted="10.0")
    with closing(recorder.connect(log)) as connection:
        recorder.add_labels(connection, [("0", "12.4"), ("1", "12.6"), ("2", "7.5"), ("3", "no number")])
    found = traffic.frames(made.tag, Window(log, 0.0, 1e12, 5000))[2]
    assert (found.metric, found.labelled, found.value) == ("within_tolerance", 3, pytest.approx(2 / 3))


def test_a_log_that_is_not_there_is_named_and_not_made(tmp_path, publish):
    with pytest.raises(DataError, match=r"log\.sqlite: there is no prediction log; name .* with --log"):
        report.write_report(Job(tmp_path / "log.sqlite", publish().tag, 60.0, tmp_path / "out.html"))
    assert not (tmp_path / "log.sqlite").exists()


def test_a_folder_that_is_not_there_is_named_before_anything_is_computed(tmp_path):
    out = tmp_path / "no" / "report.html"
    with pytest.raises(DataError, match=r"report\.html: there is no folder .*no; make it or choose another --out"):
        report.write_report(Job(tmp_path / "log.sqlite", "tiny:20260101-000000-00000000", 3600.0, out))


def test_a_report_that_takes_too_long_is_ended(tmp_path, publish, monkeypatch):
    made, log = publish(), tmp_path / "log.sqlite"
    record(log, made, rows_of(IMAGE, 5))
    monkeypatch.setattr(report, "TIME_S", 0.05)
    with pytest.raises(DataError, match=r"not done after 0.05 s; choose a shorter --window"):
        report.write_report(Job(log, made.tag, 60.0, tmp_path / "out.html"))


def test_the_caller_does_not_load_evidently(tmp_path, publish):
    made, log = publish(), tmp_path / "log.sqlite"
    record(log, made, rows_of(IMAGE, 150, seed=8))
    code = (
        "import sys; from pathlib import Path; from monitoring.reports.report import Job, write_report;"
        f"write_report(Job(Path({str(log)!r}), {made.tag!r}, 3600.0, Path({str(tmp_path / 'r.html')!r})));"
        "print([m for m in ('evidently', 'pandas', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert done.stdout == "[]\n"


def test_the_text_for_people_names_what_drifted_first():
    quality = Quality("accuracy", 60, 0.5, 0.4, 0.6, 0.9)
    drifted, broken = {"b": 1e-3, "a": 1e-9}, {"c": "holds no value"}
    found = Findings("m:v", "a person", 0.0, 60.0, 10, 20, drifted, {"p": 0.5}, broken, "", quality, "r.html")
    lines = found.to_text().splitlines()
    assert lines[0] == "m:v: 10 recorded rows against 20 reference rows: r.html"
    assert lines[1].split() == ["drifted", "a", "p", "=", "1e-09"] and lines[2].split()[1] == "b"
    assert lines[3].split(maxsplit=3) == ["left", "out", "c", "holds no value"]
    assert lines[4].split(maxsplit=2)[2] == "0.500 (0.400-0.600) on 60 rows, floor 0.900" and quality.under_floor
    assert np.all(["p" not in line.split()[:2] for line in lines])
    assert parse(found.to_json()) == found
