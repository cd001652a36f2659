"""What a drill makes of the alerts that came, and what it prints; `proof`: a short drill of the real stack."""

import json
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest

import vigil
from demo.stack import Notice
from drill import limits, run, stage, table
from drill.fault import Fault, Outcome
from grafana import rules
from grafana.profile import DEMO, PRODUCTION, PROFILES
from registry.errors import StackError

ROOT = Path(__file__).resolve().parents[2]
FAULT = Fault("f", "what", "cure", None, "VigilAbsent", "critical", ("VigilDataDrift",))


def notice(at, name, status="firing", severity="critical", **labels):
    return Notice(at, status, "page", name, {"alertname": name, "severity": severity, **labels}, "")


def noted(*notices, fault=FAULT, begun=10.0, cured=20.0):
    stage = SimpleNamespace(begun_s=begun, house=SimpleNamespace(receiver=SimpleNamespace(notices=list(notices))))
    outcome = Outcome(fault.name, fault.what, fault.cure, fault.expected, fault.severity)
    run._note(stage, fault, outcome, (5.0, cured))
    return outcome


def test_seconds_count_from_the_fault_and_from_its_cure():
    found = noted(notice(13, "VigilAbsent"), notice(26, "VigilAbsent", "resolved"))
    assert (found.seen, found.fired_s, found.cleared_s, found.ok) == ("VigilAbsent", 3.0, 6.0, True)


@pytest.mark.parametrize(
    ("notices", "wrong"),
    [
        ([], {}),
        ([notice(13, "VigilAbsent")], {"left": ["VigilAbsent"]}),
        ([notice(13, "VigilAbsent", severity="warning")], {}),
        ([notice(7, "VigilAbsent"), notice(26, "VigilAbsent", "resolved")], {}),
        (
            [notice(13, "VigilAbsent"), notice(14, "VigilX"), notice(26, "VigilAbsent", "resolved"),
             notice(27, "VigilX", "resolved")],
            {"false": ["VigilX"]},
        ),
    ],
)  # fmt: skip
def test_what_does_not_come_or_go_or_should_not_have_come_is_a_failure(notices, wrong):
    found = noted(*notices)
    assert not found.ok
    assert {name: getattr(found, name) for name in ("left", "false") if getattr(found, name)} == wrong


def test_companions_are_told_and_may_still_fire_and_the_watchdog_is_no_alert():
    found = noted(
        notice(13, "VigilAbsent"), notice(14, "VigilDataDrift"), notice(15, "Watchdog"),
        notice(26, "VigilAbsent", "resolved"),
    )  # fmt: skip
    assert found.ok and found.companions == ["VigilDataDrift"] and not found.false and not found.left


def test_a_milder_alert_of_the_same_name_may_look_back_longer():
    found = noted(
        notice(13, "VigilAbsent"), notice(26, "VigilAbsent", "resolved"), notice(27, "VigilAbsent", severity="warning")
    )
    assert found.ok and found.cleared_s == 6.0


def test_a_control_is_well_when_nothing_comes():
    control = Fault("c", "no fault", "none", None)
    assert noted(fault=control).ok
    assert noted(notice(13, "VigilDataDrift"), notice(15, "VigilDataDrift", "resolved"), fault=control).false


def test_every_expected_alert_and_companion_is_a_rule_of_both_profiles():
    for profile in PROFILES.values():
        known = {(alert.name, alert.severity) for alert in rules.alerts(profile)}
        for fault in run.FAULTS.values():
            assert not fault.expected or (fault.expected, fault.severity) in known, fault.name
            assert set(fault.companions) <= {name for name, _ in known}, fault.name


def test_there_are_fourteen_faults_and_a_control():
    assert len(run.FAULTS) >= 15
    assert sum(not fault.expected for fault in run.FAULTS.values()) <= 2


def test_what_production_takes_at_most_is_scrape_evaluation_for_and_the_wait_of_the_group():
    profile = PRODUCTION
    held = limits.for_s(profile, "VigilAbsent", "critical")
    wait = limits.group_wait_s(profile, "critical")
    assert held == profile.urgent_s
    assert limits.most_s(profile, "VigilAbsent", "critical") == 15 + 30 + held + wait
    assert limits.most_s(profile, "VigilNothing", "critical") is None
    assert {one["alert"] for one in limits.pages()} >= {"VigilAbsent", "VigilQualityUnderFloor"}
    assert limits.for_s(DEMO, "VigilAbsent", "critical") == 2


def test_a_page_that_waits_for_nothing_reaches_the_webhook_within_a_minute_and_the_decision_says_what_each_takes():
    pages = limits.pages()
    at_once = [one["most_s"] for one in pages if one["for_s"] == 0]
    assert at_once and max(at_once) <= 60
    text = (Path(__file__).parents[2] / "docs/decisions/0059-what-a-page-takes.md").read_text()
    for one in pages:
        (line,) = (line for line in text.splitlines() if line.startswith("|") and one["alert"] in line)
        assert line.endswith(f"| {one['for_s']} s | {one['most_s']} s |")


