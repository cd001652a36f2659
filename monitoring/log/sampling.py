"""Which requests are recorded or measured when there are more than a rate allows: whole ones, by a token bucket.

A rate is of rows, or of shares of a second: what is bounded in several ways costs by that which it uses most of.

Whether a request is taken depends on the moment alone, not on its size: it may draw more than the bucket holds,
and the next ones wait until that is made good. So over any second a share of the traffic of each moment is
taken, small and large requests alike. Below the rate all are. Above it they are taken in runs of RUN_S worth of rows:
rows that are worked off together cost less.
"""

import time
from collections.abc import Callable

BURST_S = 1.0
RUN_S = 0.05


class Bucket:
    """Lets `rate` through each second, and a second's worth of it at once after a pause. For one thread."""

    __slots__ = ("_level", "_most", "_rate", "_since", "_run")

    def __init__(self, rate: float) -> None:
        """rate: 0 lets nothing through, infinity everything."""
        self._rate = rate
        self._most = self._level = rate * BURST_S
        self._run = min(rate * RUN_S, 1e9) if rate else 1.0
        self._since = time.monotonic()

    def take(self, cost: float) -> bool:
        """Say whether a request of `cost` is let through."""
        if self._level > 0:
            self._level -= cost
            return True
        now = time.monotonic()
        level = self._level + (now - self._since) * self._rate
        self._since = now
        self._level = level if level < self._most else self._most
        if self._level >= self._run:
            self._level -= cost
            return True
        return False


class Sampler:
    """A bucket that counts the rows it does not let through."""

    __slots__ = ("_cost", "_left_out", "_take")

    def __init__(self, bucket: Bucket, left_out: Callable[[int], None], cost: float = 1.0) -> None:
        """left_out: called with the rows of each request that is not let through. cost: of a row."""
        self._take = bucket.take
        self._left_out = left_out
        self._cost = cost

    def wants(self, rows: int) -> bool:
        """Say whether a request of `rows` is taken; count them if it is not."""
        if self._take(rows * self._cost):
            return True
        self._left_out(rows)
        return False
