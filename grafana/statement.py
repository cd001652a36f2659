"""Builders of the two statements of a rule file: a recording rule and an alert."""

from dataclasses import dataclass, field
from typing import Any

from grafana.profile import duration

Statement = dict[str, Any]
ONCALL = "/d/vigil-oncall"
REPORTS = "http://127.0.0.1:9109/reports/"  # where the monitor serves them
REPORTED = ("drift", "quality")  # components whose alerts, all of a model, a report says more about


@dataclass(frozen=True)
class Alert:
    """One alert; summary and description are Go templates, `labels` join severity and component."""

    name: str
    severity: str
    component: str
    summary: str
    description: str
    expr: str
    for_s: int = 0
    keep_s: int = 0
    labels: dict[str, str] = field(default_factory=dict)

    def statement(self, runbook_base: str, reports: str = REPORTS) -> Statement:
        """Return the alert as a rule file spells it; reports: the address of their index."""
        told = {"reports_url": f"{reports}#{{{{ $labels.model }}}}"} if self.component in REPORTED else {}
        waits = {"for": self.for_s, "keep_firing_for": self.keep_s}
        return {
            "alert": self.name,
            "expr": self.expr,
            **{key: duration(seconds) for key, seconds in waits.items() if seconds},
            "labels": {"severity": self.severity, "component": self.component, **self.labels},
            "annotations": {
                "summary": self.summary,
                "description": self.description,
                "runbook_url": f"{runbook_base}{self.name}.md",
                "dashboard_url": ONCALL,
                **told,
            },
        }


def record(name: str, expr: str, **labels: str) -> Statement:
    """Return a recording rule."""
    return {"record": name, "expr": expr, **({"labels": labels} if labels else {})}


def group(name: str, interval_s: int, statements: list[Statement]) -> Statement:
    """Return a group of statements that Prometheus evaluates in order."""
    return {"name": name, "interval": duration(interval_s), "rules": statements}
