"""The panels of a Grafana dashboard, in classic JSON (schemaVersion 41; Grafana 10.4 to 13 read it)."""

from dataclasses import dataclass, field, replace
from typing import Any

Panel = dict[str, Any]
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH = 24
GREEN, ORANGE, RED, GREY, BLUE = "green", "orange", "red", "text", "blue"
Step = tuple[str, float | None]
SCRAPED = 'job=~"$job",instance=~"$instance"'
MODEL = 'model=~"$model"'
BOTH = f"{SCRAPED},{MODEL}"
WINDOW = "$__rate_interval"


@dataclass(frozen=True)
class View:
    """One panel; queries are (PromQL, legend); a step is a colour and the value from which it holds."""

    title: str
    description: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    kind: str = "timeseries"
    width: int = 6
    height: int = 7
    none: str = "no data"
    steps: tuple[Step, ...] = ((GREEN, None),)
    words: dict[str, tuple[str, str]] = field(default_factory=dict)  # value, or null, -> (text, colour)
    colours: dict[str, str] = field(default_factory=dict)  # pattern of a legend -> colour
    dashed: str = ""  # pattern of the legends that are a limit
    stack: bool = False
    highest: float | None = None


def tile(view: View) -> View:
    """Return `view` as one of eight tiles in a row."""
    return replace(view, kind="stat", width=3, height=4)


def dashboard(uid: str, title: str, rows: dict[str, tuple[View, ...]], variables: list[Panel]) -> Panel:
    """Return a dashboard; each row of views is laid out left to right under its heading."""
    return {
        "uid": uid,
        "title": title,
        "tags": ["vigil"],
        "schemaVersion": 41,
        "version": 1,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "30s",
        "time": {"from": "now-3h", "to": "now"},
        "timezone": "browser",
        "fiscalYearStartMonth": 0,
        "links": [_links()],
        "annotations": {"list": [_promotions()]},
        "templating": {"list": [_datasource(), *variables]},
        "panels": _laid_out(rows),
    }


def variable(name: str, label: str, query: str, every: str = ".*") -> Panel:
    """Return a drop-down of the values of `query`; all are chosen at first, which `every` matches."""
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": f"variable-{name}"},
        "definition": query,
        "refresh": 2,
        "sort": 1,
        "includeAll": True,
        "multi": True,
        "allValue": every,
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def _laid_out(rows: dict[str, tuple[View, ...]]) -> list[Panel]:
    panels: list[Panel] = []
    top = 0
    for heading, views in rows.items():
        place = {"x": 0, "y": top, "w": WIDTH, "h": 1}
        panels.append({"id": len(panels) + 1, "type": "row", "title": heading, "collapsed": False, "gridPos": place})
        left, top, line = 0, top + 1, 0
        for view in views:
            if left + view.width > WIDTH:
                left, top, line = 0, top + line, 0
            place = {"x": left, "y": top, "w": view.width, "h": view.height}
            panels.append({"id": len(panels) + 1, "gridPos": place, **_panel(view)})
            left, line = left + view.width, max(line, view.height)
        top += line
    return panels


def _panel(view: View) -> Panel:
    defaults: Panel = {
        "unit": view.unit,
        "noValue": view.none,
        "color": {"mode": "palette-classic" if view.kind == "timeseries" else "thresholds"},
        "thresholds": {"mode": "absolute", "steps": [{"color": c, "value": at} for c, at in view.steps]},
        "mappings": _mappings(view.words),
    }
    if view.highest is not None:
        defaults |= {"min": 0, "max": view.highest}
    options: Panel = {}
    if view.kind == "timeseries":
        defaults["custom"] = _lines(view)
        options = {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    elif view.kind == "stat":
        options = _tile(view)
    hidden = {"Time": True, "Value": True}  # a table is read for its labels
    return {
        "title": view.title,
        "description": view.description,
        "type": view.kind,
        "datasource": SOURCE,
        "targets": _targets(view),
        "fieldConfig": {"defaults": defaults, "overrides": _overrides(view)},
        "options": options,
        "transformations": [{"id": "organize", "options": {"excludeByName": hidden}}] if view.kind == "table" else [],
    }


def _targets(view: View) -> list[Panel]:
    now = view.kind != "timeseries" and view.kind != "state-timeline"
    return [
        {
            "refId": chr(ord("A") + i),
            "datasource": SOURCE,
            "expr": expr,
            "legendFormat": legend,
            "editorMode": "code",
            "instant": now,
            "range": not now,
            "format": "table" if view.kind == "table" else "time_series",
        }
        for i, (expr, legend) in enumerate(view.queries)
    ]


def _lines(view: View) -> Panel:
    return {
        "lineWidth": 1,
        "fillOpacity": 20 if view.stack else 0,
        "showPoints": "auto",
        "spanNulls": False,
        "stacking": {"mode": "normal" if view.stack else "none", "group": "A"},
    }


def _tile(view: View) -> Panel:
    return {
        "colorMode": "background",
        "graphMode": "none",
        "justifyMode": "center",
        "textMode": "name" if view.unit == "string" else "value",
        "reduceOptions": {"calcs": ["lastNotNull"], "fields": "", "values": False},
    }


def _mappings(words: dict[str, tuple[str, str]]) -> list[Panel]:
    special = {"null", "nan"}
    plain = {k: {"text": text, "color": colour} for k, (text, colour) in words.items() if k not in special}
    mappings: list[Panel] = [{"type": "value", "options": plain}] if plain else []
    for value in sorted(special & words.keys()):
        text, colour = words[value]
        mappings.append({"type": "special", "options": {"match": value, "result": {"text": text, "color": colour}}})
    return mappings


def _overrides(view: View) -> list[Panel]:
    overrides = [
        _override(pattern, "color", {"mode": "fixed", "fixedColor": colour}) for pattern, colour in view.colours.items()
    ]
    if view.dashed:
        overrides.append(_override(view.dashed, "custom.lineStyle", {"fill": "dash", "dash": [8, 6]}))
    return overrides


def _override(pattern: str, setting: str, value: Any) -> Panel:
    return {
        "matcher": {"id": "byRegexp", "options": pattern},
        "properties": [{"id": setting, "value": value}],
    }


def _links() -> Panel:
    return {
        "title": "Vigil",
        "type": "dashboards",
        "tags": ["vigil"],
        "asDropdown": True,
        "includeVars": True,
        "keepTime": True,
        "targetBlank": False,
        "icon": "external link",
        "tooltip": "",
        "url": "",
    }


def _promotions() -> Panel:
    return {
        "name": "Promotions",
        "datasource": SOURCE,
        "enable": True,
        "hide": False,
        "iconColor": BLUE,
        "expr": 'max by (model) (vigil_model_promoted_timestamp_seconds{model=~"$model"}) * 1000',
        "useValueForTime": True,
        "titleFormat": "{{model}} promoted or rolled back",
        "textFormat": "",
        "step": "60s",
    }


def _datasource() -> Panel:
    return {
        "name": "datasource",
        "label": "Data source",
        "type": "datasource",
        "query": "prometheus",
        "current": {},
        "hide": 0,
        "includeAll": False,
        "multi": False,
        "refresh": 1,
    }
