"""A dashboard around its panels (schemaVersion 41; Grafana 10.4 to 13 read it): variables, links, promotions."""

from dataclasses import dataclass

from grafana.boards.panels import SOURCE, Panel, laid_out
from grafana.boards.views import BLUE, View
from grafana.statement import Places


@dataclass(frozen=True)
class Board:
    """One dashboard: rows of views by their heading, and its drop-downs."""

    uid: str
    title: str
    rows: dict[str, tuple[View, ...]]
    variables: tuple[Panel, ...]


def dashboard(board: Board, places: Places) -> Panel:
    """Return the dashboard as Grafana reads it from a file; places: where a click leads outside Grafana."""
    return {
        "uid": board.uid,
        "title": board.title,
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
        "templating": {
            "list": [
                _datasource(),
                *board.variables,
                _constant("runbooks", places.runbooks),
                _constant("reports", places.reports),
            ]
        },
        "panels": laid_out(board.rows),
    }


def variable(name: str, label: str, query: str, every: str = ".*") -> Panel:
    """Return a drop-down of the values of `query`; all are chosen at first, which `every` matches."""
    return {
        "name": name,
        "label": label,
        "type": "query",
        "datasource": SOURCE,
        "query": {"query": query, "refId": f"variable-{name}"},
        "refresh": 2,
        "sort": 1,
        "includeAll": True,
        "multi": True,
        "allValue": every,
        "current": {"text": ["All"], "value": ["$__all"]},
    }


def servers_and_models() -> tuple[Panel, ...]:
    """Return the drop-downs that every dashboard has."""
    return (
        variable("job", "Job", "label_values(vigil_ready, job)", every="vigil"),
        variable("instance", "Server", 'label_values(vigil_ready{job=~"$job"}, instance)'),
        variable("model", "Model", "label_values(vigil_model_info, model)"),
    )


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
        "hide": 0,
        "includeAll": False,
        "multi": False,
        "refresh": 1,
    }


def _constant(name: str, value: str) -> Panel:
    return {"name": name, "type": "constant", "query": value, "hide": 2, "skipUrlSync": True}
