"""Whether the fast lane is taken only where it does what the other one does, and is told where it is not."""

import asyncio

import pytest
import uvicorn.config
from tiny_release import make_draft, make_files
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from registry import aliases, store
from serving.http import Reply
from serving.lanes import check
from serving.lanes.asgi import App
from serving.lanes.fast import FastProtocol
from serving.lanes.guard import GuardedProtocol
from serving.lanes.together import Together
from serving.server import Server
from serving.settings import Settings

USUAL = "uvicorn.protocols.http.auto:AutoHTTPProtocol"


@pytest.fixture(autouse=True)
def as_in_a_new_process(monkeypatch):
    monkeypatch.setitem(uvicorn.config.HTTP_PROTOCOLS, "auto", USUAL)
    if "service" in vars(FastProtocol):
        monkeypatch.delattr(FastProtocol, "service")
    yield
    GuardedProtocol.service, FastProtocol.enabled = None, False
    FastProtocol.forget()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A store with a champion."""
    home = tmp_path_factory.mktemp("check")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(home))
        aliases.promote(store.publish(make_draft(), make_files(home / "files")).tag, "first")
    return home


@pytest.fixture
def lane(place, monkeypatch):
    """Return a function that starts a service in this process and gives what it says of its lane, and its counts."""
    monkeypatch.setenv("BENTOML_HOME", str(place))

    def start(**settings):
        return asyncio.run(_told(Settings(record=False, threads=1, **settings)))

    return start


async def _told(settings):
    check.install(settings)
    server = Server(settings)

    async def inner(scope, receive, send):
        await send({"type": "lifespan.startup.complete"})
        await send({"type": "lifespan.shutdown.complete"})

    seen = []

    async def send(message):
        if message["type"] == "lifespan.startup.complete":
            value = server.metrics.registry.get_sample_value
            seen.extend(lane for lane in ("fast", "asgi") if value("vigil_lane_info", {"lane": lane}) == 1)
            seen.append(FastProtocol.enabled)
            server.account.settle()
            seen.append(value("vigil_requests_total", {"route": "/v1/predict", "code": "422"}))

    await App(inner, lambda: server)({"type": "lifespan"}, None, send)
    return seen


def why(caplog):
    return [record.why for record in caplog.records if record.message == "fast_lane_off"]


def test_where_both_lanes_answer_alike_the_fast_one_is_taken_and_the_trial_is_not_counted(lane, caplog):
    assert lane() == ["fast", True, None]
    assert why(caplog) == []


def test_the_asgi_lane_is_taken_without_a_warning_where_it_is_asked_for(lane, caplog):
    assert lane(lane="asgi") == ["asgi", False, None]
    assert why(caplog) == []


@pytest.mark.parametrize("name", check.NEEDED)
def test_a_uvicorn_that_lacks_a_part_keeps_its_own_protocol(monkeypatch, caplog, name):
    found = {part: getattr(HttpToolsProtocol, part) for part in check.NEEDED if part != name}
    monkeypatch.setattr("uvicorn.protocols.http.httptools_impl.HttpToolsProtocol", type("Other", (), found))
    check.install(Settings())
    assert uvicorn.config.HTTP_PROTOCOLS["auto"] == USUAL
    assert len(why(caplog)) == 1 and name in why(caplog)[0]


def test_a_service_with_such_a_uvicorn_takes_the_asgi_lane(lane, monkeypatch, caplog):
    monkeypatch.setattr("uvicorn.protocols.http.httptools_impl.HttpToolsProtocol", type("Other", (), {}))
    assert lane() == ["asgi", False, None]
    assert len(why(caplog)) == 1


def other_answer(self, entries):
    for protocol, _, _, _ in entries:
        protocol.send(Reply(200, b"{}"))


def bug(self, entries):
    raise RuntimeError("a bug")


def silence(self, entries):
    pass


@pytest.mark.parametrize(
    ("broken", "reason"),
    [(other_answer, "the lanes answer differently"), (bug, "was not answered"), (silence, "was not answered")],
)
def test_a_fast_lane_that_answers_differently_or_not_at_all_is_not_taken(lane, monkeypatch, caplog, broken, reason):
    monkeypatch.setattr(Together, "_go", broken)
    monkeypatch.setattr(check, "ANSWER_S", 0.5)
    assert lane() == ["asgi", False, None]
    (said,) = why(caplog)
    assert reason in said


def test_a_fast_lane_that_leaves_everything_to_uvicorn_is_not_called_fast(lane, monkeypatch, caplog):
    monkeypatch.setattr(FastProtocol, "data_received", HttpToolsProtocol.data_received)
    assert lane() == ["asgi", False, None]
    assert why(caplog) == ["the fast lane did not take the probe"]
