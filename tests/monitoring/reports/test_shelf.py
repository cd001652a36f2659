import os
import re
import threading
from dataclasses import replace
from html.parser import HTMLParser

import pytest

from monitoring.reports import index, shelf, web
from monitoring.reports.findings import Findings, Quality
from monitoring.reports.shelf import Retention
from registry.errors import DataError

TAGS = ("cars:20260101-000000-0000000a", "cars:20260201-000000-0000000b", "bank:20260101-000000-0000000c")
DAY_S = 86_400.0
KEEP = Retention()
BAD = Quality("accuracy", 9, 0.1, 0.0, 0.2, 0.9)
NOW_S = 1_790_000_000.0
SOUND = Findings(TAGS[0], "the day", NOW_S, DAY_S, 500, 400, {}, {"age": 0.4}, {}, "", None, "")


def put(folder, tag=TAGS[0], at_s=NOW_S, kind="daily", retention=KEEP, **changed):
    out = shelf.place(folder, tag, kind, at_s)
    out.write_text(f"the page of {tag}")
    shelf.add(folder, replace(SOUND, tag=tag, time_s=at_s, out=str(out), **changed), retention)
    return out


class Seen(HTMLParser):
    """The links of a page, the words of its cells and everything that would be fetched."""

    def __init__(self, text):
        super().__init__()
        self.links, self.tags, self.cells, self.inside = [], set(), [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.links += [value for name, value in attrs if name in ("href", "src")]
        if tag == "td":
            self.cells.append("")
        self.inside = tag == "td" or (self.inside and tag in ("a", "b"))

    def handle_endtag(self, tag):
        self.inside = self.inside and tag != "td"

    def handle_data(self, data):
        if self.inside:
            self.cells[-1] += data


def test_the_index_lists_each_report_by_model_and_version_newest_first(tmp_path):
    for tag, at_s in zip(TAGS, (NOW_S, NOW_S - 60, NOW_S - 120), strict=True):
        put(tmp_path, tag, at_s)
    put(tmp_path, TAGS[0], NOW_S - 600, "alert")
    text = (tmp_path / "index.html").read_text()
    links = Seen(text).links
    assert links == sorted(links, key=lambda place: (place.split("/")[0], TAGS.index(_tag(place)), -_time(place)))
    assert len(links) == 4 and all((tmp_path / place).read_text() == f"the page of {_tag(place)}" for place in links)
    assert text.index('id="bank"') < text.index('id="cars"')


def _tag(place):
    model, version, _ = place.split("/")
    return f"{model}:{version}"


def _time(place):
    return int("".join(place.split("/")[2].split("-")[:2]))


def test_a_row_of_the_index_says_verdict_columns_quality_and_who_asked(tmp_path):
    quality = Quality("accuracy", 300, 0.5, 0.45, 0.55, 0.9)
    put(tmp_path, reason="accuracy under its floor: 0.550 is under 0.900", kind="alert", quality=quality,
        drifted={"age": 1e-3, "city": 1e-9}, broken={"income": "holds no value"}, window_s=5400.0)  # fmt: skip
    cells = Seen((tmp_path / "index.html").read_text()).cells
    assert cells[1:] == [
        "quality under its floor", "city, age", "income holds no value", "0.500 (0.450-0.550) on 300 rows, floor 0.900",
        "500 in 90m", "accuracy under its floor: 0.550 is under 0.900",
    ]  # fmt: skip
    assert re.fullmatch(r"2026-09-21 \d\d:\d\d", cells[0])


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({}, ("green", "no drift")),
        ({"drifted": {"a": 0.0}}, ("amber", "1 column drifted")),
        ({"broken": {"a": "is absent", "b": "is absent"}}, ("amber", "2 columns left out")),
        ({"empty": "no rows"}, ("grey", "nothing to compare")),
        ({"drifted": {"a": 0.0}, "quality": BAD}, ("red", "quality under its floor")),
        ({"quality": replace(BAD, upper=0.95)}, ("green", "no drift")),
    ],
)
def test_the_verdict_is_the_worst_of_what_was_found(changed, said):
    assert index.verdict(replace(SOUND, **changed)) == said


def test_the_index_needs_no_other_file_and_shows_names_as_they_are(tmp_path):
    put(tmp_path, reason="<script>alert(1)</script>", drifted={"<b>": 0.0})
    text = (tmp_path / "index.html").read_text()
    seen = Seen(text)
    assert not seen.tags & {"script", "link", "img", "iframe", "b><"} and "http" not in text
    assert "<b>" in seen.cells[2] and "<script>alert(1)</script>" in seen.cells[6]
    assert "prefers-color-scheme: dark" in text


