"""The text of a status: what is judged good, a warning or bad, and what is said where nothing is known."""

import re
import time
from dataclasses import replace

import pytest

import vigil
from grafana.boards.generated import dashboards
from grafana.profile import DEMO, PRODUCTION
from grafana.statement import MONITORS
from oncall import api, page, status, tiles
from oncall.api import Firing, Sample
from oncall.status import Drift, Model, Quality, Status
from registry import aliases
from registry.aliases import Change
from registry.errors import StackError
from tests.grafana import promql

NOW = 1_800_000_000.0
CHANGE = Change(NOW - 180, "ann", "fewer errors", "promote", "20260101-000000-aaaaaaaa", "20260102-000000-bbbbbbbb", ())
GOOD = Model(
    "digits", [("20260102-000000-bbbbbbbb", "CPUExecutionProvider")], "20260102-000000-bbbbbbbb",
    "20260101-000000-aaaaaaaa", CHANGE, Drift("ink", "short", 0.4, []),
    [Quality("accuracy", 0.95, 0.93, 0.97, 0.9, 400)],
)  # fmt: skip
ALERT = Firing(
    "VigilQualityUnderFloor", "critical", {"model": "digits"},
    {"summary": "It is under its floor.", "runbook_url": "https://runbooks.example/X"}, NOW - 90, False,
)  # fmt: skip


def shown(model=GOOD, firing=(), coloured=False):
    return page.text(Status(NOW, [], [model], list(firing)), coloured)


def line(text, what):
    return re.search(rf"^{what} +(.*)$", text, re.MULTILINE).group(1)


def test_a_model_that_is_well_is_told_in_six_lines_with_the_command_that_undoes_its_last_change():
    text = shown()
    assert line(text, "as promoted") == "yes"
    assert line(text, "changed") == "promote 3 min ago by ann: fewer errors"
    assert line(text, "drift") == "none; nearest to its limit ink at 40% (short window)"
    assert line(text, "quality") == "accuracy 0.950 (0.930 to 0.970) on 400 labelled rows, floor 0.900"
    assert line(text, "to undo") == 'vigil rollback --model digits --why "..."'


@pytest.mark.parametrize(
    ("changed", "what", "said", "colour"),
    [
        ({}, "as promoted", "yes", 32),
        ({"promoted": "20260103-000000-cccccccc"}, "as promoted", "no: promoted is 20260103-000000-cccccccc", 31),
        ({"live": []}, "model digits", "nothing is live", 31),
        ({"drift": Drift("ink", "short", 3.0, ["ink", "tilt"])}, "drift", "moved: ink, tilt", 33),
        ({"quality": [Quality("accuracy", 0.8, 0.7, 0.89, 0.9, 400)]}, "quality", "accuracy 0.8", 31),
        ({"quality": [Quality("accuracy", 0.9, 0.85, 0.94, 0.9, 400)]}, "quality", "accuracy 0.9", 33),
    ],
)
def test_colour_is_a_judgement(changed, what, said, colour):
    found = line(shown(replace(GOOD, **changed), coloured=True), what)
    assert found.startswith(f"\x1b[{colour}m{said}") and found.endswith("\x1b[0m")


@pytest.mark.parametrize(
    ("changed", "what", "said"),
    [
        ({"live": None}, "as promoted", "not known; promoted is 20260102-000000-bbbbbbbb"),
        ({"promoted": None}, "as promoted", "no alias file here"),
        ({"drift": None, "rows": 0}, "drift", "no rows yet"),
        ({"drift": None, "rows": 37}, "drift", "not judged yet; 37 rows answered"),
        ({"quality": []}, "quality", "no labels yet"),
        ({"live": []}, "as promoted", "served by nobody; promoted is 20260102-000000-bbbbbbbb"),
    ],
)
def test_what_is_not_known_is_said_so_and_not_coloured(changed, what, said):
    assert line(shown(replace(GOOD, **changed), coloured=True), what) == said


def test_an_alert_is_told_with_its_age_its_summary_and_where_its_runbook_is():
    text = shown(firing=[ALERT])
    assert line(text, "FIRING") == "VigilQualityUnderFloor of digits, critical, for 2 min"
    assert "It is under its floor." in text
    assert line(text, "runbook") == "https://runbooks.example/X"


