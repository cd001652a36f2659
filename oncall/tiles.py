"""The first row of the On-call dashboard, asked and judged in the terminal as Grafana would."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from grafana.boards.generated import dashboards
from grafana.boards.panels import Panel
from grafana.boards.views import GREEN, ORANGE, RED
from grafana.profile import PRODUCTION
from grafana.statement import MONITORS
from oncall.api import Sample

RATE = "5m"  # what $__rate_interval is on the dashboard of the production profile, in its usual view
JUDGEMENTS = {GREEN: "good", ORANGE: "warning", RED: "bad"}
SUFFIX = "suffix:"  # Grafana's form of a unit that it does not know
Ask = Callable[[str], list[Sample]]


@dataclass(frozen=True)
class Tile:
    """A tile with its answer. judgement: good, warning, bad, or "" where nothing is judged or known."""

    title: str
    text: str
    judgement: str
    samples: list[Sample]

    @property
    def key(self) -> str:
        """Return the title as a name: "As promoted?" is as_promoted."""
        return re.sub(r"\W+", "_", self.title.lower()).strip("_")


def read(ask: Ask, model: str) -> list[Tile]:
    """Return the tiles of the first row; ask: answers an instant query. model: a name, "" is every one."""
    dashboard = dashboards(PRODUCTION, MONITORS)["oncall"]  # the queries of the tiles are the same in every profile
    values = _variables(dashboard, model)
    return [_tile(panel, ask, values) for panel in first_row(dashboard)]


def first_row(dashboard: Panel) -> list[Panel]:
    """Return the panels of one value each in the first line of a dashboard."""
    _, first, *_ = dashboard["panels"]
    line = first["gridPos"]["y"]
    return [panel for panel in dashboard["panels"] if panel["type"] == "stat" and panel["gridPos"]["y"] == line]


def _variables(dashboard: Panel, model: str) -> dict[str, str]:
    every = {one["name"]: one["allValue"] for one in dashboard["templating"]["list"] if "allValue" in one}
    return every | ({"model": model} if model else {}) | {"__rate_interval": RATE}


def _tile(panel: Panel, ask: Ask, values: dict[str, str]) -> Tile:
    samples, texts, colours = [], [], []
    for target in panel["targets"]:
        for sample in ask(filled(target["expr"], values)):
            text, colour = _shown(panel, target["legendFormat"], sample)
            samples.append(sample)
            texts.append(text)
            colours.append(colour)
    if not samples:
        text, colour = _nothing(panel)
        texts, colours = [text], [colour]
    return Tile(panel["title"], ", ".join(texts), _worst(colours), samples)


def filled(query: str, values: dict[str, str]) -> str:
    """Return `query` with the dashboard's variables filled in."""
    for name in sorted(values, key=len, reverse=True):
        query = query.replace(f"${{{name}}}", values[name]).replace(f"${name}", values[name])
    return query


def _shown(panel: Panel, legend: str, sample: Sample) -> tuple[str, str]:
    defaults = panel["fieldConfig"]["defaults"]
    for mapping in defaults["mappings"]:
        said = mapping["options"].get(f"{sample.value:g}") if mapping["type"] == "value" else None
        if said is not None:
            return said["text"], said["color"]
    colour = ""
    for step in defaults["thresholds"]["steps"]:
        if step["value"] is None or sample.value >= step["value"]:
            colour = step["color"]
    if panel["options"].get("textMode") == "name":
        text = re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda found: sample.labels.get(found[1], ""), legend)
        return text.strip(), colour
    return number(sample.value, defaults["unit"]), colour


def _nothing(panel: Panel) -> tuple[str, str]:
    defaults: dict[str, Any] = panel["fieldConfig"]["defaults"]
    for mapping in defaults["mappings"]:
        if mapping["type"] == "special" and mapping["options"]["match"] == "null":
            said = mapping["options"]["result"]
            return said["text"], said["color"]
    return defaults["noValue"], ""


def number(value: float, unit: str) -> str:
    """Return `value` as people read it, in one of Grafana's units."""
    if unit == "percentunit":
        return f"{value * 100:.4g} %"
    if unit.startswith(SUFFIX):
        return f"{value:.3g} {unit.removeprefix(SUFFIX)}"
    return f"{value:.3g}" + {"s": " s", "reqps": "/s"}.get(unit, "")


def _worst(colours: list[str]) -> str:
    present = [colour for colour in (RED, ORANGE, GREEN) if colour in colours]
    return JUDGEMENTS[present[0]] if present else ""
