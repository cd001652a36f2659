import http.client
import threading

import pytest
from ending import ended

from demo.stack import free_ports
from monitoring.monitor import watch
from monitoring.monitor.parts import WatchSettings
from monitoring.reports import shelf


@pytest.fixture
def get(tmp_path, eventually):
    """Return a function that asks a running monitor for a path, as it stands, and gives (status, type, body)."""
    port, stop = free_ports(1)[0], threading.Event()
    settings = WatchSettings(tmp_path / "log.sqlite", port=port, interval_s=0.02, reports=tmp_path / "reports")
    thread = threading.Thread(target=watch.watch, args=(settings, stop))
    thread.start()

    def ask(path):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.headers["Content-Type"], answer.read()
        except (OSError, http.client.HTTPException):
            return 0, "", b""
        finally:
            connection.close()

    eventually("the monitor answering", lambda: ask("/reports/")[0])
    yield ask
    stop.set()
    ended(thread)


def test_the_monitor_serves_the_reports_and_no_other_file(get, tmp_path):
    assert get("/reports/")[0] == 200 and b"vigil report" in get("/reports/")[2]
    page = shelf.place(tmp_path / "reports", "cars:20260101-000000-0000000a", "daily", 1e9)
    page.write_text("a page")
    (tmp_path / "reports" / "secret.html").write_text("secret")
    (tmp_path / "secret.html").write_text("secret")
    place = page.relative_to(tmp_path / "reports").as_posix()
    assert get(f"/reports/{place}") == (200, "text/html; charset=utf-8", b"a page")
    assert get(f"/reports/{place}?x=1")[0] == 200
    for bad in ("secret.html", "../secret.html", "..%2fsecret.html", "cars/..%2f..%2fsecret.html", ".lock", "cars/"):
        status, _, body = get(f"/reports/{bad}")
        assert status == 404 and b"secret" not in body and b"/reports/" in body, bad
