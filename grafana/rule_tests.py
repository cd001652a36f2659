"""The promtool test files: of each rule file one per step of its cases, and one that compares drift with numpy."""

from itertools import groupby

from grafana import drift_cases, fleet_cases, platform_cases, quality_cases, rules, serving_cases, slo_cases
from grafana.cases import MINUTE, Case, case_file
from grafana.profile import Profile
from grafana.statement import Alert, Statement

CASES = {
    "serving": serving_cases.cases,
    "fleet": fleet_cases.cases,
    "slo": slo_cases.cases,
    "drift": drift_cases.cases,
    "quality": quality_cases.cases,
    "platform": platform_cases.cases,
}


def cases() -> list[Case]:
    """Return every case of every alert."""
    return [case for make in CASES.values() for case in make()]


def files_of(name: str, alerts: list[Alert], content: Statement) -> dict[str, Statement]:
    """Return the test files of one rule file: one for each step of its cases, without `rule_files`."""
    found: dict[str, Statement] = {}
    for step, some in groupby(sorted(CASES[name](), key=lambda case: case.step), key=lambda case: case.step):
        found[name if step == MINUTE else f"{name}_{step}m"] = case_file(list(some), alerts, content)
    return found


def test_files(profile: Profile, rule_files: dict[str, Statement]) -> dict[str, Statement]:
    """Return the content of each test file by its name without ".yml"."""
    files: dict[str, Statement] = {}
    for name, content in rule_files.items():
        for place, made in files_of(name, rules.ALERTS[name](profile), content).items():
            files[place] = {"rule_files": [f"../rules/{name}.yml"], **made}
    files["drift_oracle"] = {"rule_files": ["../rules/drift.yml"], **oracle(rule_files["drift"])}
    return files


def oracle(content: Statement) -> Statement:
    """Return the test that holds the rules of drift to numpy, without `rule_files`; what they say of one moment."""
    return {
        "evaluation_interval": "84h",
        "group_eval_order": [group["name"] for group in content["groups"]],
        "tests": [drift_cases.oracle_test()],
    }
