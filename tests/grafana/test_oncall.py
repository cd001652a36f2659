import re

import pytest

import vigil
from grafana.boards.board import dashboard
from grafana.boards.oncall import oncall
from grafana.profile import PRODUCTION
from grafana.statement import MONITORS


@pytest.fixture(scope="module")
def panels():
    board = dashboard(oncall(PRODUCTION), MONITORS)
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def test_the_eight_tiles_fill_the_first_line(panels):
    tiles = [panel["gridPos"] for panel in panels[:8]]
    assert [panel["type"] for panel in panels[:8]] == ["stat"] * 8
    assert {tile["y"] for tile in tiles} == {1}
    assert sum(tile["w"] for tile in tiles) == 24


def test_below_the_tiles_stands_what_fires(panels):
    assert panels[8]["type"] == "table" and "ALERTS" in panels[8]["targets"][0]["expr"]


def test_and_the_command_that_undoes_a_release(panels):
    (target,) = panels[9]["targets"]
    (said,) = re.findall(r'"command", "(vigil [^",]*), to"', target["expr"])
    command = said.replace("$1", "digits").split()
    assert command[0] == "vigil" and vigil.parser().parse_args([*command[1:], "--why", "VigilErrorBurn"]).run
    assert "vigil_model_rollback_info" in target["expr"]
