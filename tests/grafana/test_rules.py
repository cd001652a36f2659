import re
from dataclasses import fields

import pytest

from grafana import build, rules
from grafana.profile import DEMO, PRODUCTION, PROFILES, Windows, duration
from monitoring.shift.reference import LOOKS_30D
from tests.grafana import promql

EACH_PROFILE = pytest.mark.parametrize("profile", PROFILES.values(), ids=list(PROFILES))
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def statements(profile):
    files = rules.rule_files(profile).values()
    return [rule for file in files for group in file["groups"] for rule in group["rules"]]


def windows_s(text):
    return [int(n) * UNITS[unit] for n, unit in re.findall(r"\[(\d+)([smhd])\]", text)]


@EACH_PROFILE
def test_every_rate_sees_at_least_four_scrapes(profile):
    windows = [seconds for rule in statements(profile) for seconds in windows_s(rule["expr"])]
    assert len(windows) > 20
    assert min(windows) >= 4 * profile.scrape_s


@EACH_PROFILE
def test_no_recorded_series_goes_stale_between_two_evaluations(profile):
    for file in rules.rule_files(profile).values():
        for group in file["groups"]:
            seconds = int(group["interval"][:-1]) * UNITS[group["interval"][-1]]
            assert seconds <= 150, group["name"]  # half of the five minutes after which a series is gone


@EACH_PROFILE
def test_burn_tiers_get_slower_and_less_urgent(profile):
    burns = profile.burns
    assert [b.factor for b in burns] == sorted((b.factor for b in burns), reverse=True)
    assert [b.long_s for b in burns] == sorted(b.long_s for b in burns)
    assert all(b.short_s < b.long_s for b in burns)
    assert [b.severity for b in burns] == ["critical", "critical", "warning", "warning"]


def test_rules_differ_between_profiles_in_their_lengths_alone():
    def without_lengths(profile):
        text = repr([(rule.get("record"), rule.get("alert"), rule["expr"]) for rule in statements(profile)])
        return re.sub(r"\b\d+[smhd]\b|\b\d{2,}\b", "T", text)

    assert without_lengths(PRODUCTION) == without_lengths(DEMO)


def test_drift_windows_are_those_that_thresholds_are_calibrated_for():
    assert [name for name, _ in PRODUCTION.drift.items()] == list(LOOKS_30D)
    month_s = 30 * 86400
    for name, seconds in PRODUCTION.drift.items():
        assert LOOKS_30D[name] == pytest.approx(month_s / seconds)
    assert len(fields(Windows)) == 3


def test_every_alert_says_how_bad_what_where_and_what_to_do():
    for rule in statements(PRODUCTION):
        if "alert" in rule:
            assert rule["labels"]["severity"] in ("critical", "warning", "info", "none"), rule["alert"]
            assert rule["labels"]["component"]
            told = rule["annotations"]
            assert told["summary"].endswith(".") and told["description"].endswith("."), rule["alert"]
            assert told["runbook_url"] == f"http://127.0.0.1:9109/runbooks/{rule['alert']}.md"
            assert re.fullmatch(r"/d/vigil-\w+(\?var-model=\{\{ \$labels.model \}\})?", told["dashboard_url"])


def test_the_places_that_alerts_link_to_can_be_chosen(tmp_path):
    build.main(["--out", str(tmp_path), "--monitor", "monitor:9109", "--grafana", "https://grafana.example/"])
    text = (tmp_path / "prometheus/rules/drift.yml").read_text()
    assert "runbook_url: http://monitor:9109/runbooks/VigilDataDrift.md" in text
    assert "dashboard_url: https://grafana.example/d/vigil-drift?var-model={{ $labels.model }}" in text


@pytest.mark.parametrize("base", ["https://runbooks.example/x", "https://runbooks.example/x/"])
def test_the_address_of_the_runbooks_may_end_with_a_slash_or_not(tmp_path, base):
    build.main(["--out", str(tmp_path), "--runbook-base", base])
    text = (tmp_path / "prometheus/rules/drift.yml").read_text()
    assert "runbook_url: https://runbooks.example/x/VigilDataDrift.md" in text


def test_alerts_on_traffic_and_quality_link_the_reports_of_their_model_and_others_do_not(tmp_path):
    for rule in statements(PRODUCTION):
        if "alert" in rule:
            about = rule["labels"]["component"] in ("drift", "quality")
            place = "http://127.0.0.1:9109/reports/#{{ $labels.model }}" if about else None
            assert rule["annotations"].get("reports_url") == place, rule["alert"]
    build.main(["--out", str(tmp_path), "--monitor", "monitor:9109"])
    assert "http://monitor:9109/reports/#{{ $labels.model }}" in (tmp_path / "prometheus/rules/drift.yml").read_text()
    build.main(["--out", str(tmp_path), "--reports", "https://reports.example/"])
    assert "https://reports.example/#{{ $labels.model }}" in (tmp_path / "prometheus/rules/quality.yml").read_text()


def test_drift_opens_a_ticket_and_never_pages():
    assert {a.severity for a in rules.alerts(PRODUCTION) if a.name == "VigilDataDrift"} == {"warning"}


def test_every_metric_in_a_rule_is_produced_by_somebody():
    known = promql.declared()
    read = {rule.get("alert") or rule["record"]: promql.unknown(rule["expr"], known) for rule in statements(PRODUCTION)}
    assert {name: missing for name, missing in read.items() if missing} == {}


def test_every_recorded_series_is_read_by_a_rule_a_panel_or_a_runbook(grafana_folder):
    places = [*grafana_folder.glob("dashboards/*.json"), *grafana_folder.glob("runbooks/*.md")]
    text = "".join(rule["expr"] for rule in statements(PRODUCTION)) + "".join(p.read_text() for p in places)
    text += "".join(rule["annotations"]["description"] for rule in statements(PRODUCTION) if "alert" in rule)
    assert {name for name in promql.recorded() if name not in text} == set()


def test_every_recorded_ratio_is_guarded_against_no_traffic():
    # A division by 0 is NaN or infinite, and infinity is over every limit.
    ratios = [r for r in statements(PRODUCTION) if "/" in r["expr"] and r.get("record", "").endswith("ratio")]
    assert len(ratios) >= 10
    assert [rule["record"] for rule in ratios if "> 0)" not in rule["expr"]] == []


def test_a_metric_that_nobody_produces_is_found():
    expr = 'sum by (made_up_label) (rate(vigil_made_up_total{job="x"}[5m])) / on (a) group_left () up offset 1d > 0'
    assert promql.unknown(expr, promql.declared()) == {"vigil_made_up_total"}


def test_a_duration_is_written_in_its_largest_whole_unit():
    assert [duration(s) for s in (0, 1, 90, 300, 3600, 86400, 604800)] == ["0s", "1s", "90s", "5m", "1h", "1d", "7d"]
