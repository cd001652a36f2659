"""The routes, as one ASGI application in front of BentoML's own pages.

/v1/predict (and /predict)  /v1/labels  /v1/model  /v1/models/NAME/card  /livez  /readyz  /metrics; all else
goes on to the inner application, which is BentoML's: documentation and schema.
"""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from monitoring.metrics import ServingMetrics, SignalCollector
from monitoring.recorder import Recorder, Records
from registry.errors import RequestError
from serving import cards, wire
from serving.batcher import Admission, Answer
from serving.host import Host, Served
from serving.lifecycle import Lifecycle, tell_up
from serving.settings import Settings

log = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

JSON = "application/json"


@dataclass
class Reply:
    """after: what to do once the client has its answer."""

    status: int
    body: bytes
    content_type: str = JSON
    after: Callable[[], None] | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()


@dataclass(frozen=True)
class Call:
    """What a route is called with. path: as the client sent it, without the query."""

    path: str = ""
    query: bytes = b""
    accept: bytes = b""
    body: bytes = b""


class Server:
    """Everything one worker process needs to answer; `start` builds it, `stop` ends it."""

    def __init__(self, settings: Settings, pinned: Path | None = None, metrics_folder: Path | None = None) -> None:
        """metrics_folder: where the workers of this service count together; None counts for this one alone."""
        self.settings = settings
        self.metrics = ServingMetrics(CollectorRegistry(), metrics_folder)
        self.host = Host(settings, self.metrics, pinned)
        self.metrics.registry.register(SignalCollector(self.host.states, self.metrics.counts))
        self.recorder = Recorder(settings.log_path, metrics=self.metrics) if settings.record else None
        self.admission = Admission(settings.max_inflight_rows)
        self.lifecycle = Lifecycle(settings.drain_s, settings.grace_s)
        self.routes: dict[tuple[str, str], Callable[[Call], Awaitable[Reply]]] = {
            ("POST", "/v1/predict"): self.predict,
            ("POST", "/predict"): self.predict,  # where BentoML's clients send; same limits, same checks
            ("POST", "/v1/labels"): self.labels,
            ("GET", "/v1/model"): self.model,
            ("GET", cards.ROUTE): self.card,
            ("GET", "/livez"): self.livez,
            ("GET", "/readyz"): self.readyz,
            ("GET", "/metrics"): self.scrape,
        }
        self.paths = {path for _, path in self.routes}

    def route_of(self, path: str) -> str | None:
        """Return the route of a path, which is a metric label and holds nothing of a client; None for others."""
        if cards.ADDRESS.fullmatch(path):
            return cards.ROUTE
        return path if path in self.paths else None

    async def start(self) -> None:
        """Load the live release if there is one; a service without one runs, but is not ready."""
        await self.host.start()
        self.lifecycle.take_over()
        tell_up(os.environ)

    async def stop(self) -> None:
        """Stop watching and write what the recorder still holds."""
        await self.host.stop()
        if self.recorder is not None:
            await asyncio.get_running_loop().run_in_executor(None, self.recorder.close)

    async def predict(self, call: Call) -> Reply:
        """Answer rows; see `wire.decode_predict` and `wire.encode_predict`."""
        served = self._live()
        started = time.perf_counter()
        request = self._decode(call.body, served)
        decoded = time.perf_counter()
        answer = await self._infer(served, request)
        self._demand_answer(served, answer)
        encoding = time.perf_counter()
        reply = wire.encode_predict(served.release, request.ids or [], answer.outputs)
        stages = {
            "decode": decoded - started,
            "queue": answer.queue_s,
            "infer": answer.infer_s,
            "encode": time.perf_counter() - encoding,
        }
        return Reply(200, reply, after=lambda: self._account(served, request, answer.outputs, stages))

    async def labels(self, call: Call) -> Reply:
        """Write late labels to the log; the reply comes when they are on it."""
        served = self._live()
        pairs = wire.decode_labels(call.body, served.release.manifest.classes)
        if self.recorder is None:
            raise RequestError("labels: recording is off (VIGIL_RECORD=false)", reason="not_ready", status=503)
        loop = asyncio.get_running_loop()
        accepted = await loop.run_in_executor(None, self.recorder.label, pairs)
        self.metrics.labels_accepted.labels(served.release.name).inc(accepted)
        return Reply(200, orjson.dumps({"accepted": accepted}))

    async def model(self, _: Call) -> Reply:
        """Describe the live release: what a client must send and what it gets."""
        return Reply(200, wire.describe(self._live().release))

    async def card(self, call: Call) -> Reply:
        """Show the model card of the live release, as HTML or Markdown."""
        served = self._live()
        kind, address = cards.wanted(call.query, call.accept), cards.ADDRESS.fullmatch(call.path)
        content = cards.choose(served.release, served.cards, address[1] if address else "", kind)
        return Reply(200, content, cards.TYPES[kind], headers=cards.HEADERS)

    async def livez(self, _: Call) -> Reply:
        """Say that the process answers."""
        return Reply(200, b'{"alive":true}')

    async def readyz(self, _: Call) -> Reply:
        """Say whether predictions are answered, and if not, why."""
        draining = self.lifecycle.draining
        ready = self.host.ready and not draining
        reason = "draining" if draining else self.host.reason
        return Reply(200 if ready else 503, orjson.dumps({"ready": ready, "reason": reason}))

    async def scrape(self, _: Call) -> Reply:
        """Print the metrics."""
        return Reply(200, generate_latest(self.metrics.registry), CONTENT_TYPE_LATEST)

    def _live(self) -> Served:
        try:
            return self.host.live()
        except RequestError:
            self.metrics.rejected.labels(self.settings.model or "none", "not_ready").inc()
            raise

    def _decode(self, body: bytes, served: Served) -> wire.Request:
        try:
            return wire.decode_predict(body, served.release.manifest.input)
        except RequestError as error:
            self.metrics.invalid_rows.labels(served.release.name, error.reason).inc()
            raise

    async def _infer(self, served: Served, request: wire.Request) -> Answer:
        name, rows = served.release.name, len(request.rows)
        try:
            self.admission.enter(rows)
        except RequestError as error:
            self.metrics.rejected.labels(name, error.reason).inc()
            raise
        self.metrics.inflight_rows.labels(name).set(self.admission.rows)
        try:
            return await served.batcher.submit(request.rows)
        finally:
            self.admission.leave(rows)
            self.metrics.inflight_rows.labels(name).set(self.admission.rows)

    def _demand_answer(self, served: Served, answer: Answer) -> None:
        try:
            wire.demand_finite(answer.outputs)
        except RequestError as error:
            self.metrics.invalid_rows.labels(served.release.name, error.reason).inc()
            raise

    def _account(self, served: Served, request: wire.Request, outputs: np.ndarray, stages: dict[str, float]) -> None:
        place = (served.release.name, served.release.version)
        for stage, seconds in stages.items():
            self.metrics.stage_seconds.labels(*place, stage).observe(seconds)
        self.metrics.input_rows.labels(*place).inc(len(outputs))
        served.tally.add(request.rows, outputs)
        predicted = self._predicted(served, outputs)
        if self.recorder is not None:
            self.recorder.put(Records(*place, time.time(), request.ids or [], predicted, outputs, request.rows))

    def _predicted(self, served: Served, outputs: np.ndarray) -> list[str]:
        manifest, place = served.release.manifest, (served.release.name, served.release.version)
        if not manifest.classes:
            return [repr(value) for value in outputs[:, 0].tolist()]
        decided = manifest.decide(outputs)
        for k, count in enumerate(np.bincount(decided, minlength=len(manifest.classes)).tolist()):
            if count:
                self.metrics.predictions.labels(*place, manifest.classes[k]).inc(count)
        return [manifest.classes[k] for k in decided.tolist()]


