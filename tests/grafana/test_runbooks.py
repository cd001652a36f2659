import ast
import re
import shlex
from pathlib import Path

import pytest

import vigil
from grafana import rules
from grafana.profile import PRODUCTION
from tests.grafana import promql

ALERTS = sorted({alert.name for alert in rules.alerts(PRODUCTION)})
PARTS = [
    "Meaning", "Impact", "Is it us?", "Diagnosis", "Mitigation", "Escalation", "After", "False alarms",
]  # fmt: skip


def blocks(text, language):
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL)
    return [block.strip() for _, block in found]


def test_every_alert_has_a_runbook_and_every_runbook_an_alert(grafana_folder):
    assert sorted(page.stem for page in (grafana_folder / "runbooks").glob("*.md")) == ALERTS


@pytest.mark.parametrize("name", ALERTS)
def test_a_runbook_has_every_part_in_order(grafana_folder, name):
    text = (grafana_folder / "runbooks" / f"{name}.md").read_text()
    assert text.startswith(f"# {name}\n")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == PARTS
    assert re.search(r"^1\. ", text.split("## Diagnosis")[1], re.MULTILINE)
    assert text.count("```promql") >= 3


def test_every_query_of_a_runbook_can_be_pasted(grafana_folder, check_queries):
    found = [q for page in (grafana_folder / "runbooks").glob("*.md") for q in blocks(page.read_text(), "promql")]
    assert len(found) > 80
    assert check_queries(found) == ""


def test_requests_are_counted_by_every_protocol(grafana_folder):
    for page in (grafana_folder / "runbooks").glob("*.md"):
        assert 'route="/v1/predict"' not in page.read_text(), page.name


def test_every_metric_in_a_runbook_is_produced_by_somebody(grafana_folder):
    known = promql.declared()
    for page in (grafana_folder / "runbooks").glob("*.md"):
        for query in blocks(page.read_text(), "promql"):
            assert promql.unknown(query, known) == set(), page.name


def test_every_command_of_a_runbook_is_one_that_vigil_knows(grafana_folder):
    commands = [c for page in (grafana_folder / "runbooks").glob("*.md") for c in blocks(page.read_text(), "sh")]
    assert len(commands) > 15
    for command in commands:
        words = [word for word in shlex.split(command) if not word.startswith("VIGIL_")]
        assert words[0] == "vigil", command
        assert vigil.parser().parse_args(words[1:]).run


def test_no_runbook_starts_a_server_or_monitor_in_another_way_than_it_was_started(grafana_folder):
    for page in (grafana_folder / "runbooks").glob("*.md"):
        text = page.read_text()
        assert "0.0.0.0" not in text, page.name
        assert not [c for c in blocks(text, "sh") if re.search("vigil (serve|watch)", c)], page.name


def test_the_runbooks_of_a_service_that_is_down_know_of_several_champions(grafana_folder):
    for name in ("VigilNotReady", "VigilAbsent"):
        text = (grafana_folder / "runbooks" / f"{name}.md").read_text().split("## Mitigation")[1]
        assert "VIGIL_MODELS=NAME" in text


def test_the_mitigation_of_a_bad_release_is_the_rollback(grafana_folder):
    for name in ("VigilQualityUnderFloor", "VigilPredictionsCollapsed", "VigilErrorBurn", "VigilWrongVersionServed"):
        text = (grafana_folder / "runbooks" / f"{name}.md").read_text()
        assert "vigil rollback --why" in text.split("## Mitigation")[1]


PROGRAMS = {"vigil", "curl", "systemctl", "openssl", "du", "dmesg", "ps", "amtool", "promtool", "python"}


def quoted(text):
    """Return what a page quotes as a message: words in backticks that are neither a command nor an option."""
    plain = re.sub(r"^( *)```.*?^\1```$", "", text, flags=re.MULTILINE | re.DOTALL)
    spans = [span.split() for span in re.findall(r"`([^`]+)`", plain)]
    return [" ".join(span) for span in spans if len(span) > 2 and span[0] not in PROGRAMS and span[0][0] != "-"]


def test_a_message_that_a_runbook_quotes_is_one_that_vigil_prints(grafana_folder):
    root = Path(vigil.__file__).parent
    files = [file for room in ("registry", "serving", "monitoring", "grafana") for file in (root / room).rglob("*.py")]
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text()))]
    said = {node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    found = [one for page in (grafana_folder / "runbooks").glob("*.md") for one in quoted(page.read_text())]
    assert "models have a champion or follow a place, none is named" in found
    for message in found:
        fixed = re.split(r"\b[A-Z]+_[A-Z]+\b|^(?:age|rollback)\b", message)  # the rest is an example of what is put in
        assert all(any(part in text for text in said) for part in fixed), message
