"""How much one column alone says about the target: a column that says all was written with the answer in view.

The column is cut into steps of equal numbers of rows, each step answers with its class (or its mean), and
the score is measured on the half of the rows that the answer was not taken from. No search, no tuning:
a column that is independent of the target stays at chance.
"""

from collections.abc import Iterator

import numpy as np

from training.rows import split
from training.rows.data import Table

MOST_ROWS = 20_000
MOST_VALUES = 2**24  # rows times columns that are looked at
MOST_COLUMNS = 4096
STEPS = 1024
COARSER = 4  # each resolution has this many times fewer steps than the one before; the best one counts
FEWEST_ROWS = 8  # of a class in each half: fewer can be told apart by chance
FEWEST_REGRESSION = 30
_MOST_CELLS = 2**22  # counted at a time, of columns, halves, steps and classes


def scores(table: Table, rows: np.ndarray) -> np.ndarray:
    """Return float64 (columns,): of each column alone, from a sample of `rows`; NaN where too few rows are left.

    Classification: balanced accuracy. Regression: R2, the best of the steps, of a straight line and of a
    straight line through the ranks. Images: each value of an image is a column; see `columns`.
    """
    rows = sample(table, rows)
    x = columns(table.x[rows])
    return of_columns(x, table.y[rows], halves(table, rows), len(table.classes))


def of_columns(x: np.ndarray, y: np.ndarray, half: np.ndarray, classes: int) -> np.ndarray:
    """Return the score of each column of x (n, columns); half: int64 (n,), 0 or 1. classes: 0 in a regression."""
    if not classes:
        return _regression(x, y, half)
    counts = np.stack([np.bincount(y[half == h], minlength=classes) for h in (0, 1)])
    kept = np.flatnonzero(counts.min(axis=0) >= FEWEST_ROWS)
    if len(kept) < 2:
        return np.full(x.shape[1], np.nan)
    chosen = np.isin(y, kept)
    y, half = np.searchsorted(kept, y[chosen]), half[chosen]
    return np.concatenate([_votes(steps, y, half, len(kept)) for steps in _stepped(x[chosen], len(kept))])


