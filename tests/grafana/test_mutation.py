"""Would the promtool tests notice a broken alert? Each kind of damage is done to all alerts at once.

A firing case ends when its first alert is due, so a case that fails tells which alert is to blame.
"""

import copy
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

from grafana import build, cases, rule_tests, rules
from grafana.profile import PRODUCTION

LIMIT = re.compile(r"([<>]=?) ([0-9.]+)\b(?!\s*[\w.])")
LIMIT_METRICS = (
    r"vigil_drift_\w+_threshold", "vigil_quality_floor", "vigil_quality_slice_floor", "vigil_quality_decline_limit",
    "vigil_monitor_interval_seconds",
)  # fmt: skip
LIMIT_METRIC = re.compile(rf"\b((?:{'|'.join(LIMIT_METRICS)})\b(?:\{{[^}}]*\}})?)")
DRIFT_LIMITS = "model_signal:drifted_z"  # where the limits of VigilDataDrift are applied
ENOUGH = 0.95


def never(rule):
    rule["expr"] = "vector(0) > 1"


def always(rule):
    rule["expr"] = 'label_replace(vector(1), "model", "m", "", "")'


def a_hundredfold_limit(rule):
    larger = LIMIT.sub(lambda found: f"{found[1]} {float(found[2]) * 100:g}", rule["expr"])
    rule["expr"] = LIMIT_METRIC.sub(r"\1 * 100", larger)


def without_for(rule):
    rule.pop("for", None)


def alerts_of(content):
    return [rule for group in content["groups"] for rule in group["rules"] if "alert" in rule]


def damaged(content, damage):
    """Return the rule file with each alert damaged, and the indices of those that changed."""
    broken = copy.deepcopy(content)
    found = [rule for rule in alerts_of(broken) if rule["alert"] != "Watchdog"]
    limits = [r for g in broken["groups"] for r in g["rules"] if r.get("record") == DRIFT_LIMITS]
    for rule in found + (limits if damage is a_hundredfold_limit else []):
        damage(rule)
    pairs = list(zip(alerts_of(content), alerts_of(broken), strict=True))
    moved = limits and damage is a_hundredfold_limit
    changed = [i for i, (a, b) in enumerate(pairs) if a != b or (moved and a["alert"] == "VigilDataDrift")]
    if damage in (never, always):  # these alerts read no recorded series, and those take most of the time
        broken["groups"] = [group for group in broken["groups"] if any("alert" in rule for rule in group["rules"])]
    return broken, changed


def failing(run, folder, name, broken):
    """Return the names of the cases that promtool says fail."""
    folder.mkdir()
    (folder / "rules.yml").write_text(build.to_yaml(broken))
    tests = cases.case_file(rule_tests.CASES[name](), rules.ALERTS[name](PRODUCTION), broken)
    (folder / "tests.yml").write_text(build.to_yaml({"rule_files": ["rules.yml"], **tests}))
    done = run("promtool", "test", "rules", folder / "tests.yml")
    return set(re.findall(r"^ +name: (.*),$", done.stdout + done.stderr, re.MULTILINE))


def noticed(alert, alone, failed, name):
    """Return whether a case that failed can only have failed because of this alert."""
    for case in rule_tests.CASES[name]():
        if f"{case.alert}: {case.title}" in failed and case.alert == alert.name:
            due = cases.due(case, rules.ALERTS[name](PRODUCTION))
            if alone or not due or min(due, key=lambda entry: entry[0])[2] == alert:
                return True
    return False


@pytest.mark.parametrize("damage", [never, always, a_hundredfold_limit, without_for])
def test_damage_to_an_alert_is_noticed(run, tmp_path, damage):
    def survivors(item):
        name, content = item
        broken, changed = damaged(content, damage)
        failed = failing(run, tmp_path / name, name, broken)
        known = rules.ALERTS[name](PRODUCTION)
        alone = {a.name for a in known if sum(b.name == a.name for b in known) == 1}
        missed = [known[i] for i in changed if not noticed(known[i], known[i].name in alone, failed, name)]
        return len(changed), [(a.name, a.severity, a.labels) for a in missed]

    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(survivors, rules.rule_files(PRODUCTION).items()))
    total, missed = sum(count for count, _ in results), [who for _, who_all in results for who in who_all]
    assert total >= 15
    assert 1 - len(missed) / total >= ENOUGH, missed
