import re
from pathlib import Path

import pytest

from demo.stack import get
from grafana import build, metric_table
from tests.grafana import promql

PAGE = Path(__file__).resolve().parents[2] / "docs/metrics.md"
ROWS = re.findall(r"^\| `([\w:]+)` \|", PAGE.read_text(), re.MULTILINE)
PRINTED_BY = {
    "service": metric_table.of_service() + metric_table.of_processes(),
    "monitor": metric_table.of_monitor() + metric_table.of_processes(),
}


def test_the_page_is_what_the_code_declares():
    assert build.documents() == {"../docs/metrics.md": PAGE.read_text()}
    assert len(set(ROWS)) == len(ROWS) > 100


def test_check_names_the_page_when_a_metric_changes(monkeypatch, capsys):
    monkeypatch.setattr(build, "documents", lambda: {"../docs/metrics.md": "of another day"})
    assert build.main(["--check"]) == 1
    assert "../docs/metrics.md" in capsys.readouterr().err


@pytest.mark.parametrize("program", PRINTED_BY)
def test_the_page_has_what_a_program_prints_and_nothing_else(watched, program):
    text = get(watched.ports[program], "/metrics")[1].decode()
    printed = dict(re.findall(r"^# TYPE (\w+) (\w+)$", text, re.MULTILINE))
    assert printed == {one.name: one.kind for one in PRINTED_BY[program]}


@pytest.mark.parametrize("program", PRINTED_BY)
def test_the_labels_are_those_that_are_printed(watched, eventually, program):
    declared = {one.name: set(one.labels) for one in PRINTED_BY[program]}

    def printed():
        text = get(watched.ports[program], "/metrics")[1].decode()
        found = re.findall(r"^(\w+)(?:\{(.*)\})? \S+$", text, re.MULTILINE)
        return found if len(found) > 60 else None

    for name, labels in eventually("labelled rows being measured", printed):
        family = name if name in declared else re.sub(r"_(bucket|sum|count)$", "", name)
        names = set(re.findall(r'(\w+)="(?:[^"\\]|\\.)*"', labels)) - {"le"}
        assert names == declared[family], name


def test_every_metric_has_words_of_its_own():
    for one in metric_table.of_service() + metric_table.of_monitor():
        assert len(one.text) > 8 and "|" not in one.text, one.name


def test_every_series_that_is_read_is_on_the_page():
    names = promql.declared()
    plain = {re.sub(r"_(bucket|sum|count)$", "", name) if name not in ROWS else name for name in names}
    assert plain == set(ROWS)
