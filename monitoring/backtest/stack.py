"""Windows that slide over the buckets of one version, many steps at once."""

from collections.abc import Iterator
from dataclasses import dataclass, fields

import numpy as np

from monitoring.backtest.counted import Counted

BLOCK_CELLS = 1 << 16  # of the counts of a stack: it stays in the cache of a core


@dataclass(frozen=True)
class Stack:
    """Windows one after another. changed: whether each holds other rows than the one before it, bool (n,).

    counts: float64 (n, signals, BINS). sums: of the embedding's components, (n, k), NaN where a row was not recorded
    whole. rows: int64 (n,). whole: whether all of them were, bool (n,). estimated: (n, m), see `Counted`.
    """

    changed: np.ndarray
    counts: np.ndarray
    sums: np.ndarray
    rows: np.ndarray
    whole: np.ndarray
    estimated: np.ndarray

    def some(self, chosen: np.ndarray) -> "Stack":
        """Return the windows at `chosen` places."""
        return Stack(*(getattr(self, field.name)[chosen] for field in fields(self)))


class Stacking:
    """The sums of the last `length` buckets before steps; steps must not go back from one call to the next."""

    def __init__(self, counted: Counted, length: int) -> None:
        self._counted, self._length = counted, length
        self._low = self._high = 0
        parts = (counted.counts, counted.sums, counted.rows, counted.embedded, counted.estimated)
        self._totals = [np.zeros(part.shape[1:], _wide(part)) for part in parts]
        self._parts = parts

    def over(self, steps: np.ndarray) -> Stack:
        """Return the windows that end where the buckets `steps` (rising, one or more) begin."""
        buckets = self._counted.buckets
        low, high = np.searchsorted(buckets, steps - self._length), np.searchsorted(buckets, steps)
        changed = (np.diff(low, prepend=self._low) != 0) | (np.diff(high, prepend=self._high) != 0)
        counts, sums, rows, embedded, estimated = (self._summed(place, low, high) for place in range(len(self._parts)))
        self._low, self._high = int(low[-1]), int(high[-1])
        whole = embedded == rows
        sums = np.where(whole[:, None], sums, np.nan)
        return Stack(changed, counts.astype(np.float64), sums, rows, whole, estimated)

    def _summed(self, place: int, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        # Of each window, and keeps that of the last one.
        part, total = self._parts[place], self._totals[place]
        found: np.ndarray = total + _running(part, self._high, high) - _running(part, self._low, low)
        self._totals[place] = found[-1].copy()
        return found


def blocks(steps: np.ndarray, counted: Counted) -> Iterator[np.ndarray]:
    """Yield steps in blocks of which a stack takes little memory."""
    most = max(1, BLOCK_CELLS // max(1, int(np.prod(counted.counts.shape[1:]))))
    return (steps[begin : begin + most] for begin in range(0, len(steps), most))


def _running(part: np.ndarray, begin: int, ends: np.ndarray) -> np.ndarray:
    # The sum of the buckets from `begin` up to each of `ends`.
    sums = np.zeros((int(ends[-1]) - begin + 1, *part.shape[1:]), _wide(part))
    np.cumsum(part[begin : ends[-1]], axis=0, dtype=sums.dtype, out=sums[1:])
    found: np.ndarray = sums[ends - begin]
    return found


def _wide(part: np.ndarray) -> np.dtype:
    return np.dtype(np.float64 if part.dtype.kind == "f" else np.int64)
