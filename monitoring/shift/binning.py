"""Where the bins of a signal lie: fixed by the reference, so that counts add up over replicas and restarts."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from monitoring.shift.signals import BINS, CELLS, Binner, Bins

# The range of a number: as wide again three times, on each side, as what lies between two quantiles that no 5 % of the
# rows can move. The second pair is for a column that holds one value nearly always.
SPREADS = ((0.06, 0.94), (0.02, 0.98))
ROOM = 3.0
FEWEST_INSIDE = 4  # bins
BOUNDED_SPREAD = (0.005, 0.995)  # of a signal that no row can throw far
# Counting is done in float32: of a range that is wider or narrower the width, or cells in a unit, would be infinite.
FARTHEST = float(np.finfo(np.float32).max) / 2
NARROWEST = CELLS / FARTHEST


def codes_of(bins: tuple[Bins, ...], far: tuple[tuple[int, ...], ...], values: np.ndarray) -> np.ndarray:
    """Return the bin of each value, int64 (rows, signals), -1 where it is outside the range of its signal."""
    cells = Binner(bins).cells(values)
    codes = np.empty(cells.shape, dtype=np.int64)
    for s, (cut, apart) in enumerate(zip(bins, far, strict=True)):
        codes[:, s] = np.searchsorted(cut.cuts, cells[:, s], side="right")
        codes[np.isin(codes[:, s], apart), s] = -1
    return codes


def of_index(name: str, column: np.ndarray, count: int) -> Bins:
    """Return the bins of a signal that is the index of one of `count` values.

    One bin for each value and one for any other, as far as they go; of too many values, neighbours together so that
    each bin has about as many rows.
    """
    cuts = tuple(range(1, min(count + 1, BINS))) if count <= BINS else _cuts(column.astype(np.int64), BINS)
    return Bins(name, 0.0, float(CELLS), cuts)


def held(bins: Bins, names: Sequence[str]) -> tuple[str, ...]:
    """Return what each bin of an index holds: a name, or the first and the last of several; "" for none."""
    edges = (0, *bins.cuts, max(len(names), bins.cuts[-1] if bins.cuts else 0))
    groups = [names[low:high] for low, high in pairwise(edges)]
    return tuple(" to ".join(dict.fromkeys((group[0], group[-1]))) if group else "" for group in groups)


def of_number(name: str, column: np.ndarray, most: int, endless: bool) -> Bins:
    """Return at most `most` bins with about as many rows each.

    The first and the last lie outside the range of the signal if it is endless, and hold few or no rows.

    endless: whether nothing bounds the signal. Numbers that are not finite do not count.
    """
    column = column[np.isfinite(column)] if np.isfinite(column).any() else np.zeros(1)
    low, high = _range(column, SPREADS, ROOM) if endless else _range(column, (BOUNDED_SPREAD,), 0.5)
    cells = Binner([Bins(name, low, high, ())]).cells(column[:, None])[:, 0]
    if not endless:
        return Bins(name, low, high, _cuts(cells, most))
    inside = cells[(cells > 0) & (cells < CELLS - 1)]
    inner = _cuts(inside if len(inside) else cells, max(min(most, FEWEST_INSIDE), most - 2))
    return Bins(name, low, high, tuple(sorted({1, CELLS - 1, *inner})))


def _range(column: np.ndarray, spreads: tuple[tuple[float, float], ...], room: float) -> tuple[float, float]:
    for pair in spreads:
        low, high = (float(q) for q in np.quantile(column, pair))
        if high > low:
            break
    more = (high - low) * room or max(abs(low), 1.0)  # a constant column gets room on both sides: leaving it is drift
    more = max(more, NARROWEST)
    return max(low - more, -FARTHEST), min(high + more, FARTHEST)


def _cuts(cells: np.ndarray, most: int) -> tuple[int, ...]:
    inner = np.unique(np.quantile(cells, np.linspace(0, 1, most + 1)[1:-1], method="higher"))
    if len(inner) == 1:  # one value takes nearly all rows: itself, below, above
        inner = np.array([inner[0], inner[0] + 1])
    return tuple(int(cut) for cut in inner if 0 < cut < CELLS)
