"""What holds for every dashboard."""

import json
import re
from collections import Counter

import pytest

from grafana import build, rules
from grafana.boards.generated import dashboards
from grafana.config import Addresses
from grafana.profile import DEMO, PRODUCTION
from grafana.statement import MONITORS, Places
from tests.grafana import promql

UIDS = {
    "oncall": "vigil-oncall", "slo": "vigil-slo", "rollout": "vigil-rollout", "drift": "vigil-drift",
    "host": "vigil-host",
}  # fmt: skip
OF_GRAFANA = {"__rate_interval", "__field", "__data", "__url_time_range", "__all"}
VARIABLES = {"job": "vigil", "instance": ".*", "model": ".*", "signal": ".*", "gpu": ".*", "host": ".*"}
UNITS = {
    "none", "short", "string", "suffix:intervals",
    "percent", "percentunit", "s", "reqps", "bytes", "Bps", "watt", "celsius", "rotmhz",
}  # fmt: skip
NEVER_ZERO = (
    "job:slo_objective:ratio", "_threshold", "drift_limit_restless", "vigil_monitor_interval_seconds",
    "process_max_fds", "count(up{", "node_memory_MemTotal_bytes", "DCGM_FI_DEV_FB_FREE", "count by (instance)",
)  # fmt: skip
OF_SERVERS = r"vigil_(?:requests?|request_seconds\w*|stage\w*|batch\w*|input\w*|shadow\w*|connections?\w*|ready)"
BOARDS = dashboards(PRODUCTION, Places("https://runbooks.example/", "https://reports.example/"))


@pytest.fixture(params=BOARDS)
def board(request):
    return BOARDS[request.param]


def panels(board):
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def queries(board):
    return [target["expr"] for panel in panels(board) for target in panel["targets"]]


def filled(query):
    """Return a query as Grafana sends it, with every choice at its first value."""
    for name, value in VARIABLES.items():
        query = query.replace(f"${name}", value)
    return query.replace("$__rate_interval", "5m")


def test_there_are_five_and_their_addresses_never_change():
    assert {name: board["uid"] for name, board in BOARDS.items()} == UIDS
    assert len({board["title"] for board in BOARDS.values()}) == len(BOARDS)
    assert sum(len(panels(board)) for board in BOARDS.values()) >= 100


def test_a_dashboard_is_plain_json_that_nobody_edits_by_hand(board):
    assert json.loads(json.dumps(board)) == board
    assert board["editable"] is False
    assert 39 <= board["schemaVersion"] <= 42
    assert board["tags"] == ["vigil"]


