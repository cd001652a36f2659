"""Builders of the two statements of a rule file: a recording rule and an alert."""

from dataclasses import dataclass, field
from typing import Any

from grafana.profile import duration

Statement = dict[str, Any]
ONCALL = "/d/vigil-oncall"


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

    def statement(self, runbook_base: str) -> Statement:
        """Return the alert as a rule file spells it."""
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
            },
        }


def record(name: str, expr: str, **labels: str) -> Statement:
    """Return a recording rule."""
    return {"record": name, "expr": expr, **({"labels": labels} if labels else {})}


def group(name: str, interval_s: int, statements: list[Statement]) -> Statement:
    """Return a group of statements that Prometheus evaluates in order."""
    return {"name": name, "interval": duration(interval_s), "rules": statements}
