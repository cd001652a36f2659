"""Builders of the two statements of a rule file: a recording rule and an alert."""

from dataclasses import dataclass, field
from typing import Any

from grafana import told
from grafana.profile import duration

Statement = dict[str, Any]
REPORTED = ("drift", "quality")  # components whose alerts, all of a model, a report says more about
DASHBOARDS = {
    "serving": "vigil-oncall",
    "monitor": "vigil-oncall",
    "slo": "vigil-slo",
    "model": "vigil-rollout",
    "data": "vigil-drift",
    "drift": "vigil-drift",
    "quality": "vigil-drift",
    "gpu": "vigil-host",
    "host": "vigil-host",
}


@dataclass(frozen=True)
class Places:
    """Where the links of an alert lead, as people reach it; the monitor serves runbooks and reports.

    grafana: its address, without a slash at the end; if empty, links to dashboards are relative to it.
    """

    runbooks: str = "http://127.0.0.1:9109/runbooks/"
    reports: str = "http://127.0.0.1:9109/reports/"
    grafana: str = ""


MONITORS = Places()


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

    @property
    def of_model(self) -> bool:
        """Say whether it has the label `model`."""
        return "$labels.model" in self.summary + self.description

    def statement(self, places: Places = MONITORS) -> Statement:
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
                **(told.releases(self.name, self.of_model) if self.name in told.UNDONE_BY_ROLLBACK else {}),
                **self._links(places),
            },
        }

    def _links(self, places: Places) -> dict[str, str]:
        chosen = "?var-model={{ $labels.model }}" if self.of_model else ""
        reports = {"reports_url": f"{places.reports}#{{{{ $labels.model }}}}"} if self.component in REPORTED else {}
        return {
            "runbook_url": f"{places.runbooks}{self.name}.md",
            "dashboard_url": f"{places.grafana}/d/{DASHBOARDS[self.component]}{chosen}",
            **reports,
        }


def record(name: str, expr: str, **labels: str) -> Statement:
    """Return a recording rule."""
    return {"record": name, "expr": expr, **({"labels": labels} if labels else {})}


def group(name: str, interval_s: int, statements: list[Statement]) -> Statement:
    """Return a group of statements that Prometheus evaluates in order."""
    return {"name": name, "interval": duration(interval_s), "rules": statements}
