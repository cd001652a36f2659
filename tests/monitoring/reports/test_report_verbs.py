import argparse
import json
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

import vigil
from monitoring.log import recorder
from monitoring.reports import report_verbs
from registry import aliases

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def log(home, publish):
    """Return the usual log of the store, which has a champion and holds one row of it, of long ago."""
    made = publish()
    aliases.promote(made.tag, "first")
    place = home / "vigil" / "log.sqlite"
    with closing(recorder.connect(place)) as connection, connection:
        connection.execute(recorder.PREDICTION, ("a", 1.0, made.name, made.version, "1", b"\0" * 40, b"\0" * 64))
    return place


@pytest.mark.parametrize(
    ("text", "seconds"), [("45s", 45), ("90m", 5400), ("24h", 86_400), ("7d", 604_800), ("1.5h", 5400)]
)
def test_a_length_of_time_is_a_number_and_a_unit(text, seconds):
    assert report_verbs.duration(text) == seconds


@pytest.mark.parametrize("text", ["", "24", "h", "-1h", "0m", "1w", "24 h", "nanh", "1e3s"])
def test_another_length_of_time_is_refused_with_what_is_accepted(text):
    with pytest.raises(argparse.ArgumentTypeError, match="accepted are lengths such as 45s, 90m, 24h or 7d"):
        report_verbs.duration(text)


def test_a_report_goes_into_the_folder_beside_the_log_and_its_index(log, capsys, monkeypatch):
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert vigil.main(["report", "--window", "90m", "--open"]) == 0
    said = capsys.readouterr().out.splitlines()
    (page,) = (log.parent / "reports").glob("tiny/*/*-asked.html")
    assert said[0].endswith(f": {page}") and "in the 90m before" in said[1]
    assert said[2] == page.as_uri()  # there is no browser to show it in
    assert page.name in (log.parent / "reports" / "index.html").read_text()


def test_a_file_of_its_own_leaves_the_folder_as_it_is_and_json_is_one_object(log, capsys, tmp_path):
    assert vigil.main(["report", "--out", str(tmp_path / "r.html"), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["out"] == str(tmp_path / "r.html") and said["window_s"] == 86_400 and said["rows"] == 0
    assert (tmp_path / "r.html").exists() and not (log.parent / "reports").exists()


def test_with_a_screen_the_page_is_opened_in_the_browser(log, tmp_path):
    browser, opened = tmp_path / "browser", tmp_path / "opened"
    browser.write_text(f'#!/bin/sh\nprintf %s "$1" > {opened}\n')
    browser.chmod(0o755)
    environment = os.environ | {"DISPLAY": ":0", "BROWSER": str(browser), "VIGIL_REPORTS": str(tmp_path / "kept")}
    command = [sys.executable, "-m", "vigil", "report", "--open"]
    said = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (page,) = (tmp_path / "kept").glob("tiny/*/*.html")
    assert opened.read_text() == page.as_uri() and page.as_uri() not in said


@pytest.mark.parametrize(
    ("text", "at_s"),
    [
        ("2026-01-31", 1_769_817_600),
        ("2026-01-31T12:00", 1_769_860_800),
        ("2026-01-31T12:00:00+02:00", 1_769_853_600),
        ("1769817600.5", 1_769_817_600.5),
    ],
)
def test_a_time_is_a_date_a_time_in_utc_or_a_number(text, at_s):
    assert report_verbs.moment(text) == at_s


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01", "nan", "inf"])
def test_another_time_is_refused_with_what_is_accepted(text):
    with pytest.raises(argparse.ArgumentTypeError, match="accepted are times such as 2026-01-31"):
        report_verbs.moment(text)


def test_a_replay_prints_what_fired_and_writes_its_page(log, capsys, tmp_path):
    assert vigil.main(["backtest", str(log), "--out", str(tmp_path / "b.html")]) == 0
    said = capsys.readouterr().out
    assert "1 rows, 0 with a label" in said and "no alert would have fired (production rules)" in said
    assert f"picture: {tmp_path / 'b.html'}" in said and "<svg" in (tmp_path / "b.html").read_text()
    assert vigil.main(["backtest", str(log), "--json", "--profile", "demo", "--model", "tiny"]) == 0
    (found,) = json.loads(capsys.readouterr().out)
    assert found["profile"] == "demo" and found["firings"] == [] and found["picture"] == ""
    assert vigil.main(["backtest", str(log), "--from", "2026-01-31"]) == 2
    assert "holds no row of tiny in the time that was asked for" in capsys.readouterr().err


def test_a_page_that_cannot_be_written_is_named_before_anything_is_read(log, capsys, tmp_path):
    assert vigil.main(["backtest", str(log), "--out", str(tmp_path / "no" / "b.html")]) == 2
    assert "there is no folder" in capsys.readouterr().err
