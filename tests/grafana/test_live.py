"""Every panel has something to show: its queries are asked of a Prometheus that scrapes the real programs."""

import time

import pytest

from grafana.boards.generated import dashboards
from grafana.profile import DEMO
from grafana.statement import MONITORS
from tests.grafana import live
from tests.grafana.test_boards import VARIABLES, panels

PATIENCE_S = 120
EMPTY = {
    ("Restless traffic", 0): "48 short windows of rows are needed; test_twin.py has them",
    ("How good it was", 0): "a step of six hours must be over; test_estimates_page.py has one",
    ("Estimated without labels", 0): "shown while nothing has drifted, and here it has; `Estimated accuracy` is asked",
    ("Failures and new starts", 0): "the monitor works; test_parts.py has failures",
    ("Failures and new starts", 1): "its state is whole; test_state.py has new starts",
    ("Since the last sync", 0): "no server follows a shared place; test_service.py has one that does",
    ("Reports", 0): "none is due in the first minutes; test_due.py has some",
}
BOARDS = dashboards(DEMO, MONITORS)


def filled(query):
    for name, value in VARIABLES.items():
        query = query.replace(f"${name}", value)
    query = query.split(" or on () label_replace(vector(0)")[0]  # what is said where there is nothing
    return query.replace("$__rate_interval", live.WINDOW)


def asked():
    """Return (dashboard, panel, number of the query) by query."""
    return {
        filled(target["expr"]): (name, panel["title"], i)
        for name, board in BOARDS.items()
        for panel in panels(board)
        for i, target in enumerate(panel["targets"])
        if (panel["title"], i) not in EMPTY
    }


def test_every_query_of_every_panel_gives_a_number(watched):
    queries = asked()
    begun = time.monotonic()
    missing = [queries[query] for query in live.until_all(watched, queries, PATIENCE_S)]
    print(f"\n{len(queries)} queries of {len(BOARDS)} dashboards, all with data after {time.monotonic() - begun:.1f} s")
    assert missing == []


@pytest.mark.parametrize("board", BOARDS)
def test_every_choice_has_values_and_promotions_are_found(watched, eventually, board):
    for variable in BOARDS[board]["templating"]["list"]:
        if variable["type"] == "query":
            selector, label = filled(variable["query"]["query"]).removeprefix("label_values(")[:-1].rsplit(", ", 1)
            found = eventually(f"values of {variable['name']}", lambda s=selector: watched.ask(s), PATIENCE_S)
            assert all(label in series["metric"] for series in found), variable["name"]
    (note,) = BOARDS[board]["annotations"]["list"]
    (change,) = eventually("the promotion", lambda: watched.ask(filled(note["expr"])), PATIENCE_S)
    assert watched.begun_s - 1 <= float(change["value"][1]) / 1000 <= time.time()


def test_what_is_left_out_is_a_panel(watched):
    titles = {panel["title"] for board in BOARDS.values() for panel in panels(board)}
    assert {title for title, _ in EMPTY} <= titles
