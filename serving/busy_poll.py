"""Staying awake for a moment after an answer, while clients are quick to send their next request.

A process that sleeps until a request comes must be woken, and finds its core's caches cold: where one client waits
for each answer, that costs more than the answer. Whether it pays is seen from the last gap, so that a service with
little to do sleeps.
"""

import asyncio
import time

QUICK_S = 2e-4  # a request that comes this soon after an answer was worth staying awake for


class BusyPoll:
    """Keeps one event loop from sleeping for at most `longest_s` after an answer; 0 never does."""

    def __init__(self, longest_s: float) -> None:
        self._longest_s = longest_s
        self._answered = 0.0
        self._until = 0.0
        self._quick = False
        self._loop: asyncio.AbstractEventLoop | None = None

    def arrived(self, at: float) -> None:
        """Take note of a request that came in, on the clock of `time.perf_counter`."""
        self._until = 0.0
        self._quick = at - self._answered < QUICK_S

    def answered(self) -> None:
        """Take note that nothing waits for an answer any more."""
        self._answered = time.perf_counter()
        if self._quick and self._longest_s:
            self._until = self._answered + self._longest_s
            if self._loop is None:
                self._loop = asyncio.get_running_loop()
            self._loop.call_soon(self._stay)

    def _stay(self) -> None:
        # As long as something is to be called soon, the loop looks for requests without sleeping.
        if self._loop is not None and time.perf_counter() < self._until:
            self._loop.call_soon(self._stay)