async def predict_rows(server: Server, rows: list[Any]) -> dict[str, Any]:
    """Return the answer of `/v1/predict` to `rows`, for BentoML's own route."""
    reply = await server.predict(Call(body=orjson.dumps({"rows": rows})))
    if reply.after is not None:
        reply.after()
    answer: dict[str, Any] = orjson.loads(reply.body)
    return answer


class App:
    """The ASGI layer: reads the body within its limit, calls the route, counts, answers."""

    def __init__(self, inner: Application, server: Callable[[], Server]) -> None:
        """server: gives the process's server; called first when the application starts up."""
        self._inner = inner
        self._make = server
        self._server: Server | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(scope, receive, send)
        elif scope["type"] == "http" and self._server is not None:
            await self._answer(self._server, scope, receive, send)
        else:
            await self._inner(scope, receive, send)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def watched(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "lifespan.startup.complete":
                self._server = self._make()
                await self._server.start()
            if message["type"] == "lifespan.shutdown.complete" and self._server is not None:
                await self._server.stop()
            await send(message)

        await self._inner(scope, receive, watched)

    async def _answer(self, server: Server, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        route = server.route_of(scope["path"])
        if route is None:
            await self._inner(scope, receive, _counting(server, send))
            return
        try:
            reply = await self._route(server, route, scope, receive)
        except RequestError as error:
            reply = Reply(error.status, orjson.dumps({"error": str(error)} | error.place))
        except Exception:  # a bug or a failing model: this request fails, the process lives, the log has the trace
            log.exception("request_failed", extra={"route": route})
            reply = Reply(500, b'{"error":"the model could not answer; see the log of the service"}')
        await _send(send, reply, server.lifecycle.closing)
        server.metrics.requests.labels(route, str(reply.status)).inc()
        server.metrics.request_seconds.labels(route).observe(time.perf_counter() - started)
        if reply.after is not None:
            reply.after()

    async def _route(self, server: Server, route: str, scope: Scope, receive: Receive) -> Reply:
        handler = server.routes.get((scope["method"], route))
        if handler is None:
            allowed = ", ".join(method for method, path in server.routes if path == route)
            raise RequestError(f"{scope['path']}: {scope['method']} is not accepted; use {allowed}", status=405)
        headers = {key.lower(): value for key, value in scope["headers"]}
        reads = scope["method"] == "GET"
        body = b"" if reads else await _body(headers, receive, server.settings.max_body_bytes)
        return await handler(Call(scope["path"], scope["query_string"], headers.get(b"accept", b""), body))


async def _body(headers: dict[bytes, bytes], receive: Receive, limit_bytes: int) -> bytes:
    content_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if content_type != JSON.encode():
        shown = content_type.decode("latin-1") or "none"
        raise RequestError(f"Content-Type: accepted is {JSON}, found {shown}", status=415)
    if b"content-encoding" in headers:
        raise RequestError("Content-Encoding: a compressed body is not accepted", status=415)
    too_large = RequestError(f"body: larger than {limit_bytes} bytes", status=413)
    if int(headers.get(b"content-length", b"0") or 0) > limit_bytes:
        raise too_large
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RequestError("body: the client went away", status=400)
        body += message.get("body", b"")
        if len(body) > limit_bytes:
            raise too_large
        if not message.get("more_body", False):
            return bytes(body)


async def _send(send: Send, reply: Reply, closing: bool) -> None:
    headers = [
        (b"content-type", reply.content_type.encode()),
        (b"content-length", str(len(reply.body)).encode()),
        *reply.headers,
    ]
    if reply.status in (429, 503):
        headers.append((b"retry-after", b"1"))
    if closing:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})


def _counting(server: Server, send: Send) -> Send:
    async def counted(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            server.metrics.requests.labels("other", str(message["status"])).inc()
            if server.lifecycle.closing:
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
        await send(message)

    return counted
