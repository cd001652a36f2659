"""The lane that always works: one ASGI application in front of BentoML's own pages.

What no route of ours takes goes on to the inner application, which is BentoML's: documentation and schema.
"""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

from registry.errors import RequestError
from serving.http import Call, Head, Reply
from serving.lanes import check
from serving.lifecycle import tell_up
from serving.predict import failure, ident_of
from serving.routes import Match
from serving.server import Server
from serving.settings import Settings

if TYPE_CHECKING:
    from serving.lanes.admin import Admin

log = logging.getLogger(__name__)

DOOR = "vigil.admin"  # in a scope: this request came in by the admin address; no client can put it there

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
# Of what BentoML answers: a browser that shows it fetches from this service alone.
PAGE_POLICY = (
    b"content-security-policy",
    b"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:;"
    b" connect-src 'self'",
)

Application = Callable[[Scope, Receive, Send], Awaitable[None]]


NO_ADDRESS = b'{"error":"no such address; /openapi.json lists all there are"}'


class App:
    """The ASGI layer: finds the route, reads the body within its limit, answers, counts."""

    def __init__(self, inner: Application, server: Callable[[], Server]) -> None:
        """server: gives the process's server; called first when the application starts up."""
        self._inner = inner
        self._make = server
        self._server: Server | None = None
        self._admin: Admin | None = None

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
                lane = await check.enable(self._server, self)
                self._server.metrics.lane_info.labels(lane).set(1)
                await self._open_admin(self._server.settings)
                tell_up(os.environ)  # last: a worker that fails before this did not come up
            if message["type"] == "lifespan.shutdown.complete" and self._server is not None:
                if self._admin is not None:
                    await self._admin.stop()
                await self._server.stop()
            await send(message)

        await self._inner(scope, receive, watched)

    async def _open_admin(self, settings: Settings) -> None:
        if settings.admin_address is not None:
            from serving.lanes.admin import Admin  # stands on parts of uvicorn that this lane can do without

            self._admin = Admin(settings.admin_address, self)
            await self._admin.start()

    async def _answer(self, server: Server, scope: Scope, receive: Receive, send: Send) -> None:
        started = time.perf_counter()
        head = _head(scope)
        counted, match = False, None
        try:
            match = server.admit(head, DOOR in scope)
            if match is not None:
                reply, counted = await _reply(server, head, match, receive)
        except RequestError as error:
            reply, counted = server.refused(server.routes.label(head.path), error), True
        except Exception:  # a bug: this request fails, the process lives, the log has the trace
            said = {"route": server.routes.label(head.path), "request_id": server.predictor.told(ident_of(head))}
            log.exception("request_failed", extra=said)
            reply = failure()
        else:
            if match is None:  # outside the net: uvicorn ends what such a page has begun
                await self._inner(scope, receive, _inner_send(server, send))
                return
        await _send(server, send, reply)
        if not counted:
            server.account.replied(server.routes.label(head.path), reply.status, time.perf_counter() - started)


async def _reply(server: Server, head: Head, match: Match, receive: Receive) -> tuple[Reply, bool]:
    # The reply, and whether it is counted already.
    reads = head.method == "GET"
    if match.route.handler is not None:
        body = b"" if reads else await _body(head, receive, server.settings.max_body_bytes)
        return await match.route.handler(Call(head, body), match.parameters), False
    plan = server.plan(head, match)
    body = await _body(head, receive, server.settings.max_body_bytes)
    answered: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
    prediction = server.begin(plan, body, answered.set_result)
    if prediction is None:
        return await answered, True
    gone = asyncio.ensure_future(receive())  # ends when the client does
    try:
        await asyncio.wait((gone, answered), return_when=asyncio.FIRST_COMPLETED)
        if not answered.done():
            prediction.gone = True
            return failure(), True  # nobody reads it, and it is counted when its turn comes
        return await answered, True
    finally:
        gone.cancel()


async def _body(head: Head, receive: Receive, limit_bytes: int) -> bytes:
    if b"content-encoding" in head.headers:
        raise RequestError("Content-Encoding: a compressed body is not accepted", status=415)
    too_large = RequestError(f"body: larger than {limit_bytes} bytes", status=413)
    declared = head.headers.get(b"content-length", b"0")
    if not declared.isdigit() or int(declared) > limit_bytes:
        raise too_large
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise RequestError("body: the client went away", reason="client_gone", status=400)
        body += message.get("body", b"")
        if len(body) > limit_bytes:
            raise too_large
        if not message.get("more_body", False):
            return bytes(body)


async def _send(server: Server, send: Send, reply: Reply) -> None:
    headers = [
        (b"content-type", reply.content_type),
        (b"content-length", str(len(reply.body)).encode()),
        *reply.headers,
    ]
    if reply.ident:
        headers.append((b"vigil-id", reply.ident.encode()))
    if server.lifecycle.closing:
        headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": reply.body})


def _head(scope: Scope) -> Head:
    headers: dict[bytes, bytes] = {}
    for name, value in scope["headers"]:
        name = name.lower()
        headers[name] = headers[name] + b", " + value if name in headers else value
    return Head(scope["method"], scope["path"], scope["query_string"], headers, scope.get("scheme", "http"))


def _inner_send(server: Server, send: Send) -> Send:
    unknown = False

    async def counted(message: MutableMapping[str, Any]) -> None:
        nonlocal unknown
        if unknown:  # what follows the start of a page that is none
            return
        if message["type"] == "http.response.start" and message["status"] == 404:
            unknown = True
            server.account.replied("other", 404, 0.0)
            await _send(server, send, Reply(404, NO_ADDRESS))
            return
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), PAGE_POLICY]
            server.account.replied("other", message["status"], 0.0)
            if server.lifecycle.closing:
                message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
        await send(message)

    return counted