def test_the_table_has_a_line_for_each_fault_and_says_what_was_wrong():
    good = noted(notice(13, "VigilAbsent"), notice(26, "VigilAbsent", "resolved"))
    bad = Outcome("g", "what", "cure", "VigilX", "critical", false=["VigilY"], error="it broke")
    said = table.text(run.Report([good, bad], [], 60.0, ["h"], 12.0)).splitlines()
    assert [line.split()[0] for line in said[:3]] == ["fault", "f", "g"]
    assert said[1].split()[1:4] == ["VigilAbsent", "yes", "3"]
    assert "VigilY" in said[2] and said[2].endswith("FAILED")
    assert said[3] == "clean run of 60 s: 0 alerts" and "not run, since the time was up: h" in said[4]
    assert "g: it broke" in said and said[-1] == "NOT ok, 12 s"


def test_the_json_holds_what_the_table_holds():
    good = noted(notice(13, "VigilAbsent"), notice(26, "VigilAbsent", "resolved"))
    said = json.loads(json.dumps(run.as_dict(run.Report([good], [], 60.0))))
    assert said["ok"] and said["clean"] == {"seconds": 60.0, "alerts": []}
    assert said["faults"][0]["fired_s"] == 3.0 and said["faults"][0]["ok"]


@pytest.fixture
def drilled(monkeypatch, tmp_path):
    """Return a function that runs a drill of one fault on a stage where nothing ever fires."""

    def go(expected, clean_s, whole_s):
        house = SimpleNamespace(receiver=SimpleNamespace(notices=[]), stack=SimpleNamespace(check=lambda: None))
        staged = SimpleNamespace(house=house, begun_s=1.0, ends_s=float("inf"), notes=[], problems=[])
        staged.usual = staged.watch_anew = staged.serve_anew = lambda: None
        fault = Fault("f", "what", "cure", lambda _: nullcontext(), expected, watch_s=600 if expected else 0.01)
        for name, value in (("FAULTS", {"f": fault}), ("SETTLE_S", 0.01), ("close", lambda _: None)):
            monkeypatch.setattr(run, name, value)
        monkeypatch.setattr(run, "prepare", lambda *_: staged)
        monkeypatch.setattr(run.stack, "missing_programs", list)
        go.stage = staged
        return run.run(run.Order(tmp_path, clean_s=clean_s, whole_s=whole_s), lambda _: None)

    return go


def test_the_time_of_the_faults_begins_after_the_clean_run(drilled):
    begun_s = time.monotonic()
    report = drilled("", clean_s=0.6, whole_s=60)
    assert drilled.stage.ends_s >= begun_s + 0.6 + 60
    assert [one.name for one in report.outcomes] == ["f"] and report.clean == [] and report.ok


def test_a_fault_that_is_watched_when_the_time_is_up_is_among_those_not_run(drilled):
    report = drilled("VigilAbsent", clean_s=0, whole_s=0.3)
    assert report.not_run == ["f"] and not report.outcomes and not report.ok


def test_a_disk_that_a_run_of_root_left_is_named_with_the_command_that_ends_it(monkeypatch, tmp_path):
    program = tmp_path / "umount"
    program.write_text("#!/bin/sh\necho must be superuser to unmount >&2; exit 32\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.setattr(stage.os.path, "ismount", lambda _: True)
    with pytest.raises(StackError, match="must be superuser to unmount; .*: sudo umount .*disk"):
        stage._unmount(tmp_path / "disk")


def test_an_unknown_fault_is_refused_with_those_there_are(capsys):
    assert vigil.main(["drill", "--only", "flood"]) == 2
    assert "no fault 'flood'; known are control, drift" in capsys.readouterr().err


def test_without_prometheus_the_drill_says_what_to_install(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert vigil.main(["drill", "--out", str(tmp_path)]) == 2
    assert "sudo apt-get install prometheus prometheus-alertmanager" in capsys.readouterr().err


@pytest.mark.proof
def test_a_short_drill_sees_its_faults_and_no_false_alert(tmp_path):
    command = [sys.executable, "-m", "vigil", "drill", "--json", "--out", str(tmp_path / "out"), "--clean-s", "10"]
    command += ["--only", "server-killed,monitor-killed,error-burst"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    said = json.loads(done.stdout)
    assert said["ok"] and said["clean"]["alerts"] == []
    assert [one["seen"] for one in said["faults"]] == ["VigilAbsent", "VigilMonitorAbsent", "VigilErrorBurn"]
    print(done.stderr)
