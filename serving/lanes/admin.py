"""A second address of the service, for those who look after it: metrics, BentoML's pages, no predictions.

Each worker listens there by itself (SO_REUSEPORT), on the loop and with the application of the first address.
What is answered where is decided by `serving.server.Server.admit`.
"""

import asyncio
import logging
import socket
from typing import Any, ClassVar

import uvicorn.config
import uvicorn.server

from registry.errors import ConfigError
from serving.lanes.asgi import DOOR, Application
from serving.lanes.guard import GuardedProtocol, Sweeper
from serving.settings import Address

log = logging.getLogger(__name__)

RETRY_S = 2.0
FINISH_S = 1.0


class AdminProtocol(GuardedProtocol):
    """One connection; counted apart, so that clients who take all of the first address cannot shut this one."""

    sweeper: ClassVar[Sweeper] = Sweeper()


class Admin:
    """The listener of one worker."""

    def __init__(self, address: Address, application: Application) -> None:
        """application: gets what comes in here with `DOOR` in its scope."""
        self._address = address
        self._application = application
        self._state: Any = uvicorn.server.ServerState()
        self._listener: asyncio.Server | None = None
        self._retry: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen; while another program holds the address predictions are served without it, and the log says so."""
        if not await self._open():
            self._retry = asyncio.create_task(self._open_later())

    async def stop(self) -> None:
        """Stop listening and let the answers under way finish."""
        if self._retry is not None:
            self._retry.cancel()
        if self._listener is not None:
            self._listener.close()
        for connection in list(self._state.connections):
            connection.shutdown()
        if self._state.tasks:
            await asyncio.wait(self._state.tasks, timeout=FINISH_S)

    async def _open(self) -> bool:
        try:
            bound = bind(self._address)
        except ConfigError as error:
            log.error("admin_address_failed", extra={"error": str(error)})
            return False
        config = uvicorn.config.Config(
            self._answer, interface="asgi3", lifespan="off", ws="none", log_config=None, access_log=False,
            proxy_headers=False,
        )  # fmt: skip
        make = lambda: AdminProtocol(config, self._state, {})  # noqa: E731
        self._listener = await asyncio.get_running_loop().create_server(make, sock=bound)
        return True

    async def _open_later(self) -> None:
        while True:
            await asyncio.sleep(RETRY_S)
            if await self._open():
                return

    async def _answer(self, scope: Any, receive: Any, send: Any) -> None:
        await self._application({**scope, DOOR: True}, receive, send)


def claim(address: Address) -> socket.socket:
    """Return a socket that keeps `address` from other services as long as it is open; nothing listens on it.

    Raises ConfigError if it cannot be had. By SO_REUSEPORT the workers of two services would share it, and each
    scrape would meet one of the two by chance.
    """
    probe = bind(address, (socket.SO_REUSEADDR,))  # refused where somebody listens, or has a claim
    with probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        return bind(address, (socket.SO_REUSEPORT,))  # without SO_REUSEADDR: the next probe is refused


def bind(address: Address, options: tuple[int, ...] = (socket.SO_REUSEADDR, socket.SO_REUSEPORT)) -> socket.socket:
    """Return a socket on `address`, which other workers may share; raises ConfigError if it cannot be had."""
    bound = socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET)
    try:
        for option in options:
            bound.setsockopt(socket.SOL_SOCKET, option, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise ConfigError(
            f"VIGIL_ADMIN_ADDRESS: {address.host}:{address.port} cannot be listened on: {error.strerror}; "
            "stop the service or program that has it, or name another address"
        ) from error
    return bound