def test_a_change_after_the_last_scrape_is_no_contradiction():
    late = replace(GOOD, promoted="20260103-000000-cccccccc", scraped_s=NOW - 200)
    assert (
        line(shown(late), "as promoted")
        == "not seen yet: promoted is 20260103-000000-cccccccc, since after the last scrape"
    )
    assert line(shown(replace(late, scraped_s=NOW - 170)), "as promoted") == "no: promoted is 20260103-000000-cccccccc"


def test_the_tile_does_not_say_yes_where_a_model_below_it_says_no(home, publish, monkeypatch):
    aliases.promote(publish().tag, "first")

    def ask(_, query):
        ago = Sample({}, time.time() - 5)
        live = Sample({"model": "tiny", "version": "old", "provider": "CPUExecutionProvider"}, 1.0)
        said = {status.SCRAPED: ago, status.LIVE.format(model=".*"): live}
        return [said[query]] if query in said else [Sample({}, 0.0)] if "vigil_model_target_info" in query else []

    monkeypatch.setattr(api, "instant", ask)
    monkeypatch.setattr(api, "notified", lambda _: [])
    monkeypatch.setattr(api, "pending", lambda _: [])
    found = status.read("", *["http://127.0.0.1:1"] * 4)
    (tile,) = (one for one in found.tiles if one.key == "as_promoted")
    assert (tile.text, tile.judgement) == ("yes when last scraped, not by the alias file here: tiny", "warning")
    assert line(page.text(found, False), "as promoted").startswith("not seen yet: promoted is 20")


def test_a_promoted_model_that_no_server_serves_turns_no_tile():
    tile = tiles.Tile("As promoted?", "yes", "good", [])
    elsewhere = replace(GOOD, name="elsewhere", live=[])
    assert status._agreed([tile], [GOOD, elsewhere]) == [tile]


def test_a_promoted_model_that_no_server_serves_is_red_only_where_none_serves_another():
    elsewhere = replace(GOOD, name="elsewhere", live=[])
    calm = page.text(Status(NOW, [], [GOOD, elsewhere], []), True)
    assert line(calm, "model elsewhere") == "nothing is live"
    nobody = page.text(Status(NOW, [], [replace(GOOD, live=[]), elsewhere], []), True)
    assert line(nobody, "model elsewhere") == line(nobody, "model digits") == "\x1b[31mnothing is live\x1b[0m"


def test_what_others_wrote_can_neither_move_the_cursor_nor_hide_a_line():
    hostile = "fine\x1b[2A\x1b[2K\r\x9b1A\u202e\nto undo  rm -rf"
    change = replace(CHANGE, why=hostile, who=hostile)
    firing = replace(ALERT, labels={"model": hostile}, annotations={"summary": hostile, "runbook_url": hostile})
    text = page.text(Status(NOW, [], [replace(GOOD, changed=change)], [firing], [hostile]), False)
    assert all(one.isprintable() for line in text.split("\n") for one in line)
    assert len(text.splitlines()) == len(shown(firing=[ALERT]).splitlines()) + 2  # an empty one and the problem


@pytest.mark.parametrize(
    ("firing", "problems", "code"),
    [([], [], 0), ([ALERT], [], 1), ([replace(ALERT, muted=True)], [], 0), ([ALERT], ["no answer"], 2)],
)
def test_the_exit_status_says_whether_something_fires_that_nobody_has_muted(firing, problems, code):
    assert Status(NOW, [], [GOOD], firing, problems).code == code


def test_tiles_are_read_with_the_units_words_and_thresholds_of_the_dashboard():
    answers = {"vigil_model_target_info": 0.0, "vigil_ready": 0.5, "slo_budget_left": -0.1, "monitor_age": 1.25}

    def ask(query):
        assert not re.search(r"\$(?!\d)", query)
        return [Sample({}, value) for part, value in answers.items() if part in query][:1]

    found = {tile.key: tile for tile in tiles.read(ask, "")}
    assert (found["as_promoted"].text, found["as_promoted"].judgement) == ("yes", "good")
    assert (found["servers_ready"].text, found["servers_ready"].judgement) == ("50 %", "warning")
    assert (found["budget_left"].text, found["budget_left"].judgement) == ("-10 %", "bad")
    assert (found["monitor_age"].text, found["monitor_age"].judgement) == ("1.25 intervals", "good")


