"""Windows that slide over the buckets of one version, without counting any row twice."""

import numpy as np

from monitoring.backtest.counted import Counted
from monitoring.shift.drift import Window


class Sliding:
    """The sum of the last `length` buckets before a step; steps must not go back."""

    def __init__(self, counted: Counted, length: int) -> None:
        self._counted = counted
        self._length = length
        self._low = self._high = 0
        self._counts = np.zeros(counted.counts.shape[1:], np.int64)
        self._sums = np.zeros(counted.sums.shape[1])
        self._estimated = np.zeros(counted.estimated.shape[1])
        self._rows = self._embedded = 0

    def move(self, step: int) -> bool:
        """Let the window end where the bucket `step` begins; return whether it holds other rows than before."""
        low, high = np.searchsorted(self._counted.buckets, (step - self._length, step)).tolist()
        if (low, high) == (self._low, self._high):
            return False
        self._add(self._high, high, 1)
        self._add(self._low, low, -1)
        self._low, self._high = low, high
        return True

    @property
    def window(self) -> Window:
        """What the window holds now."""
        whole = self._embedded == self._rows and len(self._sums)  # else the log lacks what the embedding needs
        return Window(self._counts.astype(np.float64), self._sums.copy() if whole else None, self._rows)

    @property
    def estimated(self) -> np.ndarray:
        """What the estimation adds up over the window, (m,)."""
        return self._estimated.copy()

    @property
    def whole(self) -> bool:
        """Whether all rows of the window were recorded whole."""
        return self._embedded == self._rows

    def _add(self, begin: int, end: int, sign: int) -> None:
        counted = self._counted
        if begin < end:
            self._counts += sign * counted.counts[begin:end].sum(axis=0, dtype=np.int64)
            self._sums += sign * counted.sums[begin:end].sum(axis=0)
            self._estimated += sign * counted.estimated[begin:end].sum(axis=0)
            self._rows += sign * int(counted.rows[begin:end].sum())
            self._embedded += sign * int(counted.embedded[begin:end].sum())
