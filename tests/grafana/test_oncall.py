import json
import re

import pytest

from grafana.oncall import oncall
from grafana.profile import PRODUCTION
from tests.grafana import promql

VARIABLES = {"job": "vigil", "instance": ".*", "model": ".*", "__rate_interval": "5m"}


@pytest.fixture(scope="module")
def dashboard():
    return oncall(PRODUCTION)


@pytest.fixture(scope="module")
def panels(dashboard):
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def queries(panels):
    return [target["expr"] for panel in panels for target in panel["targets"]]


def test_the_dashboard_is_plain_json_that_nobody_edits_by_hand(dashboard):
    assert json.loads(json.dumps(dashboard)) == dashboard
    assert dashboard["uid"] == "vigil-oncall"
    assert dashboard["editable"] is False
    assert 39 <= dashboard["schemaVersion"] <= 41


def test_no_two_panels_share_an_id_or_a_place(dashboard):
    panels = dashboard["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + dx, place["y"] + dy) for dx in range(place["w"]) for dy in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_every_panel_says_what_it_shows_in_which_unit_and_what_no_data_means(panels):
    for panel in panels:
        defaults = panel["fieldConfig"]["defaults"]
        assert panel["title"] and len(panel["description"]) > 20, panel["title"]
        assert defaults["unit"] and defaults["noValue"], panel["title"]


def test_the_eight_tiles_fill_the_first_line(panels):
    tiles = [panel["gridPos"] for panel in panels[:8]]
    assert [panel["type"] for panel in panels[:8]] == ["stat"] * 8
    assert {tile["y"] for tile in tiles} == {1}
    assert sum(tile["w"] for tile in tiles) == 24


def test_every_query_is_valid(panels, check_queries):
    found = queries(panels)
    for name, value in VARIABLES.items():
        found = [query.replace(f"${name}", value) for query in found]
    assert not [query for query in found if "$" in query]
    assert check_queries(found) == ""


def test_every_metric_in_a_panel_is_produced_by_somebody(dashboard, panels):
    known = promql.declared()
    asked = queries(panels) + [note["expr"] for note in dashboard["annotations"]["list"]]
    assert {query: promql.unknown(query, known) for query in asked if promql.unknown(query, known)} == {}


def test_rates_follow_the_zoom_and_counters_are_only_read_as_rates(panels):
    for query in queries(panels):
        assert set(re.findall(r"\[([^\]]+)\]", query)) <= {"$__rate_interval"}, query
        for counter in re.findall(r"\w+_total\b(?:\{[^}]*\})?(\[)?", query):
            assert counter == "[", query


def test_metrics_of_the_servers_follow_the_variables(panels):
    for query in queries(panels):
        for matchers in re.findall(
            r"vigil_(?:requests?|request_seconds\w*|stage\w*|batch\w*|input\w*)\{([^}]*)\}", query
        ):
            assert "$job" in matchers and "$instance" in matchers, query


def test_every_data_source_is_the_variable(dashboard):
    uids = set(re.findall(r'"uid": "([^"]+)"', json.dumps(dashboard))) - {"vigil-oncall"}
    assert uids == {"${datasource}"}
    assert [v["name"] for v in dashboard["templating"]["list"]] == ["datasource", "job", "instance", "model"]


def test_links_keep_time_and_variables_and_promotions_are_marked(dashboard):
    assert all(link["keepTime"] and link["includeVars"] for link in dashboard["links"])
    (note,) = dashboard["annotations"]["list"]
    assert "vigil_model_promoted_timestamp_seconds" in note["expr"] and note["useValueForTime"]
