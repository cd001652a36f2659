"""The rule files of a profile: which statements go into which file and how often they are evaluated."""

from grafana import drift_rules, fleet_rules, platform_rules, quality_rules, serving_rules, slo_rules
from grafana.profile import Profile
from grafana.statement import MONITORS, Alert, Places, Statement, group

ALERTS = {
    "serving": serving_rules.alerts,
    "fleet": fleet_rules.alerts,
    "slo": slo_rules.alerts,
    "drift": drift_rules.alerts,
    "quality": quality_rules.alerts,
    "platform": platform_rules.alerts,
}


def rule_files(profile: Profile, places: Places = MONITORS) -> dict[str, Statement]:
    """Return the content of each rule file by its name without ".yml"."""
    recorded = {
        "serving": [group("vigil-serving", profile.evaluation_s, serving_rules.records(profile))],
        "fleet": [group("vigil-fleet", profile.evaluation_s, fleet_rules.records(profile))],
        "slo": [
            group("vigil-slo", profile.evaluation_s, slo_rules.records(profile)),
            group("vigil-slo-budget", profile.drift_evaluation_s, slo_rules.budget_records(profile)),
        ],
        "drift": [group("vigil-drift", profile.drift_evaluation_s, drift_rules.records(profile))],
        "quality": [group("vigil-quality", profile.evaluation_s, quality_rules.records(profile))],
        "platform": [group("vigil-platform", profile.evaluation_s, platform_rules.records(profile))],
    }
    return {name: {"groups": [*groups, _alerts(name, profile, places)]} for name, groups in recorded.items()}


def alerts(profile: Profile) -> list[Alert]:
    """Return every alert; a name occurs once per severity or tier."""
    return [alert for make in ALERTS.values() for alert in make(profile)]


def _alerts(name: str, profile: Profile, places: Places) -> Statement:
    statements = [alert.statement(places) for alert in ALERTS[name](profile)]
    return group(f"vigil-{name}-alerts", profile.evaluation_s, statements)
