"""What the tests read of a service is what it said: an answer that failed or never came is no 0 and no version."""

import pytest
from listening import Quiet, answering, listening

from demo.stack import free_ports
from tests.conftest import Service

PAGE = b'ready 1\nrows{model="a"} 2\nrows{model="b"} 3\nrows_more 5\n'


def service_at(address):
    return Service([], f"http://{address}", None)


class Recovering(Quiet):
    """Ends a first connection without an answer, refuses a second one, and then gives the page."""

    seen: list

    def do_GET(self):  # noqa: N802
        self.seen.append(self.path)
        if len(self.seen) == 1:
            self.close_connection = True
            return
        self.send_response(503 if len(self.seen) == 2 else 200)
        self.end_headers()
        self.wfile.write(b"rows 7\n" if len(self.seen) == 2 else PAGE)


def test_a_metric_is_that_of_a_page_that_came_whole_however_often_it_is_asked_for():
    seen = []
    with listening(type("Once", (Recovering,), {"seen": seen})) as address:
        assert service_at(address).metric("rows") == 5
    assert len(seen) == 3


def test_a_metric_is_summed_over_the_series_with_the_labels_and_0_where_there_is_none():
    with answering(PAGE, kind="text/plain") as address:
        service = service_at(address)
        assert [service.metric("rows"), service.metric("rows", model="a"), service.metric("row")] == [5, 2, 0]


def test_a_page_that_never_comes_fails_instead_of_counting_as_0(monkeypatch):
    monkeypatch.setattr("tests.conftest.until", lambda what, look: pytest.fail(what) if not look() else None)
    with answering(PAGE, 401, "text/plain") as address, pytest.raises(pytest.fail.Exception, match="a page of metrics"):
        service_at(address).metric("rows")


def test_no_answer_is_no_version_and_no_reason_and_raises_nothing():
    service = service_at(f"127.0.0.1:{free_ports(1)[0]}")
    assert (service.call("/readyz"), service.version(), service.reason()) == ((0, None), "", "")
    with answering(b'{"error": "none"}', 503) as address:
        assert service_at(address).version() == ""
    with answering(b'{"reason": "no champion", "version": "v1"}') as address:
        assert (service_at(address).version(), service_at(address).reason()) == ("v1", "")
