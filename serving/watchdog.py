"""A thread beside the event loop of a worker, which ends what blocks it.

A run that is expected to be short is made on the loop (see `serving.batcher`). One that never ends would stop all
else there, the timers of its own deadline too: here it is stopped, and its batcher makes it once more off the loop.
Nor does a blocked loop hear that the parent of the worker is gone; such a worker would hold the port for ever, so it
is ended from here.
"""

import asyncio
import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

import onnxruntime

from serving.lifecycle import CLEAN_UP_S

log = logging.getLogger(__name__)

LOOK_S = 0.05  # between two looks
LONGEST_S = 0.1  # of processor time for a run on the loop, which was expected to take 1 ms at most
FROZEN_S = 2.0  # without a sign of the loop, at least, before a worker whose parent is gone is ended


class Due(Protocol):
    """What waits for a run, until its deadline on the clock of `time.perf_counter`."""

    deadline: float


class Inline:
    """The run that is on the event loop now; one object per worker, since a loop does one thing at a time.

    running: who waits for it, None between runs. options: of all runs there; None on a device, which tells options
    the graph of each size: ONNX Runtime warns of every change in one object. stopped: whether a run with these options
    was stopped from outside; then the options are used up, see `renew`.
    """

    __slots__ = ("running", "options", "stopped", "_stops")

    def __init__(self, stops: bool = True) -> None:
        self._stops = stops
        self.running: Sequence[Due] | None = None
        self.renew()

    def renew(self) -> None:
        """Take new options: those that have stopped one run would stop each one after it."""
        self.options = onnxruntime.RunOptions() if self._stops else None
        self.stopped = False

    def stop(self) -> None:
        """Stop the run, from another thread; if it has just ended, the next one may be met, and is made again."""
        options, self.stopped = self.options, True
        if options is not None:
            options.terminate = True


class Watchdog:
    """Looks at the runs of `inline`, and at the parent of this process."""

    def __init__(self, inline: Inline, parent: int, drain_s: float, grace_s: float) -> None:
        """parent: the process that must live as long as this one; 0: none has to. drain_s, grace_s: see `Lifecycle`."""
        self._inline = inline
        self._parent = parent
        self._frozen_s = max(drain_s, FROZEN_S)
        self._ending_s = drain_s + grace_s + CLEAN_UP_S
        self._ended = threading.Event()
        self._seen: Sequence[Due] | None = None
        self._used_s = 0.0
        self._asked_s = self._alone_s = 0.0
        self._loop: asyncio.AbstractEventLoop
        self._clock: Callable[[], float]

    def start(self) -> None:
        """Begin to look; to be called on the event loop."""
        self._loop = asyncio.get_running_loop()
        self._clock = _processor_clock()
        threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def stop(self) -> None:
        """End, where there is no parent: one whose parent may go is watched until it ends."""
        if not self._parent:
            self._ended.set()

    def _watch(self) -> None:
        while not self._ended.wait(LOOK_S):
            self._look_at_run()
            if self._parent and os.getppid() != self._parent:
                self._look_at_loop(time.monotonic())

    def _look_at_run(self) -> None:
        running, used_s = self._inline.running, self._clock()
        if running is None or running is not self._seen:
            self._seen, self._used_s = running, used_s
        elif used_s - self._used_s > LONGEST_S or time.perf_counter() > max(job.deadline for job in running):
            self._inline.stop()

    def _look_at_loop(self, now: float) -> None:
        if not self._alone_s:
            self._alone_s = now
            os.kill(os.getpid(), signal.SIGHUP)  # a healthy loop retires; Linux has sent one too
        if not self._asked_s:
            self._asked_s = now
            try:
                self._loop.call_soon_threadsafe(self._answer)
            except RuntimeError:  # it is closed: what is left to do is short
                return
        if now - self._asked_s > self._frozen_s or now - self._alone_s > self._ending_s:
            log.critical("frozen_without_parent", extra={"parent": self._parent})
            os.kill(os.getpid(), signal.SIGKILL)

    def _answer(self) -> None:
        self._asked_s = 0.0


def _processor_clock() -> Callable[[], float]:
    # Of the thread that calls this: one that waits for a busy or halted machine does not run for long.
    if not hasattr(time, "pthread_getcpuclockid"):  # macOS
        return time.perf_counter
    number = time.pthread_getcpuclockid(threading.get_ident())
    return lambda: time.clock_gettime(number)
