"""The promtool test files: one per rule file, and one that compares drift with numpy."""

from grafana import drift_cases, quality_cases, rules, serving_cases, slo_cases
from grafana.cases import Case, case_file
from grafana.profile import Profile
from grafana.statement import Statement

CASES = {
    "serving": serving_cases.cases,
    "slo": slo_cases.cases,
    "drift": drift_cases.cases,
    "quality": quality_cases.cases,
}


def cases() -> list[Case]:
    """Return every case of every alert."""
    return [case for make in CASES.values() for case in make()]


def test_files(profile: Profile, rule_files: dict[str, Statement]) -> dict[str, Statement]:
    """Return the content of each test file by its name without ".yml"."""
    files = {
        name: {
            "rule_files": [f"../rules/{name}.yml"],
            **case_file(make(), rules.ALERTS[name](profile), content),
        }
        for (name, make), content in zip(CASES.items(), rule_files.values(), strict=True)
    }
    order = [group["name"] for group in rule_files["drift"]["groups"]]
    files["drift_oracle"] = {
        "rule_files": ["../rules/drift.yml"],
        "evaluation_interval": "1h",
        "group_eval_order": order,
        "tests": [drift_cases.oracle_test()],
    }
    return files
