"""How a worker ends so that no request is lost, and how it follows its parent.

SIGTERM   drain: /readyz says 503 at once, requests are answered on for `drain_s`, then retire
SIGHUP    retire: stop accepting, finish what is in flight, exit; for a worker whose siblings serve on
SIGINT    retire
A second SIGTERM or SIGINT ends the process at once.

From the first signal every answer carries `Connection: close`, so that clients open their next connection
elsewhere. Uvicorn owns the signals of the process until `take_over`, and does the last step.
"""

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import sys
import threading
from collections.abc import Mapping
from typing import Any

log = logging.getLogger(__name__)

# PID:FD:REASON:WAITS, from the parent: who it is, where a worker says how far it is, why it was started, and whether
# it comes up only when it is ready (1), since others serve that it would take connections from.
SUPERVISOR = "VIGIL_SUPERVISOR"
UP, READY = "up", "ready"
WAIT_S = 120.0  # for a worker to be ready then, from when it is loaded; for its parent in a roll, from its start on
LINGER_S = 1.0  # how long open connections are answered on once nothing new is accepted
CLEAN_UP_S = 5.0  # for a worker to write its log after the grace time
PR_SET_PDEATHSIG = 1


class Lifecycle:
    """Where this worker is between start and exit.

    draining: the process should get no new connection; /readyz says 503.
    closing: every answer must carry `Connection: close`.
    """

    def __init__(self, drain_s: float, grace_s: float) -> None:
        """drain_s: between SIGTERM and the end of accepting. grace_s: from there to the exit, at most."""
        self.draining = False
        self.closing = False
        self._drain_s = drain_s
        self._grace_s = grace_s
        self._uvicorn: Any = None
        self._asked = False
        self._retiring = False

    def take_over(self) -> bool:
        """Handle the signals of this process from now on; return False where uvicorn does not hold them.

        To be called on the event loop while the application starts up.
        """
        if threading.current_thread() is not threading.main_thread():
            return False
        self._uvicorn = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
        if not hasattr(self._uvicorn, "handle_exit"):
            return False
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._signalled, number)
        return True

    def _signalled(self, number: signal.Signals) -> None:
        if number != signal.SIGHUP:
            if self._asked:
                signal.signal(number, signal.SIG_DFL)
                signal.raise_signal(number)
            self._asked = True
        if number == signal.SIGTERM:
            log.info("draining", extra={"drain_s": self._drain_s, "grace_s": self._grace_s})
            self.draining = self.closing = True
            asyncio.get_running_loop().call_later(self._drain_s, self._retire)
        else:
            self._retire()

    def _retire(self) -> None:
        if self._retiring:
            return
        self._retiring = self.closing = True
        server = self._uvicorn
        for listener in getattr(server, "servers", ()):
            listener.close()
        linger_s = min(LINGER_S, self._grace_s) if server.server_state.connections else 0.0
        if server.config.timeout_graceful_shutdown is None:  # --timeout-graceful-shutdown goes before
            server.config.timeout_graceful_shutdown = max(0.0, self._grace_s - linger_s)
        log.info("retiring", extra={"connections": len(server.server_state.connections)})
        asyncio.get_running_loop().call_later(linger_s, server.handle_exit, signal.SIGTERM, None)


def follow_parent(environment: Mapping[str, str]) -> None:
    """Make this worker get SIGHUP when its parent dies, however it dies; without a supervisor do nothing.

    Without this a worker whose parent was killed would serve on and hold the port. Linux only.
    """
    parent = parent_of(environment)
    if not parent or sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGHUP)
    if os.getppid() != parent:  # it died before the kernel knew that we care
        signal.raise_signal(signal.SIGHUP)


def parent_of(environment: Mapping[str, str]) -> int:
    """Return the supervisor of this worker, 0 in a process that has none."""
    parent, *_ = _supervisor(environment)
    return 0 if parent == os.getpid() else parent


def tell_up(environment: Mapping[str, str]) -> None:
    """Tell the supervisor, if there is one, that this worker has started up."""
    _tell(environment, UP)


def tell_ready(environment: Mapping[str, str]) -> None:
    """Tell the supervisor, if there is one, that this worker can answer; it may not be up yet."""
    with contextlib.suppress(BrokenPipeError):  # it ended, and so will this one
        _tell(environment, READY)


def started_for(environment: Mapping[str, str]) -> str:
    """Return why this worker was started: one of `monitoring.metrics.STARTS`."""
    *_, reason, _ = _supervisor(environment)
    return reason


def waits(environment: Mapping[str, str]) -> bool:
    """Return whether this worker must not come up before it is ready."""
    *_, waiting = _supervisor(environment)
    return waiting == "1"


def _tell(environment: Mapping[str, str], what: str) -> None:
    parent, descriptor, *_ = _supervisor(environment)
    if parent not in (0, os.getpid()):
        os.write(descriptor, f"{os.getpid()} {what}\n".encode())


def _supervisor(environment: Mapping[str, str]) -> tuple[int, int, str, str]:
    parent, descriptor, reason, waiting = environment.get(SUPERVISOR, "0:-1:start:0").split(":")
    return int(parent), int(descriptor), reason, waiting