def test_an_empty_folder_has_an_index_that_says_how_a_report_comes(tmp_path):
    assert b"vigil report" in web.answer(tmp_path, "/reports/")


def test_the_newest_are_kept_by_count_for_each_model_and_none_beyond_its_days(tmp_path):
    few = Retention(most=3, days=30)
    for hour in range(5):
        put(tmp_path, at_s=NOW_S + 3600 * hour, retention=few)
    put(tmp_path, TAGS[2], NOW_S - 29 * DAY_S, retention=few)
    assert [(found.model, found.time_s) for _, found in shelf.kept(tmp_path)] == [
        *(("cars", NOW_S + 3600 * hour) for hour in (4, 3, 2)),
        ("bank", NOW_S - 29 * DAY_S),
    ]
    put(tmp_path, at_s=NOW_S + 2 * DAY_S, retention=few)
    assert {found.model for _, found in shelf.kept(tmp_path)} == {"cars"}
    assert not (tmp_path / "bank").exists() or not list((tmp_path / "bank").glob("*"))
    left = {path.stem for path in tmp_path.rglob("*.html")} - {"index"}
    assert left == {path.stem for path in tmp_path.rglob("*.json")} and len(left) == 3


def test_a_page_whose_findings_never_came_is_not_listed_and_goes_after_a_day(tmp_path):
    orphan = shelf.place(tmp_path, TAGS[0], "daily", NOW_S - 3 * DAY_S)
    orphan.write_text("half a report")
    put(tmp_path)
    assert orphan.exists() and len(shelf.kept(tmp_path)) == 1
    os.utime(orphan, (NOW_S - 2 * DAY_S,) * 2)
    put(tmp_path)
    assert not orphan.exists()


def test_reports_added_at_once_are_all_in_the_index(tmp_path):
    adds = [threading.Thread(target=put, args=(tmp_path, TAGS[i % 3], NOW_S + i)) for i in range(24)]
    for one in adds:
        one.start()
    for one in adds:
        one.join()
    assert len(Seen((tmp_path / "index.html").read_text()).links) == 24


def test_findings_that_cannot_be_read_hide_no_other_report(tmp_path):
    put(tmp_path)
    torn = shelf.place(tmp_path, TAGS[1], "asked", NOW_S).with_suffix(".json")
    for text in ("", "{}", "[]", '{"tag": 1'):
        torn.write_text(text)
        assert [found.tag for _, found in shelf.kept(tmp_path)] == [TAGS[0]]


def test_the_server_answers_the_index_and_its_pages_and_nothing_else_of_the_disk(tmp_path):
    folder = tmp_path / "reports"
    page = put(folder)
    (tmp_path / "secret.html").write_text("secret")
    (folder / "secret.html").write_text("secret")
    version = page.parent
    link = version / "20260101-000000-asked.html"
    link.symlink_to(tmp_path / "secret.html")
    place = page.relative_to(folder).as_posix()
    assert web.answer(folder, f"/reports/{place}") == f"the page of {TAGS[0]}".encode()
    assert (
        web.answer(folder, "/reports/")
        == web.answer(folder, "/reports/index.html")
        == (folder / "index.html").read_bytes()
    )
    for bad in (
        "../secret.html", "secret.html", ".lock", place.replace(".html", ".json"), f"/{place}", f"{place}/", "cars",
        place.replace("cars", ".."), f"cars/../{place}", link.relative_to(folder).as_posix(), place + "%00", "cars/",
        "cars/20260101-000000-0000000a/20260101-000000-daily.html", place + "\n", "//etc/passwd",
    ):  # fmt: skip
        assert web.answer(folder, f"/reports/{bad}") is None, bad


def test_the_folder_is_the_variable_or_beside_the_log(tmp_path, monkeypatch):
    assert shelf.usual_place(tmp_path / "log.sqlite") == tmp_path / "reports"
    monkeypatch.setenv("VIGIL_REPORTS", "/elsewhere")
    assert str(shelf.usual_place(tmp_path / "log.sqlite")) == "/elsewhere"


def test_a_folder_that_nobody_may_look_into_is_refused_by_its_name(monkeypatch, tmp_path):
    def closed(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(shelf.Path, "exists", closed)
    with pytest.raises(DataError, match=r"closed: no reports can be kept there: .*Permission denied.*VIGIL_REPORTS"):
        shelf.demand(tmp_path / "closed")


def test_a_folder_of_a_name_that_no_disk_takes_is_refused_with_the_cure(tmp_path):
    with pytest.raises(DataError, match=r"no reports can be kept there: .*too long.*; name a folder .* VIGIL_REPORTS"):
        shelf.demand(tmp_path / ("x" * 300))
