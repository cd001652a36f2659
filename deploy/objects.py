"""The Kubernetes object that is made of the same rules as the files in grafana/."""

from typing import Any

from grafana import rules
from grafana.profile import PRODUCTION
from grafana.statement import Places

Manifest = dict[str, Any]
LABELS = {"app.kubernetes.io/part-of": "vigil"}


def generated(places: Places) -> dict[str, Manifest]:
    """Return each generated object by the name of its file; places: where the links of alerts lead."""
    files = rules.rule_files(PRODUCTION, places)
    return {"rules.yaml": _rule([group for file in files.values() for group in file["groups"]])}


def _rule(groups: list[Manifest]) -> Manifest:
    meta = {"name": "vigil", "labels": LABELS}
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": meta,
        "spec": {"groups": groups},
    }
