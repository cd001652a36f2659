"""The kept result of a drill: pieces together make a whole, and a whole says whether all was well."""

import json

from benchmarks import drill
from drill import run
from drill.fault import Outcome


def said(*names, ok=True, clean=None):
    return {"ok": ok, "wall_s": 1.0, "clean": clean, "faults": [{"name": n, "ok": ok} for n in names], "not_run": []}


def test_pieces_are_kept_in_the_order_of_the_drill_each_with_its_command():
    names = list(run.FAULTS)
    half = drill.merged({}, said(*names[5:], clean={"seconds": 60.0, "alerts": []}), "one")
    assert not half["ok"] and half["not_run"] == names[:5]
    whole = drill.merged(half, said(*names[:5]), "two")
    assert whole["ok"] and whole["not_run"] == [] and whole["clean"]["command"] == "one"
    assert [one["name"] for one in whole["faults"]] == names
    assert [one["command"] for one in whole["faults"]] == ["two"] * 5 + ["one"] * (len(names) - 5)


def test_a_later_run_of_a_fault_replaces_the_earlier_one():
    names = list(run.FAULTS)
    whole = drill.merged({}, said(*names), "one")
    worse = drill.merged(whole, said(names[0], ok=False), "two")
    assert whole["ok"] and not worse["ok"] and not worse["faults"][0]["ok"]


def test_an_alert_in_the_clean_run_spoils_the_whole():
    found = drill.merged({}, said(*run.FAULTS, clean={"seconds": 60.0, "alerts": ["VigilDataDrift"]}), "one")
    assert not found["ok"]


def test_the_file_has_what_is_known_after_each_part_and_what_was_not_run_yet(tmp_path):
    names = list(run.FAULTS)
    keep = drill.keeper(tmp_path, ["--clean-s", "60"], some=False)
    report = run.Report(clean=[], clean_s=60.0)
    for done in (0, 1):
        report.outcomes += [Outcome(name, "what", "cure", "", "") for name in names[:done]]
        keep(report)
        (file,) = tmp_path.glob("drill-*.json")
        kept = json.loads(file.read_text())
        assert [one["name"] for one in kept["faults"]] == names[:done] and kept["not_run"] == names[done:]
        assert kept["clean"]["command"] == "python -m benchmarks.drill --clean-s 60" and not kept["ok"]