def sample(table: Table, rows: np.ndarray) -> np.ndarray:
    """Return at most MOST_ROWS of the rows, fewer of wide ones; every class has its say, the choice is by hash."""
    most = min(MOST_ROWS, max(512, MOST_VALUES // min(int(np.prod(table.x.shape[1:])), MOST_COLUMNS)))
    if len(rows) <= most:
        return rows
    order = rows[np.argsort(table.key[rows], kind="stable")]
    if not table.classes:
        return np.sort(order[:most])
    each = max(2 * FEWEST_ROWS, most // len(table.classes))
    return np.sort(np.concatenate([order[table.y[order] == c][:each] for c in range(len(table.classes))]))


def columns(x: np.ndarray) -> np.ndarray:
    """Return x (n, *shape) as (n, columns); of more than MOST_COLUMNS values every second, third, ... is taken."""
    return x.reshape(len(x), -1)[:, :: column_step(x.shape[1:])]


def column_step(shape: tuple[int, ...]) -> int:
    """Return k where every k-th value of a row of this shape is looked at."""
    return -(-int(np.prod(shape)) // MOST_COLUMNS)


def halves(table: Table, rows: np.ndarray) -> np.ndarray:
    """Return 0 or 1 per row, by group where that gives two fair halves, else by row."""
    for hashes in (table.unit[rows], table.key[rows]):
        half = split.halves(hashes)
        if 0.25 <= half.mean() <= 0.75:
            break
    return half


def _stepped(x: np.ndarray, classes: int) -> Iterator[np.ndarray]:
    """Yield x as steps in [0, STEPS), int64 (n, columns), as many columns at a time as memory is meant for."""
    count = max(1, min(64, _MOST_CELLS // (2 * STEPS * classes)))
    for start in range(0, x.shape[1], count):
        part = x[:, start : start + count]
        if x.dtype == np.uint8:
            yield part.astype(np.int64) * (STEPS // 256)
        else:
            yield np.column_stack([_steps(column) for column in part.T])


def _steps(column: np.ndarray) -> np.ndarray:
    values, rank, size = np.unique(column, return_inverse=True, return_counts=True)
    if len(values) <= STEPS:
        return rank * STEPS // len(values)
    first = np.cumsum(size) - size  # the rows below a value: equal values share a step
    return (first * STEPS // len(column))[rank]


def _cells(steps: np.ndarray, half: np.ndarray) -> np.ndarray:
    """Return one index per value for (column, half, step), int64 (n, columns)."""
    cells: np.ndarray = (np.arange(steps.shape[1]) * 2 + half[:, None]) * STEPS + steps
    return cells


def _votes(steps: np.ndarray, y: np.ndarray, half: np.ndarray, classes: int) -> np.ndarray:
    cells = _cells(steps, half) * classes + y[:, None]
    counts = np.bincount(cells.ravel(), minlength=steps.shape[1] * 2 * STEPS * classes)
    share = counts.reshape(steps.shape[1], 2, STEPS, classes).astype(np.float32)
    share /= share.sum(axis=2, keepdims=True)  # of the rows of a class: a rare class has the same voice
    best = np.zeros(steps.shape[1])
    while share.shape[2] > 1:
        pick = _filled(share.argmax(axis=3), share.max(axis=3) > 0)[:, ::-1]  # each half is judged by the other's votes
        right = np.take_along_axis(share, pick[..., None], axis=3).sum(axis=(2, 3)) / classes
        best = np.maximum(best, right.mean(axis=1))
        share = share.reshape(share.shape[0], 2, -1, COARSER, classes).sum(axis=3)
    return best


def _filled(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return values (columns, 2, steps); where a step holds no row, that of the step before it, or of the first."""
    place = np.where(known, np.arange(known.shape[2]), -1)
    before = np.maximum.accumulate(place, axis=2)
    first = known.argmax(axis=2)[..., None]
    return np.take_along_axis(values, np.where(before < 0, first, before), axis=2)


def _regression(x: np.ndarray, y: np.ndarray, half: np.ndarray) -> np.ndarray:
    spreads = [y[half == h].std() if (half == h).any() else 0.0 for h in (0, 1)]
    if len(y) < FEWEST_REGRESSION or min(spreads) == 0:
        return np.full(x.shape[1], np.nan)
    y = (y - y.mean()) / y.std()
    ranks = _steps(y).astype(np.float64)
    straight = _squared_correlation(x.astype(np.float64), y)
    found = []
    for steps in _stepped(x, 1):
        ordered = _squared_correlation(steps.astype(np.float64), ranks)
        found.append(np.maximum(ordered, _means(steps, y, half)))
    best: np.ndarray = np.maximum(np.concatenate(found), straight)
    return best


def _squared_correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    x, y = x - x.mean(axis=0), y - y.mean()
    below = (x * x).sum(axis=0) * (y * y).sum()
    above = (x * y[:, None]).sum(axis=0) ** 2
    share: np.ndarray = np.divide(above, below, out=np.zeros(x.shape[1]), where=below > 0)
    return share


def _means(steps: np.ndarray, y: np.ndarray, half: np.ndarray) -> np.ndarray:
    cells, size = _cells(steps, half).ravel(), steps.shape[1] * 2 * STEPS
    shape = (steps.shape[1], 2, STEPS)
    weights = np.broadcast_to(y[:, None], steps.shape).ravel()
    count = np.bincount(cells, minlength=size).reshape(shape).astype(np.float64)
    total = np.bincount(cells, weights, minlength=size).reshape(shape)
    spread = np.array([((y[half == h] - y[half == h].mean()) ** 2).sum() for h in (0, 1)])
    squares = np.array([(y[half == h] ** 2).sum() for h in (0, 1)])
    best = np.zeros(steps.shape[1])
    while count.shape[2] > 1:
        mean = np.divide(total, count, out=np.zeros_like(total), where=count > 0)
        guess = _filled(mean, count > 0)[:, ::-1]
        lost = squares - 2 * (guess * total).sum(axis=2) + (guess**2 * count).sum(axis=2)
        best = np.maximum(best, (1 - lost / spread).mean(axis=1))
        count, total = (v.reshape(v.shape[0], 2, -1, COARSER).sum(axis=3) for v in (count, total))
    return best
