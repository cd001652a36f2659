import contextlib
import html
import http.client
import re

import pytest

import vigil
from demo.stack import free_ports, get
from monitoring.monitor import runbooks
from monitoring.monitor.health import served

FOLDER = vigil.HERE / "grafana" / "runbooks"
NAMES = sorted(page.stem for page in FOLDER.glob("*.md"))


@pytest.fixture
def page():
    return lambda path: runbooks.pages(FOLDER)(path, "")


def test_every_runbook_is_a_page_with_all_its_code_and_none_of_its_fences(page):
    for name in NAMES:
        answer = page(f"/runbooks/{name}.md")
        text, source = html.unescape(answer.body.decode()), (FOLDER / f"{name}.md").read_text()
        assert answer.status == 200 and f"<title>{name}</title>" in text and "```" not in text
        for code in re.findall(r"```\w+\n(.*?)\n *```", source, re.DOTALL):
            assert code.strip() in text, name
        assert text.count("<h2>") == source.count("\n## ")


def test_the_ending_may_be_left_out_and_pages_link_one_another(page):
    answer = page("/runbooks/VigilAbsent")
    assert answer == page("/runbooks/VigilAbsent.md")
    assert b'<a href="/runbooks/VigilNotReady.md">VigilNotReady</a>' in page("/runbooks/VigilModelLoadFailing.md").body
    assert b'href="/runbooks/VigilAbsent.md"' not in answer.body  # a page does not link itself


def test_the_list_names_every_runbook_and_so_does_the_answer_for_what_is_none(page):
    for path, status in (("/runbooks/", 200), ("/runbooks", 200), ("/runbooks/VigilMadeUp.md", 404)):
        answer = page(path)
        assert answer.status == status
        assert re.findall(r">(\w+)</a>", answer.body.decode()) == NAMES


@pytest.mark.parametrize(
    "path", ["../README.md", "..%2fREADME.md", "VigilAbsent.md/..", "/etc/passwd", "<b>", "a" * 999]
)
def test_nothing_beside_the_runbooks_is_shown_and_nothing_that_was_asked_is_repeated(page, path):
    answer = page(f"/runbooks/{path}")
    assert answer.status == 404 and path.encode() not in answer.body


def test_a_folder_that_is_not_there_says_that_there_are_none(tmp_path):
    answer = runbooks.pages(tmp_path / "gone")("/runbooks/", "")
    assert answer.status == 200 and b"none here" in answer.body


def test_the_monitor_serves_them_over_http():
    (port,) = free_ports(1)
    with served("127.0.0.1", port, {runbooks.PREFIX: runbooks.pages(FOLDER)}):
        status, body = get(port, "/runbooks/VigilQualityUnderFloor.md?x=1")
    assert status == 200 and b"vigil rollback --why" in body


def test_a_head_is_answered_as_a_get_is_without_the_body():
    (port,) = free_ports(1)
    with served("127.0.0.1", port, {runbooks.PREFIX: runbooks.pages(FOLDER)}):
        for path, status in (("/runbooks/VigilAbsent.md", 200), ("/runbooks/VigilMadeUp.md", 404), ("/else", 404)):
            asked, headed = _ask(port, "GET", path), _ask(port, "HEAD", path)
            assert (asked.status, headed.status) == (status, status)
            assert headed.getheader("Content-Type") == asked.getheader("Content-Type")
            assert int(headed.getheader("Content-Length")) == len(asked.content) > 0
            assert headed.content == b""


def _ask(port, method, path):
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=10)) as connection:
        connection.request(method, path)
        answer = connection.getresponse()
        answer.content = answer.read()
        return answer
