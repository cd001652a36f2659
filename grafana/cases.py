"""promtool tests of every alert, generated: when it must fire, to the minute, and when it must stay silent.

Each firing case is checked one evaluation before `for` has passed, where it must be silent, and at `for`,
where labels and annotations must be right in full. Input series use promtool's notation, a sample a minute; what
takes hours is sampled and evaluated every few minutes.
"""

import re
from collections.abc import Set
from dataclasses import dataclass, field
from typing import Any

from grafana import notation, told
from grafana.profile import MINUTE_S
from grafana.statement import Alert, Statement

Series = dict[str, str]
MINUTE = 1
SLOWLY = 4  # minutes: at least two samples in the five that Prometheus looks back
ABSENT = "nothing is known of anything"
OF_RELEASE = re.compile(r'(\w+)="([^"]*)"')


@dataclass(frozen=True)
class Fire:
    """One alert that must fire: its condition holds from `since` on, in minutes.

    labels: those beside severity, component and tier. value: how `$value` is printed. until: the minute at which it
    is silent again, whatever the others of its name do.
    """

    since: int
    severity: str = ""
    tier: str = ""
    labels: dict[str, str] = field(default_factory=dict)
    value: str = ""
    until: int = 0
    description: str = ""


@dataclass(frozen=True)
class Case:
    """What happens, and what must be told. `clears` is the minute at which all is silent again.

    A case without `fires` must be silent at minute `last`. step: minutes between samples and between evaluations.
    """

    alert: str
    title: str
    series: Series
    fires: tuple[Fire, ...] = ()
    clears: int = 0
    last: int = 20
    step: int = MINUTE


def case_file(cases: list[Case], alerts: list[Alert], rules: Statement) -> Statement:
    """Return a promtool test file for the rule file of the same name; `alerts` are those it declares.

    All cases have the same step.
    """
    (step,) = {case.step for case in cases}
    names = [group["name"] for group in rules["groups"]]
    tests = [_test(case, alerts) for case in cases]
    if step == MINUTE:
        tests.append(_nothing_known(alerts))
    return {"evaluation_interval": f"{step}m", "group_eval_order": names, "tests": tests}


def series(name: str, values: str, **labels: str) -> Series:
    """Return one input series of the server "a:3000"; labels join or replace job and instance."""
    full = {"job": "vigil", "instance": "a:3000"} | {key.rstrip("_"): text for key, text in labels.items()}
    return {name + "{" + ",".join(f'{key}="{text}"' for key, text in full.items()) + "}": values}


def due(case: Case, alerts: list[Alert]) -> list[tuple[int, Fire, Alert]]:
    """Return when, in minutes, each alert of a case must fire."""
    chosen = [(fire, find(case, fire, alerts)) for fire in case.fires]
    return [(fire.since + _whole(alert.for_s // MINUTE_S, case.step), fire, alert) for fire, alert in chosen]


def find(case: Case, fire: Fire, alerts: list[Alert]) -> Alert:
    """Return the alert that must fire; raises LookupError if there is none."""
    for alert in alerts:
        same = alert.name == case.alert and fire.tier in ("", alert.labels.get("tier"))
        if same and fire.severity in ("", alert.severity):
            return alert
    raise LookupError(f"{case.title}: no alert {case.alert} {fire.severity} {fire.tier}")


def _whole(minutes: int, step: int) -> int:
    return -(-minutes // step) * step


def _test(case: Case, alerts: list[Alert]) -> Statement:
    waits = due(case, alerts)
    times = {at - before for at, _, _ in waits for before in (0, case.step) if at >= before}
    times |= {fire.until for _, fire, _ in waits if fire.until}
    end = case.clears or (0 if waits else case.last)
    checks = [_check(case, at, waits) for at in sorted(times | ({end} if end else set()))]
    return {
        "name": f"{case.alert}: {case.title}",
        "interval": f"{case.step}m",
        "input_series": [{"series": name, "values": values} for name, values in case.series.items()],
        "alert_rule_test": checks,
    }


def _nothing_known(alerts: list[Alert]) -> Statement:
    # Without a single series only what looks for absence may fire, and the watchdog.
    names = sorted({alert.name for alert in alerts if "absent(" not in alert.expr and alert.expr != "vector(1)"})
    checks = [{"eval_time": "35m", "alertname": name, "exp_alerts": []} for name in names]
    return {"name": ABSENT, "interval": "1m", "input_series": [], "alert_rule_test": checks}


def _check(case: Case, at: int, waits: list[tuple[int, Fire, Alert]]) -> Statement:
    over = bool(case.clears) and at >= case.clears
    on = [(fire, alert) for start, fire, alert in waits if start <= at < (fire.until or at + 1)]
    firing = [] if over else on
    expected = [_expected(case, at, fire, alert) for fire, alert in firing]
    return {"eval_time": f"{at}m", "alertname": case.alert, "exp_alerts": expected}


def _expected(case: Case, at: int, fire: Fire, alert: Alert) -> dict[str, Any]:
    statement = alert.statement()
    annotations = {key: _said(text, fire) for key, text in statement["annotations"].items()}
    if alert.name in told.UNDONE_BY_ROLLBACK:
        annotations |= _releases(case, at, fire.labels.get("model"), alert.name)
    if fire.description:
        annotations["description"] = fire.description
    return {"exp_labels": {**fire.labels, **statement["labels"]}, "exp_annotations": annotations}


def _said(text: str, fire: Fire) -> str:
    with_labels = re.sub(r"\{\{ \$labels\.(\w+) \}\}", lambda match: fire.labels[match[1]], text)
    return re.sub(r"\{\{[^{}]*\$value[^{}]*\}\}", lambda _: fire.value, with_labels)


def _releases(case: Case, at: int, model: str | None, alert: str) -> dict[str, str]:
    # What `told` looks up: read from the series of the case instead of asked in PromQL.
    shown, known = (_seen(case, at, model, metric) for metric in (told.LIVE, told.BEFORE))
    served = {name for (name, _), minute in shown.items() if minute == at}
    live, before = _latest(shown, at), _latest(known, at, served)
    commands = [f"vigil rollback --model {name} --why {alert}" for name in sorted({name for name, _ in before})]
    return {
        "live": ", ".join(":".join(tag) for tag in live) or told.UNKNOWN,
        "previous": ", ".join(":".join(tag) for tag in before) or told.NONE,
        "rollback": "; ".join(commands) or told.NONE,
    }


def _seen(case: Case, at: int, model: str | None, metric: str) -> dict[tuple[str, str], int]:
    name, _, demanded = metric.rstrip("}").partition("{")
    seen: dict[tuple[str, str], int] = {}
    for series_name, values in case.series.items():
        labels = dict(OF_RELEASE.findall(series_name))
        if series_name.startswith(name + "{") and demanded in series_name and model in (None, labels["model"]):
            minute = notation.last_seen(values, at, case.step)
            if minute is not None:
                tag = labels["model"], labels["version"]
                seen[tag] = max(minute, seen.get(tag, minute))
    return seen


def _latest(seen: dict[tuple[str, str], int], at: int, but: Set[str] = frozenset()) -> list[tuple[str, str]]:
    # What is there now; without any, what was there last of each model, except of those in `but`.
    now = {tag for tag, minute in seen.items() if minute == at}
    newest = {name: max(minute for tag, minute in seen.items() if tag[0] == name) for name, _ in seen}
    lately = {tag for tag, minute in seen.items() if minute == newest[tag[0]] and tag[0] not in but}
    return sorted(now or lately, key=lambda tag: tag[1])
