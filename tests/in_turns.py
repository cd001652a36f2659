"""Connections to a service of this process, so that what a turn of the event loop holds is certain."""

import asyncio
import contextlib
import json

import uvicorn.config
import uvicorn.server
from line import Line
from tiny_release import rows_of

from registry.release import InputSpec
from serving.lanes.fast import FastProtocol
from serving.server import Server
from serving.settings import Settings

ROW = InputSpec("float32", (6,))
ROWS = rows_of(ROW, 32, seed=3)


def request(row):
    body = row.tobytes()
    head = b"POST /v1/predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/octet-stream\r\n"
    return head + b"content-length: %d\r\n\r\n" % len(body) + body


def spoken(wire, rows, ident):
    """Return a request of rows (n, 6) in JSON or in the Open Inference Protocol, with JSON numbers or as bytes."""
    if wire == "json":
        said = {"rows": rows.tolist()} | ({"ids": [f"{ident}/{i}" for i in range(len(rows))]} if ident else {})
        return posted("/v1/predict", json.dumps(said).encode())
    tensor = {"name": "input", "datatype": "FP32", "shape": list(rows.shape)}
    if wire == "v2 json":
        said = {"id": ident, "inputs": [tensor | {"data": rows.ravel().tolist()}]}
        return posted("/v2/models/tiny/infer", json.dumps(said).encode())
    tensor["parameters"] = {"binary_data_size": rows.nbytes}
    asked = [{"name": "probabilities", "parameters": {"binary_data": True}}]
    said = json.dumps({"id": ident, "inputs": [tensor], "outputs": asked}).encode()
    length = b"inference-header-content-length: %d\r\n" % len(said)
    return posted("/v2/models/tiny/infer", said + rows.tobytes(), length)


def posted(path, body, more=b""):
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n".encode() + more
    return head + b"content-length: %d\r\n\r\n" % len(body) + body


@contextlib.asynccontextmanager
async def connected(count, **settings):
    """Give a service of this process, and as many connections to it as protocols and what they write to."""
    server = Server(Settings(record=False, threads=1, **settings))
    await server.start()
    FastProtocol.service, FastProtocol.enabled = server, True
    FastProtocol.forget()
    config = uvicorn.config.Config(lambda: None, log_config=None, lifespan="off", ws="none")
    config.load()
    state, lines = uvicorn.server.ServerState(), [Line() for _ in range(count)]
    protocols = [FastProtocol(config, state, {}) for _ in lines]
    try:
        for protocol, line in zip(protocols, lines, strict=True):
            protocol.connection_made(line)
        yield server, protocols, lines
    finally:
        for protocol in protocols:
            protocol.connection_lost(None)
        FastProtocol.service, FastProtocol.enabled = None, False
        FastProtocol.forget()
        await server.stop()
    assert server.hosts.only().admission.rows == 0


def runs_of(server):
    """Return how many runs of the model there were."""
    served = server.hosts.only().serving()
    total = server.metrics.batch_rows.labels(served.release.name, served.release.version)
    return sum(list(total._cells)[:-1])


async def answers(rows, prepare=lambda server, lines: None, look=lambda server: None, **settings):
    """Return what each of as many connections got, and how many runs of the model there were.

    rows: each is sent as it is if it is a request already.
    """
    async with connected(len(rows), **settings) as (server, protocols, lines):
        prepare(server, lines)
        for protocol, row in zip(protocols, rows, strict=True):
            protocol.data_received(row if isinstance(row, bytes) else request(row))
        await written(lines)
        look(server)
        return [line.written for line in lines], runs_of(server)


async def written(lines):
    """Wait until every line has an answer or is closed."""
    async with asyncio.timeout(20):
        while not all(line.written or line.closed for line in lines):
            await asyncio.sleep(0.001)


def status(answer):
    return int(answer.split(b" ")[1])


async def answer(protocol, line, content):
    """Return what is written to `line` for one request."""
    line.written = b""
    protocol.data_received(content)
    await written([line])
    return line.written
