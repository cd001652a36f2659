"""Every alert has the cases it needs, and the cases are read as promtool reads them."""

import pytest
import yaml

from grafana import cases, config, notation, rule_tests, rules, told
from grafana.profile import PRODUCTION
from tests.grafana import promql

ALERTS = [(name, alert) for name, make in rules.ALERTS.items() for alert in make(PRODUCTION)]
OF_SERVER, OF_MONITOR, OF_PLATFORM = "VigilAbsent", "VigilMonitorAbsent", "VigilExporterDown"
PARTNERS = {OF_SERVER, OF_MONITOR, OF_PLATFORM, "Watchdog"}


@pytest.mark.parametrize(
    ("name", "alert"), ALERTS, ids=[f"{a.name}-{a.severity}-{a.labels.get('tier', '')}" for _, a in ALERTS]
)
def test_every_alert_has_cases_that_fire_that_clear_and_that_stay_silent(name, alert):
    known = rules.ALERTS[name](PRODUCTION)
    own = [case for case in rule_tests.CASES[name]() if case.alert == alert.name]
    fires = [(case, fire) for case in own for fire in case.fires if cases.find(case, fire, known) == alert]
    firing = [case for case, _ in fires]
    assert firing
    if alert.name != "Watchdog":
        assert any(case.clears or fire.until for case, fire in fires)
        assert [case for case in own if case not in firing]


def test_there_are_at_least_forty_alerts_and_three_cases_of_each():
    names = {alert.name for _, alert in ALERTS}
    every = rule_tests.cases()
    print(f"\n{len(names)} alerts, {len(ALERTS)} rules, {len(every)} cases")
    assert len(names) >= 40 and len(every) >= 3 * len(names)
    assert len({(case.alert, case.title) for case in every}) == len(every)


def test_without_any_series_only_the_watchdog_and_what_looks_for_absence_may_fire():
    for name, content in rules.rule_files(PRODUCTION).items():
        known = rules.ALERTS[name](PRODUCTION)
        (test,) = (
            one for one in rule_tests.files_of(name, known, content)[name]["tests"] if one["name"] == cases.ABSENT
        )
        silent = {check["alertname"] for check in test["alert_rule_test"]}
        assert {alert.name for alert in known} - silent <= {OF_SERVER, OF_MONITOR, "Watchdog"}


def sources(expr, records):
    """Return who emits what an expression reads: the alert that fires when that one is gone."""
    found = set()
    for metric in promql.metrics_of(expr):
        if metric in records:
            found |= set().union(*(sources(other, records) for other in records[metric]))
        elif metric.startswith(("node_", "DCGM_", "probe_")):
            found.add(OF_PLATFORM)
        elif metric.startswith(("prometheus_", "alertmanager_")):
            found.add("Watchdog")
        else:
            found.add(OF_MONITOR if metric.startswith(promql.OF_MONITOR) else OF_SERVER)
    return found


def test_every_alert_on_a_number_has_a_partner_that_fires_when_there_is_none():
    every = [
        rule for file in rules.rule_files(PRODUCTION).values() for group in file["groups"] for rule in group["rules"]
    ]
    records = {}
    for rule in every:
        if "record" in rule and rule["record"] not in promql.metrics_of(rule["expr"]):
            records.setdefault(rule["record"], []).append(rule["expr"])
    names = {alert.name for _, alert in ALERTS}
    assert names >= PARTNERS
    for _, alert in ALERTS:
        needed = sources(alert.expr, {name: [e for e in found if e != alert.expr] for name, found in records.items()})
        assert needed <= PARTNERS and (needed or alert.name == "Watchdog"), alert.name
        blind = config.BLIND_WITHOUT_SERVER if OF_SERVER in needed else ()
        assert OF_MONITOR not in needed or alert.name not in blind, alert.name


def test_what_happens_to_a_server_happens_while_it_is_scraped():
    # Without one VigilAbsent fires in every evaluation, and looks into the hour before each time.
    for case in rule_tests.CASES["serving"]():
        if case.alert != OF_SERVER:
            names = {name.partition("{")[0] for name in case.series}
            assert {"up", "vigil_ready"} <= names, f"{case.alert}: {case.title}"


@pytest.mark.parametrize("step", [1, 4])
def test_a_series_is_read_as_promtool_reads_it(run, tmp_path, step):
    written = ["1x3 stale _x4 7", "_x2 5 _ 6x2 _x9", "0+2x4 10-1x5", "1 2 3", "-1.5 1e2x2 stale"]
    series = {f'm{{case="{i}"}}': values for i, values in enumerate(written)}
    checks = []
    for name, values in series.items():
        for minute in range(0, 20 * step, step):
            value = notation.at(values, minute, step)
            samples = [] if value is None else [{"labels": name, "value": value}]
            checks.append({"expr": name, "eval_time": f"{minute}m", "exp_samples": samples})
    inputs = [{"series": name, "values": values} for name, values in series.items()]
    test = {"interval": f"{step}m", "input_series": inputs, "promql_expr_test": checks}
    document = {"rule_files": [], "evaluation_interval": f"{step}m", "tests": [test]}
    (tmp_path / "tests.yml").write_text(yaml.safe_dump(document))
    done = run("promtool", "test", "rules", tmp_path / "tests.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_what_is_not_in_the_notation_is_named():
    with pytest.raises(ValueError, match="'1y3' is not in promtool's notation"):
        notation.samples("1 1y3")


def test_an_alert_names_the_command_that_goes_back_where_its_runbook_does(grafana_folder):
    for _, alert in ALERTS:
        page = (grafana_folder / "runbooks" / f"{alert.name}.md").read_text()
        goes_back = "vigil rollback" in page.split("## Mitigation")[1].split("## Escalation")[0]
        assert ("rollback" in alert.statement()["annotations"]) == goes_back, alert.name
    assert set(told.UNDONE_BY_ROLLBACK) <= {alert.name for _, alert in ALERTS}


def test_after_absence_the_newest_version_of_each_model_is_told_and_one_command_for_each(grafana_folder):
    # promtool holds Prometheus to these texts, see test_build.py.
    tests = yaml.safe_load((grafana_folder / "prometheus/tests/serving.yml").read_text())["tests"]
    (test,) = (one for one in tests if one["name"] == "VigilAbsent: it dies of what was promoted")
    (alert,) = test["alert_rule_test"][-1]["exp_alerts"]
    told_of = {key: alert["exp_annotations"][key] for key in ("live", "previous", "rollback")}
    command = "vigil rollback --model {} --why VigilAbsent"
    assert told_of == {
        "live": "m:v2, n:x7", "previous": "m:v1, n:x6", "rollback": f"{command.format('m')}; {command.format('n')}",
    }  # fmt: skip
