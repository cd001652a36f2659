"""Names of the metrics a PromQL expression reads, and names the code declares."""

import re

import numpy as np
from prometheus_client import CollectorRegistry

from grafana import rules
from grafana.profile import PRODUCTION
from monitoring.counting.signal_metrics import SignalCollector, SignalState
from monitoring.metrics import MonitorMetrics, ServingMetrics

OF_PROMETHEUS = {"up", "ALERTS", "ALERTS_FOR_STATE", "scrape_samples_post_metric_relabeling", "scrape_duration_seconds"}
FAMILIES = ("prometheus_", "alertmanager_", "node_", "DCGM_FI_", "probe_")  # of other programs
ENDINGS = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count"), "gauge": ("",)}
WORDS = {"and", "or", "unless", "by", "on", "ignoring", "without", "group_left", "group_right", "offset", "bool"}


def metrics_of(expr):
    """Return the metric names in an expression; Grafana variables may stand in it."""
    text = re.sub(r'"[^"]*"|\[[^\]]*\]', "", expr)
    text = re.sub(r"\{[^}]*\}", " ", text)
    text = re.sub(r"\b(by|on|without|ignoring|group_left|group_right)\s*\([^)]*\)", " ", text)
    text = re.sub(r"\b(offset)\s+\w+", " ", text)
    names = re.findall(r"(?<![\w.$:])([a-zA-Z_:][\w:]*)\b(?!\s*\()", text)
    return {name for name in names if name not in WORDS}


def declared():
    """Return every metric name that the service, the monitor and the recording rules produce."""
    names = set()
    for kind in (ServingMetrics, MonitorMetrics):
        registry = CollectorRegistry()
        kind(registry)
        names |= _printed(registry.collect())
    state = SignalState("m", "v", ("s",), np.ones((1, 2)), np.ones((1, 2)), 1)
    names |= _printed(SignalCollector(lambda: [state]).collect())
    return names | recorded()


def recorded():
    files = rules.rule_files(PRODUCTION).values()
    return {rule["record"] for file in files for group in file["groups"] for rule in group["rules"] if "record" in rule}


def unknown(expr, known):
    """Return the metrics in `expr` that nobody produces."""
    return {n for n in metrics_of(expr) - known - OF_PROMETHEUS if not n.startswith(FAMILIES)}


def _printed(families):
    return {family.name + ending for family in families for ending in ENDINGS[family.type]}


def _names_of_monitor():
    registry = CollectorRegistry()
    MonitorMetrics(registry)
    return tuple(family.name for family in registry.collect() if family.name.startswith("vigil_"))


OF_MONITOR = _names_of_monitor()
