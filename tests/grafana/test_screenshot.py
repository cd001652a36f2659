"""What is drawn is what Prometheus says; that the browser draws it is a proof, for it needs npm and Chromium."""

import time

import pytest

from demo.screenshot import draw
from grafana.boards.generated import dashboards
from grafana.profile import DEMO
from grafana.statement import MONITORS
from registry.errors import StackError

BOARD = dashboards(DEMO, MONITORS)["oncall"]
PATIENCE_S = 120
PNG = b"\x89PNG\r\n\x1a\n"
RUN = {
    "notices": [
        {"name": "VigilDataDrift", "status": "firing", "time_s": 100.5},
        {"name": "VigilQualityUnderFloor", "status": "firing", "time_s": 110.0},
        {"name": "VigilDataDrift", "status": "firing", "time_s": 111.0},
        {"name": "VigilQualityUnderFloor", "status": "resolved", "time_s": 120.0},
    ]
}


def test_the_moments_are_the_first_alert_on_drift_and_the_end_of_the_one_on_quality():
    drift, healed = draw.moments(RUN)
    assert drift.at_s == 100.5 and healed.at_s >= 120
    with pytest.raises(StackError, match="no VigilDataDrift that is firing; a demo with Prometheus"):
        draw.moments({"notices": []})


def test_where_prometheus_said_nothing_a_line_has_a_gap():
    assert draw.broken([[1.5, "4"], [2.5, "5"], [6.5, "6"], [7.5, "7"]]) == [
        [1.5, "4"], [2.5, "5"], [3.5, "NaN"], [6.5, "6"], [7.5, "7"],
    ]  # fmt: skip
    assert draw.broken([]) == []


def test_no_choice_is_left_in_a_query():
    for panel in BOARD["panels"]:
        for target in panel.get("targets", ()):
            assert "$" not in draw.filled(target["expr"], BOARD).replace("$1", "")


def test_every_panel_is_given_what_prometheus_says(watched, eventually):
    def ask(query, span):
        return draw._asked(watched.ports["prometheus"], query, span)

    panels = {panel["title"]: panel for panel in BOARD["panels"] if panel["type"] != "row"}

    def drawn():
        said = draw.answers(BOARD, ask, time.time())
        ready, codes = (said[panels[title]["id"]]["A"] for title in ("Servers ready", "Requests by code"))
        whole = [float(one["value"][1]) for one in ready] == [1.0]
        return whole and {"200", "422"} <= {one["metric"]["code"] for one in codes} and codes

    codes = eventually("one server, which is ready, and the codes of its answers", drawn, PATIENCE_S)
    assert all(one["values"][-1][0] - one["values"][0][0] <= draw.WINDOW_S for one in codes)


def test_what_a_run_left_behind_can_be_asked_again(watched, eventually):
    eventually("a server in Prometheus", lambda: watched.ask("vigil_ready"), PATIENCE_S)
    with draw.prometheus(watched.folder / "data") as ask:
        found = ask("vigil_ready", {"start": time.time() - 60, "end": time.time(), "step": "1s"})
        assert found
        with pytest.raises(StackError, match="parse error"):
            ask("rate(", {"time": time.time()})


def test_a_fetch_that_failed_is_told_and_done_again(tmp_path, monkeypatch):
    npm = tmp_path / "npm"
    npm.write_text(
        f'#!/bin/sh\necho "$1" >> {tmp_path}/asked\nmkdir -p node_modules\n'
        f'[ "$1" = run ] || [ -e {tmp_path}/network ] || {{ echo no network >&2; exit 3; }}\n'
    )
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr(draw, "BUILD", tmp_path / "build")
    with pytest.raises(StackError, match="npm install .*: exit status 3: no network"):
        draw._bundle()
    (tmp_path / "network").touch()
    draw._bundle()
    draw._bundle()
    assert (tmp_path / "asked").read_text().split() == ["install", "install", "run", "run"]


@pytest.mark.proof
def test_a_picture_is_drawn(watched, eventually, tmp_path):
    if not (draw.BUILD / draw.STAMP).exists():
        pytest.skip("Grafana's UI library is not here; `make pictures` fetches it")
    draw._bundle()
    eventually("a server in Prometheus", lambda: watched.ask("vigil_ready"), PATIENCE_S)
    moment = draw.Moment("oncall", time.time(), "in a test")
    draw.draw(
        BOARD, moment, lambda query, span: draw._asked(watched.ports["prometheus"], query, span), tmp_path / "a.png"
    )
    drawn = (tmp_path / "a.png").read_bytes()
    assert drawn.startswith(PNG) and len(drawn) > 100_000  # an empty page has 20 kB
