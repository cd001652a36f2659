"""What a line of the log calls a request that failed by a bug: its id, or the pseudonym that its rows would have."""

import asyncio
import json

import pytest
import uvicorn.config
import uvicorn.server
from line import Line
from tiny_release import IMAGE, rows_of

from monitoring.log.pseudonym import Pseudonyms
from registry import aliases
from serving.lanes.asgi import App
from serving.lanes.fast import FastProtocol
from serving.server import Server
from serving.settings import Settings

IDENT = "order-of-a-person"
KEY = "a-key-of-the-test-0123456789"
BODY = json.dumps({"rows": rows_of(IMAGE, 1).tolist()}).encode()
HEAD = {"content-type": "application/json", "x-request-id": IDENT}


@pytest.fixture(params=["hash", "keep"])
def settings(request, publish, tmp_path):
    """The settings of a service whose policy hashes ids, or keeps them."""
    aliases.promote(publish().tag, "first")
    (tmp_path / "policy.toml").write_text(f'ids = "{request.param}"\n')
    return Settings(
        threads=1, log=str(tmp_path / "log.sqlite"), record_policy=str(tmp_path / "policy.toml"), record_key=KEY
    )


async def by_the_fast_lane(server):
    """Send one request and return the answer, with its status first."""
    FastProtocol.service, FastProtocol.enabled = server, True
    FastProtocol.forget()
    config = uvicorn.config.Config(lambda: None, log_config=None, lifespan="off", ws="none")
    config.load()
    protocol, line = FastProtocol(config, uvicorn.server.ServerState(), {}), Line()
    protocol.connection_made(line)
    headers = (HEAD | {"content-length": len(BODY)}).items()
    head = "".join(f"{name}: {value}\r\n" for name, value in headers)
    try:
        protocol.data_received(f"POST /v1/predict HTTP/1.1\r\n{head}\r\n".encode() + BODY)
        async with asyncio.timeout(20):
            while not line.written:
                await asyncio.sleep(0.001)
        return line.written.removeprefix(b"HTTP/1.1 ")
    finally:
        protocol.connection_lost(None)
        FastProtocol.service, FastProtocol.enabled = None, False
        FastProtocol.forget()


async def by_the_asgi_lane(server):
    """Send one request and return the answer, with its status first."""
    app = App(None, lambda: server)
    app._server = server
    said, left = [], [{"type": "http.request", "body": BODY}]

    async def receive():
        return left.pop() if left else await asyncio.Event().wait()

    async def send(message):
        said.append(message)

    headers = [(name.encode(), value.encode()) for name, value in HEAD.items()]
    scope = {"type": "http", "method": "POST", "path": "/v1/predict", "query_string": b"", "headers": headers}
    await app(scope, receive, send)
    return b"%d %b" % (said[0]["status"], said[1]["body"])


def broken_model(server):
    def run(*_):
        raise RuntimeError("the model fails")

    server.hosts.only().serving().engine.run = run


def bug(server):
    def begin(*_):
        raise RuntimeError("a bug")

    server.begin = begin


async def failed(settings, lane, breaks):
    server = Server(settings)
    await server.start()
    try:
        breaks(server)
        return await lane(server)
    finally:
        await server.stop()


@pytest.mark.parametrize("breaks", [broken_model, bug])
@pytest.mark.parametrize("lane", [by_the_fast_lane, by_the_asgi_lane])
def test_the_log_holds_no_id_that_a_policy_hides(settings, lane, breaks, caplog):
    answer = asyncio.run(failed(settings, lane, breaks))
    assert answer.startswith(b"500 ")
    (line,) = [record for record in caplog.records if record.message == "request_failed"]
    if settings.hidden is None:
        assert line.request_id == IDENT
    else:
        assert line.request_id == Pseudonyms(KEY.encode()).ident(IDENT)
        assert IDENT not in caplog.text + repr(vars(line))
