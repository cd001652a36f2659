"""Views as the panels of a Grafana dashboard, in classic JSON, and where they lie."""

from typing import Any

from grafana.boards.views import GREY, UNJUDGED, View

Panel = dict[str, Any]
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
WIDTH = 24
INSTANT = ("stat", "table", "bargauge")  # show the last value; the others a range


def laid_out(rows: dict[str, tuple[View, ...]]) -> list[Panel]:
    """Return the panels of all rows: a heading, and below it the views left to right."""
    panels: list[Panel] = []
    top = 0
    for heading, views in rows.items():
        place = {"x": 0, "y": top, "w": WIDTH, "h": 1}
        panels.append(
            {"id": len(panels) + 1, "type": "row", "title": heading, "collapsed": False, "gridPos": place, "panels": []}
        )
        left, top, line = 0, top + 1, 0
        for view in views:
            if left + view.width > WIDTH:
                left, top, line = 0, top + line, 0
            place = {"x": left, "y": top, "w": view.width, "h": view.height}
            panels.append({"id": len(panels) + 1, "gridPos": place, **panel(view)})
            left, line = left + view.width, max(line, view.height)
        top += line
    return panels


def panel(view: View) -> Panel:
    """Return one panel, without its id and place."""
    return {
        "title": view.title,
        "description": view.description,
        "type": view.kind,
        "datasource": SOURCE,
        "targets": _targets(view),
        "fieldConfig": {"defaults": _defaults(view), "overrides": _overrides(view)},
        "options": _options(view),
        "transformations": [_columns(view)] if view.kind == "table" else [],
    }


def _targets(view: View) -> list[Panel]:
    now = view.kind in INSTANT
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


def _defaults(view: View) -> Panel:
    judged = view.kind != "timeseries"
    # A value in the unit "string" has no number, so its colour would always be that of the first step.
    named = view.kind == "stat" and view.unit == "string"
    defaults: Panel = {
        "unit": "none" if named or view.value else view.unit,
        "noValue": view.none,
        "color": {"mode": "thresholds" if judged else "palette-classic"},
        "thresholds": {"mode": "absolute", "steps": [{"color": c, "value": at} for c, at in view.steps]},
        "mappings": _mappings(_words(view)),
        "links": [{"title": link.title, "url": link.url, "targetBlank": False} for link in view.links],
    }
    if view.highest is not None:
        defaults |= {"min": 0, "max": view.highest}
    if not judged:
        defaults["custom"] = _lines(view)
    return defaults


def _lines(view: View) -> Panel:
    axis = {} if view.axis_to is None else {"axisSoftMin": 0, "axisSoftMax": view.axis_to}
    return {
        "lineWidth": 1,
        "pointSize": 3,
        "fillOpacity": 20 if view.stack else 0,
        "showPoints": "auto",
        "spanNulls": False,
        "stacking": {"mode": "normal" if view.stack else "none", "group": "A"},
        "thresholdsStyle": {"mode": "dashed" if len(view.steps) > 1 else "off"},
        **axis,
    }


def _options(view: View) -> Panel:
    last = {"calcs": ["lastNotNull"], "fields": "", "values": False}
    if view.kind == "timeseries":
        return {
            "legend": {"displayMode": "list", "placement": "bottom", "showLegend": True, "calcs": []},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    if view.kind == "stat":
        return {
            "colorMode": "background",
            "graphMode": "none",
            "justifyMode": "center",
            "textMode": "name" if view.unit == "string" else "auto",
            "reduceOptions": last,
        }
    if view.kind == "bargauge":
        return {"displayMode": "basic", "orientation": "horizontal", "showUnfilled": True, "reduceOptions": last}
    return {}


def _columns(view: View) -> Panel:
    hidden = {"Time": True} | ({} if view.value else {"Value": True})
    names = {"Value": view.value} if view.value else {}
    return {"id": "organize", "options": {"excludeByName": hidden, "indexByName": {}, "renameByName": names}}


def _words(view: View) -> dict[str, tuple[str, str]]:
    # A tile without a value would have the colour of its first step: grey, unless the view says that none is bad.
    return ({"null": (view.none, UNJUDGED)} if view.kind in ("stat", "bargauge") else {}) | view.words


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
        _override("byRegexp", pattern, "color", {"mode": "fixed", "fixedColor": colour})
        for pattern, colour in view.colours.items()
    ]
    # The ends of an interval need no name of their own beside that of the value.
    unnamed = {"legend": True, "tooltip": False, "viz": False}
    overrides += [
        _override("byRegexp", pattern, "custom.hideFrom", unnamed) for pattern, c in view.colours.items() if c == GREY
    ]
    if view.dashed:
        overrides.append(_override("byRegexp", view.dashed, "custom.lineStyle", {"fill": "dash", "dash": [8, 6]}))
    if view.value:  # the unit is that of the values alone: a label may look like a number
        overrides.append(_override("byName", view.value, "unit", view.unit))
    if view.cells:
        overrides.append(_override("byName", view.cells, "custom.cellOptions", {"type": "color-background"}))
    return overrides


def _override(by: str, pattern: str, setting: str, value: Any) -> Panel:
    return {
        "matcher": {"id": by, "options": pattern},
        "properties": [{"id": setting, "value": value}],
    }
