"""Whether the fast lane may be used: it stands on parts of uvicorn that are not promised to stay.

Before the service starts, the parts it needs are looked for; once it runs, one request is sent through both
lanes. With any difference all requests take the ASGI lane, a warning says so, and a metric too.
"""

import asyncio
import inspect
import logging
import re
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import uvicorn.config
import uvicorn.server

from serving.access import Access
from serving.server import Server
from serving.settings import Settings

log = logging.getLogger(__name__)

Application = Callable[[Any, Any, Any], Awaitable[None]]

NEEDED = (
    "connection_made", "connection_lost", "data_received", "on_message_begin", "on_url", "on_header",
    "on_headers_complete", "on_message_complete", "on_response_complete", "send_400_response", "shutdown",
    "pause_writing", "resume_writing", "_unset_keepalive_if_required",
)  # fmt: skip
ANSWER_S = 5.0
PROBE = b"POST %s HTTP/1.1\r\nhost: probe\r\ncontent-type: application/json\r\ncontent-length: 2\r\n%s\r\n{}"
OTHER_LANE = b"expect: 100-continue\r\n"  # a head that the fast lane leaves to uvicorn


def install(settings: Settings) -> None:
    """Put our protocol where uvicorn looks for one; call before uvicorn is configured."""
    try:
        from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

        from serving.lanes.fast import FastProtocol

        lacking = [name for name in NEEDED if not inspect.isfunction(getattr(HttpToolsProtocol, name, None))]
        if lacking or "auto" not in uvicorn.config.HTTP_PROTOCOLS:
            raise AttributeError(f"uvicorn {uvicorn.__version__} has no {', '.join(lacking) or 'choice of protocols'}")
        uvicorn.config.HTTP_PROTOCOLS["auto"] = FastProtocol  # type: ignore[assignment]
    except (ImportError, AttributeError) as error:
        _fall_back(str(error))


async def enable(server: Server, application: Application) -> str:
    """Bind the protocol to `server`, try both lanes, and return the lane in use: fast or asgi.

    application: what uvicorn serves; it answers with `server`.
    """
    from serving.lanes.guard import GuardedProtocol

    GuardedProtocol.service = server  # of both addresses
    if uvicorn.config.HTTP_PROTOCOLS["auto"] == "uvicorn.protocols.http.auto:AutoHTTPProtocol":
        return "asgi"
    from serving.lanes.fast import FastProtocol

    FastProtocol.enabled = server.settings.lane != "asgi"
    FastProtocol.forget()
    if not FastProtocol.enabled:
        return "asgi"
    server.account.muted, access = True, server.access
    server.access = Access(None, server.metrics)  # the probe has no key; nobody else can ask yet
    name = server.hosts.all[0].name
    path = b"/v1/models/%s/predict" % name.encode() if len(server.hosts.all) > 1 else b"/v1/predict"
    difference = await _difference(application, path)
    if not difference and not any(FastProtocol.heads.values()):
        difference = "the fast lane did not take the probe"
    server.account.muted, server.access = False, access
    if difference:
        FastProtocol.enabled = False
        _fall_back(difference)
        return "asgi"
    return "fast"


async def _difference(application: Application, path: bytes) -> str:
    try:
        async with asyncio.timeout(ANSWER_S):
            fast, normal = [await _ask(application, PROBE % (path, more)) for more in (b"", OTHER_LANE)]
    except Exception as error:  # whatever it is, the other lane works
        return f"the probe was not answered: {error!r}"
    return "" if fast == normal else f"the lanes answer differently: {fast!r} and {normal!r}"


async def _ask(application: Application, request: bytes) -> tuple[bytes, bytes]:
    # The status line and the body that a new connection gets for `request`.
    from serving.lanes.fast import FastProtocol

    config = uvicorn.config.Config(application, log_config=None, lifespan="off", ws="none")
    ours, theirs = socket.socketpair()
    loop = asyncio.get_running_loop()
    state: Any = uvicorn.server.ServerState()
    transport, _ = await loop.connect_accepted_socket(lambda: FastProtocol(config, state, {}), ours)
    reader, writer = await asyncio.open_connection(sock=theirs)
    try:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"HTTP/1.1 100"):
            head = await reader.readuntil(b"\r\n\r\n")
        size = re.search(rb"content-length: (\d+)", head)
        if size is None:
            raise ValueError(f"an answer without a length: {head!r}")
        return head.split(b"\r\n")[0], await reader.readexactly(int(size[1]))
    finally:
        writer.close()
        transport.close()


def _fall_back(why: str) -> None:
    log.warning("fast_lane_off", extra={"why": why})
