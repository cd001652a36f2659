"""docs/metrics.md: every metric that service and monitor print, from its declaration, and who reads it."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import Metric

from grafana.boards.panels import Panel
from grafana.statement import Statement
from monitoring.counting.signal_metrics import SignalCollector, SignalState
from monitoring.metrics import MonitorMetrics, ServingMetrics

UNITS = (
    ("_timestamp_seconds", "Unix time, s"), ("_seconds", "s"), ("_bytes", "bytes"), ("_ratio", "share"),
    ("_share", "share"), ("_info", "1"), ("_rows", "rows"),
)  # fmt: skip
HEAD = """# Metrics

Written by `python grafana/build.py` from the declarations in [monitoring/metrics.py](../monitoring/metrics.py), the
rules and the dashboards; `--check` fails when this page is out of date. A counter's name ends in `_total`; a histogram
has `_bucket`, `_sum` and `_count`. Labels are bounded: nothing that a client sends becomes one.
"""


@dataclass(frozen=True)
class Declared:
    """One metric as it is declared. kind: counter, gauge or histogram."""

    name: str
    kind: str
    labels: tuple[str, ...]
    text: str

    @property
    def unit(self) -> str:
        """Return the unit that the name tells; a counter without one counts things."""
        plain = self.name.removesuffix("_total")
        found = next((unit for ending, unit in UNITS if plain.endswith(ending)), "")
        return found or ("count" if self.kind == "counter" else "")


@dataclass(frozen=True)
class Readers:
    """Queries by who asks them: dashboards by title, rule files by name; and which file records a series."""

    dashboards: dict[str, list[str]]
    rules: dict[str, list[str]]
    recorded: dict[str, str]


def readers(boards: dict[str, Panel], rule_files: dict[str, Statement]) -> Readers:
    """Return who reads what, from generated dashboards and rule files."""
    shown = {board["title"].removeprefix("Vigil / "): list(_queries(board)) for board in boards.values()}
    statements = {
        name: [one for group in content["groups"] for one in group["rules"]] for name, content in rule_files.items()
    }
    asked = {name: [_every_text(one) for one in found] for name, found in statements.items()}
    recorded = {one["record"]: name for name, found in statements.items() for one in found if "record" in one}
    return Readers(shown, asked, recorded)


def of_service() -> list[Declared]:
    """Return the metrics of the service."""
    metrics = ServingMetrics(CollectorRegistry())
    families = [one for one in vars(metrics).values() if hasattr(one, "metric")]
    counted = [_from_family(one.metric({}), one.names) for one in families]
    state = SignalState("m", "v", ("s",), np.ones((1, 2)), np.ones((1, 2)), 1)
    signals = SignalCollector(lambda: [_with_all(state)])
    return sorted([*counted, *(_from_family(one, _labels(one)) for one in signals.collect())], key=_name)


def of_monitor() -> list[Declared]:
    """Return the metrics of the monitor."""
    found = [one for one in vars(MonitorMetrics(CollectorRegistry())).values() if isinstance(one, Counter | Gauge)]
    return sorted((_from_family(next(iter(one.describe())), one._labelnames) for one in found), key=_name)


def of_processes() -> list[Declared]:
    """Return the metrics that both print of their processes."""
    families = MonitorMetrics(CollectorRegistry()).registry.collect()
    return [_from_family(one, ()) for one in families if one.name.startswith("process_")]


def page(who: Readers) -> str:
    """Return the page as Markdown."""
    parts = {
        "The service": ("`/metrics` of `vigil serve`.", of_service()),
        "The monitor": ("`/metrics` of `vigil watch`.", of_monitor()),
        "Their processes": ("Printed by both; the service adds up its workers.", of_processes()),
    }
    tables = [f"## {title}\n{where}\n\n{_table(found, who)}" for title, (where, found) in parts.items()]
    return "\n".join([HEAD, *tables, _recorded(who)])


def _queries(board: Panel) -> Iterator[str]:
    for panel in board["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))
    yield from (note["expr"] for note in board["annotations"]["list"])


def _every_text(rule: Statement) -> str:
    return " ".join((rule["expr"], *rule.get("annotations", {}).values()))


def _with_all(state: SignalState) -> SignalState:
    return SignalState(
        state.model, state.version, state.signals, state.counts, state.shares, state.rows,
        sums=np.ones(2), centres=(0.0,), far=((1,),), outside=(0.0,), slopes=(0.0, 0.0), classes=("a",),
        missing_limits={"short": 4.0},
    )  # fmt: skip


def _labels(family: Metric) -> tuple[str, ...]:
    return tuple(family.samples[0].labels)


def _from_family(family: Metric, labels: Iterable[str]) -> Declared:
    ending = "_total" if family.type == "counter" else ""
    return Declared(family.name + ending, family.type, tuple(labels), family.documentation)


def _name(one: Declared) -> str:
    return one.name


def _table(found: list[Declared], who: Readers) -> str:
    lines = ["| name | type | labels | unit | meaning | dashboards | rules |", "|---|---|---|---|---|---|---|"]
    for one in found:
        labels = ", ".join(one.labels)
        cells = (f"`{one.name}`", one.kind, labels, one.unit, one.text, *_read_by(one.name, who))
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _recorded(who: Readers) -> str:
    lines = ["| name | recorded in | dashboards | rules |", "|---|---|---|---|"]
    for name, file in sorted(who.recorded.items()):
        lines.append(f"| `{name}` | {file} | {' | '.join(_read_by(name, who))} |")
    where = (
        "What rules in `grafana/prometheus/rules/` make of these; the name says the labels, the metric and its unit."
    )
    return "\n".join(["## Recorded by rules", where, "", *lines]) + "\n"


def _read_by(name: str, who: Readers) -> tuple[str, str]:
    word = re.compile(rf"(?<![\w:]){re.escape(name)}(?:_bucket|_sum|_count)?(?![\w:])")
    shown, asked = (
        ", ".join(reader for reader, queries in all_queries.items() if any(word.search(query) for query in queries))
        for all_queries in (who.dashboards, who.rules)
    )
    return shown, asked
