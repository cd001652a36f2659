"""Everything one worker process needs to answer, and the routes with what each of them does."""

import asyncio
import gc
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from monitoring.counting.page import Page
from monitoring.log.recorder import LABEL_S, Added, Recorder
from monitoring.metrics import ServingMetrics
from registry.errors import RequestError
from serving import cards, cores, lifecycle, openapi, protocol, start_page, wire
from serving.access import OPEN, Access
from serving.account import Account
from serving.busy_poll import BusyPoll
from serving.host import Host
from serving.hosts import Hosts
from serving.http import JSON, Call, Head, Reply
from serving.lifecycle import Lifecycle, parent_of
from serving.predict import Plan, Prediction, Predictor, refusal
from serving.routes import Match, Parameters, Route, Routes
from serving.settings import Settings
from serving.tracing import Tracer
from serving.watchdog import Inline, Watchdog

log = logging.getLogger(__name__)

GARBAGE_OBJECTS = 50_000  # made and not freed, before the collector looks for cycles among the newest


class Server:
    """`start` loads the models, `stop` ends everything; use from one event loop only."""

    def __init__(self, settings: Settings, pinned: Path | None = None, metrics_folder: Path | None = None) -> None:
        """metrics_folder: where the workers of this service count together; None counts for this one alone."""
        self.settings = settings
        self.metrics = ServingMetrics(CollectorRegistry(), metrics_folder)
        self.hosts = Hosts(settings, self.metrics, pinned, metrics_folder)
        self.page = Page(self.metrics)
        self.recorder = self._open_log() if settings.record else None
        self.access = Access(settings.keys_path, self.metrics, metrics_folder)
        self.account = Account(self.metrics, self.recorder)
        self.tracer = Tracer(settings.trace_share) if settings.trace_share else None
        self.predictor = Predictor(settings, self.account, self.tracer)
        self.document = openapi.Document(keyed=settings.keys_path is not None)
        # Who stays awake takes the core: where clients or workers need it too, they would wait for each other.
        self.busy_poll = BusyPoll(settings.busy_poll_us * 1e-6 if cores.available() > settings.workers else 0.0)
        self.lifecycle = Lifecycle(settings.drain_s, settings.grace_s)
        self.inline = Inline()
        self.watchdog = Watchdog(self.inline, parent_of(os.environ), settings.drain_s, settings.grace_s)
        self.routes = Routes(
            [
                Route("GET", "/", "predict", self.start_page),
                Route("POST", "/v1/predict", "predict"),
                Route("POST", "/predict", "predict"),  # where BentoML's clients send; same limits, same checks
                Route("POST", "/v1/models/{name}/predict", "predict"),
                Route("POST", "/v2/models/{name}/infer", "predict"),
                Route("POST", "/v2/models/{name}/versions/{version}/infer", "predict"),
                Route("POST", "/v1/labels", "label", self.labels),
                Route("POST", "/v1/models/{name}/labels", "label", self.labels),
                Route("GET", "/v1/model", "predict", self.model),
                Route("GET", "/v1/models", "predict", self.models),
                Route("GET", "/v1/models/{name}", "predict", self.model),
                Route("GET", "/v1/models/{name}/card", "predict", self.card),
                Route("GET", "/livez", "open", self.livez),
                Route("GET", "/readyz", "open", self.readyz),
                Route("GET", "/metrics", "metrics", self.scrape),
                *protocol.Pages(self.hosts, lambda: self.lifecycle.draining).routes(),
                Route("GET", "/openapi.json", "predict", self.openapi),
                Route("GET", "/docs.json", "admin", self.openapi),  # where BentoML has it
            ]
        )

    def _open_log(self) -> Recorder:
        said = self.settings
        return Recorder(
            said.log_path,
            metrics=self.metrics,
            rows_per_s=said.record_rows_per_s,
            bytes_per_s=said.record_mb_per_s * 1e6,
            pseudonyms=said.hidden,
            keep=said.log_limits,
        )

    async def start(self) -> None:
        """Load the live releases there are; a service without one runs, but is not ready.

        Raises TimeoutError in a worker that must be ready and was not in time: it ends, and another one is started.
        """
        self.watchdog.start()
        await self.hosts.start(self.recorder, self.inline)
        # What is here now stays: without it each search for garbage would look through all of it again, and with
        # the usual threshold there would be one every few dozen requests.
        gc.collect()
        gc.freeze()
        gc.set_threshold(GARBAGE_OBJECTS)
        if lifecycle.waits(os.environ) and not self.hosts.ready:
            log.warning("waits_to_be_ready", extra={"reason": self.hosts.reason})
            await asyncio.wait_for(self.hosts.made_ready.wait(), lifecycle.WAIT_S)
        self.lifecycle.take_over()

    async def stop(self) -> None:
        """Stop watching and write what the recorder still holds."""
        await self.hosts.stop()
        self.account.settle()
        for part in (self.recorder, self.tracer):
            if part is not None:
                await asyncio.get_running_loop().run_in_executor(None, part.close)
        self.watchdog.stop()

    def admit(self, head: Head, admin: bool) -> Match | None:
        """Return the route of a request whose key may use it; None for one of BentoML's pages.

        admin: it came in by the admin address. Raises RequestError: 404 for what is answered at the other
        address, 401, 403 or 429 for what its key may not do, 405.
        """
        role = self.routes.role(head)
        if self.settings.admin_address is not None and role != OPEN and (role in ("metrics", "admin")) != admin:
            raise RequestError(f"{head.path[:200]}: is not answered at this address", status=404)
        self.access.demand(head, role)
        match = self.routes.find(head)
        if match is None and head.method not in ("GET", "HEAD"):
            raise RequestError(f"{head.path[:200]}: no such address", status=404)
        return match

    def plan(self, head: Head, match: Match) -> Plan:
        """Return what the head of a prediction decides; raises RequestError."""
        name = match.parameters.get("name")
        host = self.hosts.find(name) if name else self.hosts.only()
        return self.predictor.plan(head, match.route.pattern, host, match.parameters.get("version", ""))

    def begin(
        self, plan: Plan, body: bytes, reply: Callable[[Reply], None], at: float | None = None
    ) -> Prediction | None:
        """Start a prediction, see `Predictor.begin`. None means that it was refused and answered at once."""
        try:
            return self.predictor.begin(plan, body, reply, at)
        except RequestError as error:
            reply(self.refused(plan.route, error))
            return None

    def refused(self, route: str, error: RequestError) -> Reply:
        """Return the reply to a request that is refused, and count it."""
        self.account.replied(route, error.status, 0.0)
        return refusal(error)

    async def labels(self, call: Call, parameters: Parameters) -> Reply:
        """Write late labels to the log; the reply comes when they are on it."""
        release = self._host(parameters).serving().release
        _demand_json(call.head)
        pairs = wire.decode_labels(call.body, release.manifest.classes)
        if self.recorder is None:
            raise RequestError("labels: recording is off (VIGIL_RECORD=false)", reason="not_ready", status=503)
        self.account.settle()  # rows that this process has answered go before them
        added = await _written(self.recorder, pairs)
        self.metrics.labels_accepted.labels(release.name).inc(added.accepted)
        return Reply(200, orjson.dumps({"accepted": added.accepted, "unknown": added.unknown}))

    async def model(self, _: Call, parameters: Parameters) -> Reply:
        """Describe a live release: what a client must send and what it gets."""
        return Reply(200, wire.describe(self._host(parameters).serving().release))

    async def models(self, _: Call, __: Parameters) -> Reply:
        """List the models of this service, ready or not."""
        said = [{"model": host.name, "ready": host.ready, "versions": host.versions()} for host in self.hosts.all]
        return Reply(200, orjson.dumps({"models": said}))

    async def card(self, call: Call, parameters: Parameters) -> Reply:
        """Show the model card of a live release, as HTML or Markdown."""
        served = self._host(parameters).serving()
        kind = cards.wanted(call.head.query, call.head.headers.get(b"accept", b""))
        return Reply(200, cards.choose(served.release, served.cards, kind), cards.TYPES[kind], cards.HEADERS)

    async def start_page(self, call: Call, _: Parameters) -> Reply:
        """Show which models answer here, and where all else is that this key opens here, as HTML."""
        metrics = self.settings.admin_address is None and self.access.opens(call.head, "metrics")
        content = await start_page.page(self.hosts.all, metrics, call.head.url, bool(self.settings.keys))
        return Reply(200, content, start_page.TYPE, cards.HEADERS)

    async def openapi(self, _: Call, __: Parameters) -> Reply:
        """Describe every route, and what the live models take and give, in OpenAPI 3.1."""
        releases = [host.serving().release for host in self.hosts.all if host.ready]
        return Reply(200, self.document.content(self.routes.table, releases))

    async def livez(self, _: Call, __: Parameters) -> Reply:
        """Say that the process answers."""
        return Reply(200, b'{"alive":true}')

    async def readyz(self, _: Call, __: Parameters) -> Reply:
        """Say whether predictions are answered, and if not, why."""
        draining = self.lifecycle.draining
        ready = self.hosts.ready and not draining
        reason = "draining" if draining else self.hosts.reason
        return Reply(200 if ready else 503, orjson.dumps({"ready": ready, "reason": reason}))

    async def scrape(self, _: Call, __: Parameters) -> Reply:
        """Print the metrics of all workers; off the loop, since others may hold their lock."""
        self.account.settle()
        states = list(self.hosts.states())
        text = await asyncio.get_running_loop().run_in_executor(None, self.page.text, states)
        return Reply(200, text, CONTENT_TYPE_LATEST.encode())

    def _host(self, parameters: Parameters) -> Host:
        return self.hosts.find(parameters["name"]) if "name" in parameters else self.hosts.only()


def _demand_json(head: Head) -> None:
    given = head.headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
    if given != JSON:
        shown = given[:60].decode("latin-1") or "none"
        raise RequestError(f"Content-Type: accepted is application/json, found {shown}", status=415)


async def _written(recorder: Recorder, pairs: list[tuple[str, str]]) -> Added:
    # Without a thread that waits: when the log hangs, those of the process are still there for all else.
    try:
        return await asyncio.wait_for(asyncio.wrap_future(recorder.send_labels(pairs)), LABEL_S)
    except TimeoutError:
        raise recorder.late() from None


async def predict_rows(server: Server, rows: list[Any]) -> dict[str, Any]:
    """Return the answer of `/v1/predict` to `rows`, for BentoML's own route."""
    answered: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
    head = Head("POST", "/predict", b"", {b"content-type": b"application/json"})
    plan = server.predictor.plan(head, head.path, server.hosts.only())
    server.begin(plan, orjson.dumps({"rows": rows}), answered.set_result)
    reply = await answered
    if reply.status != 200:
        raise RequestError(orjson.loads(reply.body)["error"], status=reply.status)
    said: dict[str, Any] = orjson.loads(reply.body)
    return said