def test_no_two_panels_share_an_id_or_a_place(board):
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    taken = set()
    for panel in board["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + dx, place["y"] + dy) for dx in range(place["w"]) for dy in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_every_line_of_panels_is_full(board):
    headings = {panel["gridPos"]["y"] for panel in board["panels"] if panel["type"] == "row"}
    width = Counter()
    for panel in panels(board):
        width[panel["gridPos"]["y"]] += panel["gridPos"]["w"]
    assert not headings & width.keys()
    assert set(width.values()) == {24}, {y: w for y, w in width.items() if w != 24}


def test_every_panel_says_what_it_shows_in_which_unit_and_what_no_data_means(board):
    titles = [panel["title"] for panel in panels(board)]
    assert [title for title, times in Counter(titles).items() if times > 1] in ([], ["Memory"])
    for panel in panels(board):
        defaults = panel["fieldConfig"]["defaults"]
        assert panel["title"] and len(panel["description"]) > 20, panel["title"]
        assert panel["description"].endswith("."), panel["title"]
        assert defaults["unit"] in UNITS and defaults["noValue"], panel["title"]
        assert panel["targets"] and all(target["expr"] for target in panel["targets"]), panel["title"]


def test_every_line_in_a_panel_has_a_name_of_its_own(board):
    for panel in panels(board):
        names = [target["legendFormat"] for target in panel["targets"]]
        assert len(set(names)) == len(names), panel["title"]
        assert all(names) != (panel["type"] == "table"), panel["title"]
        assert [target["refId"] for target in panel["targets"]] == list("ABCDEFG"[: len(names)])


def test_a_colour_is_a_judgement_and_no_data_is_none(board):
    for panel in panels(board):
        steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
        values = [step["value"] for step in steps]
        assert values[0] is None and values[1:] == sorted(values[1:]), panel["title"]
        drawn = panel["fieldConfig"]["defaults"].get("custom", {}).get("thresholdsStyle", {}).get("mode", "dashed")
        assert drawn == "dashed" or len(steps) == 1, panel["title"]


def test_every_query_of_every_dashboard_is_valid(check_queries):
    found = [filled(query) for board in BOARDS.values() for query in queries(board)]
    assert not [query for query in found if re.search(r"\$(?!\d)", query)]
    assert check_queries(found) == ""


def test_every_metric_in_a_panel_is_produced_by_somebody(board):
    known = promql.declared()
    asked = queries(board) + [note["expr"] for note in board["annotations"]["list"]]
    assert {query: promql.unknown(query, known) for query in asked if promql.unknown(query, known)} == {}


def test_rates_follow_the_zoom_and_counters_are_only_read_as_rates(board):
    for query in queries(board):
        assert set(re.findall(r"\[([^\]]+)\]", re.sub(r'"[^"]*"', "", query))) <= {"$__rate_interval"}, query
        for name in re.findall(r"\b(\w+_total|\w+_bucket|\w+_sum|\w+_count)\b(?:\{[^}]*\})?(?!\w|\{|\[)", query):
            assert name.startswith("job:"), query
        for gauge in re.findall(r"(?:rate|increase)\((\w+)", query):
            assert gauge.endswith(("_total", "_bucket", "_sum", "_count")), query


def test_metrics_of_the_servers_follow_the_variables(board):
    for query in queries(board):
        for matchers in re.findall(rf"{OF_SERVERS}\{{([^}}]*)\}}", query):
            assert "$job" in matchers and "$instance" in matchers, query
        assert not re.search(rf"{OF_SERVERS}\b(?!\w|\{{)", query), query


def test_every_choice_is_used_and_every_choice_that_is_used_exists(board):
    names = {v["name"] for v in board["templating"]["list"]}
    assert names >= {"datasource", "job", "instance", "model"}
    used = set(re.findall(r"\$\{?([a-z_]+)", json.dumps(board))) - OF_GRAFANA
    assert used - names == set()
    assert names - used <= {"model", "runbooks", "reports"}


def test_a_ratio_is_of_something(board):
    for query in queries(board):
        for below in _denominators(query):
            assert "> 0" in below or any(sure in below for sure in NEVER_ZERO), query


def test_every_data_source_is_the_variable(board):
    assert set(re.findall(r'"uid": "([^"]+)"', json.dumps(board))) - set(UIDS.values()) == {"${datasource}"}
    assert "__inputs" not in board


def test_links_keep_time_and_variables_and_promotions_are_marked(board):
    assert all(link["keepTime"] and link["includeVars"] for link in board["links"])
    (note,) = board["annotations"]["list"]
    assert "vigil_model_promoted_timestamp_seconds" in note["expr"] and note["useValueForTime"]


def test_a_click_leads_somewhere(board):
    links = [link for panel in panels(board) for link in panel["fieldConfig"]["defaults"]["links"]]
    constants = {v["name"]: v["query"] for v in board["templating"]["list"] if v["type"] == "constant"}
    assert constants == {"runbooks": "https://runbooks.example/", "reports": "https://reports.example/"}
    assert {name for name in constants if f"${{{name}}}" in json.dumps(links)} <= set(constants)
    for link in links:
        place = re.match(r"/d/([\w-]+)\?", link["url"])
        assert (place and place[1] in UIDS.values()) or link["url"].startswith(("${runbooks}", "${reports}#")), link


def test_a_version_leads_to_its_rollout_a_signal_to_its_report_an_alert_to_its_runbook():
    def leads(name, title):
        (panel,) = (p for p in panels(BOARDS[name]) if p["title"] == title)
        return [link["url"] for link in panel["fieldConfig"]["defaults"]["links"]]

    assert leads("oncall", "Live")[0].startswith("/d/vigil-rollout?")
    assert leads("oncall", "Drift z against its limit") == ["${reports}#${__field.labels.model}"]
    assert leads("oncall", "Firing alerts") == ["${runbooks}${__data.fields.alertname}.md"]


def test_links_on_a_label_lead_from_panels_that_have_it(board):
    for panel in panels(board):
        for link in panel["fieldConfig"]["defaults"]["links"]:
            for label in re.findall(r"\$\{__(?:field\.labels|data\.fields)\.(\w+)\}", link["url"]):
                assert all(re.search(rf"\b{label}\b|model_signal|model:", t["expr"]) for t in panel["targets"])


def test_a_sync_is_late_from_where_its_alert_opens_a_ticket_and_without_a_place_there_is_none():
    (shown,) = (panel for panel in panels(BOARDS["rollout"]) if panel["title"] == "Since the last sync")
    (alert,) = (alert for alert in rules.alerts(PRODUCTION) if alert.name == "VigilSyncStale")
    steps = shown["fieldConfig"]["defaults"]["thresholds"]["steps"]
    assert alert.severity == "warning" and alert.expr.endswith(f"> {steps[-1]['value']:g}")
    assert [step["color"] for step in steps] == ["green", "orange"]
    assert filled(shown["targets"][0]["expr"]).startswith("topk(3, time() - max by (instance, model) (vigil_followed_")
    assert shown["fieldConfig"]["defaults"]["noValue"] == "no place is followed"


def test_on_call_a_new_release_goes_on_with_the_lines_of_the_one_before():
    for panel in panels(BOARDS["oncall"]):
        if panel["title"] in ("Drift z against its limit", "PSI against its limit", "Rows judged"):
            for target in panel["targets"]:
                named = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
                (kept,) = re.findall(r"max by \(([^)]*)\)", target["expr"])
                assert set(kept.split(", ")) == named, target["expr"]


def test_every_address_in_an_alert_is_a_dashboard_and_a_page(grafana_folder):
    pages = {page.name for page in (grafana_folder / "runbooks").glob("*.md")}
    for alert in rules.alerts(PRODUCTION):
        told = alert.statement(Places("", "", ""))["annotations"]
        assert told["dashboard_url"].removeprefix("/d/").split("?")[0] in UIDS.values()
        assert told["runbook_url"] in pages


def test_the_files_link_the_runbooks_and_reports_that_the_rules_link():
    addresses = Addresses(runbooks="https://here.example/pages/")
    board = json.loads(build.files(DEMO, addresses)["dashboards/oncall.json"])
    constants = {v["name"]: v["query"] for v in board["templating"]["list"] if v["type"] == "constant"}
    assert constants == {"runbooks": "https://here.example/pages/", "reports": MONITORS.reports}


def _denominators(query):
    """Return what stands behind each `/`: up to the end of its parentheses, or of the metric."""
    for place in re.finditer(r" / (?:on \([^)]*\) (?:group_left \(\) )?)?", query):
        depth, rest = 0, query[place.end() :]
        for i, letter in enumerate(rest):
            depth += (letter in "({") - (letter in ")}")
            if depth < 0 or (depth == 0 and letter == " " and not re.match(r"[^(]*\bby\b", rest[: i + 4])):
                rest = rest[:i]
                break
        yield rest