def test_where_no_server_is_scraped_nothing_is_live_and_nobody_says_that_there_is_no_alias():
    found = {tile.key: tile.text for tile in tiles.read(lambda _: [], "")}
    assert (found["live"], found["as_promoted"], found["monitor_age"]) == ("nothing is live", "not known", "no monitor")


def test_the_first_row_asks_the_same_in_every_profile():
    first, second = (tiles.first_row(dashboards(profile, MONITORS)["oncall"]) for profile in (PRODUCTION, DEMO))
    assert len(first) >= 8
    assert [p["targets"] for p in first] == [p["targets"] for p in second]


def test_every_metric_that_is_asked_for_is_produced_by_somebody():
    known = promql.declared()
    asked = [status.LIVE, status.SHARE_OF_LIMIT, status.DRIFTED]
    asked += [status.QUALITY.replace("{what}", what) for what in status.MEASURED]
    for query in asked:
        plain = query.replace("{{", "{").replace("}}", "}").replace("{model}", ".*")
        assert promql.unknown(plain, known) == set()


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("localhost:9090", "http://localhost:9090"), ("https://prometheus.example/x/", "https://prometheus.example/x"),
    ],
)  # fmt: skip
def test_an_address_may_be_a_host_with_a_port_or_a_url(text, url):
    assert api.address(text, "VIGIL_PROMETHEUS") == url


@pytest.mark.parametrize("text", ["ftp://x", "http://", "://", "http://[::1", "host:99999", "host:x"])
def test_what_is_no_address_is_refused_by_the_name_of_its_variable(text):
    with pytest.raises(StackError, match="VIGIL_PROMETHEUS: .* is no address; accepted are HOST:PORT"):
        api.address(text, "VIGIL_PROMETHEUS")


@pytest.mark.parametrize("text", ["0", "nan", "x", "1e9"])
def test_how_often_it_is_shown_has_bounds(text, capsys):
    with pytest.raises(SystemExit):
        vigil.main(["status", "--every-s", text])
    assert "accepted are 0.1 to 86400 seconds" in capsys.readouterr().err


def test_where_nothing_is_live_drift_and_quality_are_unknown_and_not_those_of_before():
    text = shown(replace(GOOD, live=[], drift=None, quality=[]))
    assert line(text, "drift") == line(text, "quality") == "unknown: nothing is live"


def test_a_page_that_waits_is_told_as_pending():
    text = page.text(Status(NOW, [], [GOOD], [], pending=[ALERT]), False)
    assert line(text, "pending") == "VigilQualityUnderFloor of digits, critical, for 2 min" and "FIRING" not in text


def test_a_page_that_waits_since_prometheus_started_says_so_and_stays():
    def told(since_s, started_s):
        status = Status(NOW, [], [GOOD], [], pending=[replace(ALERT, since_s=since_s)], started_s=started_s)
        return page.text(status, False)

    fresh = told(NOW - 23, NOW - 30)
    assert line(fresh, "pending") == "VigilQualityUnderFloor of digits, critical, for 23 s"
    assert "Prometheus started 30 s ago: it may be that it had not scraped yet; look again in a minute" in fresh
    assert "Prometheus started" not in told(NOW - 23, NOW - 90) + told(NOW - 23, None)


def test_budgets_of_servers_that_are_gone_are_unknown(home, monkeypatch):
    """What Prometheus still knows 5 minutes after the last server was killed."""

    def ask(_, query):
        old = {"count(up": 0.0, "slo_errors": 0.0, "slo_budget_left": 1.0, "drift_z": 3.0}
        return [Sample({"model": "m", "signal": "s", "window": "short"}, v) for part, v in old.items() if part in query]

    absent = Firing("VigilAbsent", "critical", {}, {}, NOW, False)
    ticket = replace(absent, name="VigilInstanceDown", severity="warning")
    monkeypatch.setattr(api, "instant", ask)
    monkeypatch.setattr(api, "notified", lambda _: [])
    monkeypatch.setattr(api, "pending", lambda _: [absent, ticket])
    found = status.read("", *["http://127.0.0.1:1"] * 4)
    texts = {tile.key: (tile.text, tile.judgement) for tile in found.tiles}
    assert {texts[key] for key in status.BLIND} == {("unknown: no server is scraped now", "")}
    assert [one.name for one in found.pending] == ["VigilAbsent"] and found.code == 0
