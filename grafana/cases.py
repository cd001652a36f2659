"""promtool tests of every alert, generated: when it must fire, to the minute, and when it must stay silent.

Each firing case is checked one evaluation before `for` has passed, where it must be silent, and at `for`,
where labels and annotations must be right in full. Input series use promtool's notation, a sample a minute.
"""

import re
from dataclasses import dataclass, field
from typing import Any

from grafana.profile import MINUTE_S
from grafana.statement import Alert, Statement

Series = dict[str, str]


@dataclass(frozen=True)
class Fire:
    """One alert that must fire: its condition holds from `since` on, in minutes.

    labels: those beside severity, component and tier. value: how `$value` is printed.
    """

    since: int
    severity: str = ""
    tier: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    value: str = ""
    description: str = ""


@dataclass(frozen=True)
class Case:
    """What happens, and what must be told. `clears` is the minute at which all is silent again.

    A case without `fires` must be silent at minute `last`.
    """

    alert: str
    title: str
    series: Series
    fires: tuple[Fire, ...] = ()
    clears: int = 0
    last: int = 45


def case_file(cases: list[Case], alerts: list[Alert], rules: Statement) -> Statement:
    """Return a promtool test file for the rule file of the same name; `alerts` are those it declares."""
    names = [group["name"] for group in rules["groups"]]
    tests = [_test(case, alerts) for case in cases]
    return {"evaluation_interval": "1m", "group_eval_order": names, "tests": tests}


def series(name: str, values: str, **labels: str) -> Series:
    """Return one input series of the server "a:3000"; labels join or replace job and instance."""
    full = {"job": "vigil", "instance": "a:3000"} | {key.rstrip("_"): text for key, text in labels.items()}
    return {name + "{" + ",".join(f'{key}="{text}"' for key, text in full.items()) + "}": values}


def due(case: Case, alerts: list[Alert]) -> list[tuple[int, Fire, Alert]]:
    """Return when, in minutes, each alert of a case must fire."""
    chosen = [(fire, _find(case, fire, alerts)) for fire in case.fires]
    return [(fire.since + alert.for_s // MINUTE_S, fire, alert) for fire, alert in chosen]


def _test(case: Case, alerts: list[Alert]) -> Statement:
    waits = due(case, alerts)
    times = {at - before for at, _, _ in waits for before in (0, 1) if at >= before}
    end = case.clears or (0 if waits else case.last)
    checks = [_check(case, at, waits) for at in sorted(times | ({end} if end else set()))]
    return {
        "name": f"{case.alert}: {case.title}",
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in case.series.items()],
        "alert_rule_test": checks,
    }


def _check(case: Case, at: int, waits: list[tuple[int, Fire, Alert]]) -> Statement:
    over = bool(case.clears) and at >= case.clears
    expected = [] if over else [_expected(fire, alert) for start, fire, alert in waits if start <= at]
    return {"eval_time": f"{at}m", "alertname": case.alert, "exp_alerts": expected}


def _find(case: Case, fire: Fire, alerts: list[Alert]) -> Alert:
    for alert in alerts:
        same = alert.name == case.alert and fire.tier in ("", alert.labels.get("tier"))
        if same and fire.severity in ("", alert.severity):
            return alert
    raise LookupError(f"{case.title}: no alert {case.alert} {fire.severity} {fire.tier}")


def _expected(fire: Fire, alert: Alert) -> dict[str, Any]:
    statement = alert.statement("runbooks/")
    annotations = {key: _said(text, fire) for key, text in statement["annotations"].items()}
    if fire.description:
        annotations["description"] = fire.description
    return {"exp_labels": {**fire.labels, **statement["labels"]}, "exp_annotations": annotations}


def _said(text: str, fire: Fire) -> str:
    with_labels = re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda match: fire.labels[match[1]], text)
    return re.sub(r"\{\{[^{}]*\$value[^{}]*\}\}", lambda _: fire.value, with_labels)
