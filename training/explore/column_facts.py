"""What each column holds: range, quartiles, zeros, distinct values; which of them say nothing or say it twice."""

from dataclasses import dataclass

import numpy as np

from training.rows.data import Table

MOST_ROWS = 200_000
MOST_COLUMNS = 500
MOST_PAIRED = 300
BARS = 20
NEARLY = 0.99  # share of one value in a column that is nearly constant
SAME = 0.9999  # correlation of two columns that are one
MOST_CURVES = 4  # classes that are drawn apart
FEWEST_REPEATS = 3


@dataclass(frozen=True)
class Column:
    """One column. top_share: of its most frequent value. filled: rows whose cell was empty.

    values: of a category, its texts by number of rows, else (). bars: rows in BARS equal steps from minimum
    to maximum, per class if there are at most MOST_CURVES.
    """

    name: str
    minimum: float
    quartile_1: float
    median: float
    quartile_3: float
    maximum: float
    mean: float
    zeros: float
    distinct: int
    top_share: float
    filled: int
    values: tuple[tuple[str, int], ...]
    bars: tuple[tuple[int, ...], ...]

    @property
    def constant(self) -> bool:
        """Return whether it holds one value only."""
        return self.distinct == 1

    @property
    def nearly_constant(self) -> bool:
        """Return whether nearly all rows hold one value."""
        return not self.constant and self.top_share >= NEARLY


def describe(table: Table, rows: np.ndarray) -> list[Column]:
    """Return the facts of the first MOST_COLUMNS columns, over these rows of the table."""
    y = table.y[rows]
    labels = y if 0 < len(table.classes) <= MOST_CURVES else np.zeros(len(rows), dtype=np.int64)
    names = table.names[:MOST_COLUMNS]
    return [_column(table, rows, place, labels) for place in range(len(names))]


def _column(table: Table, rows: np.ndarray, place: int, labels: np.ndarray) -> Column:
    name, column = table.names[place], table.x[rows, place]
    values, index, size = np.unique(column, return_inverse=True, return_counts=True)
    low, first, median, third, high = (float(q) for q in np.quantile(column, [0, 0.25, 0.5, 0.75, 1]))
    texts = table.categories.get(name, ())
    if texts:
        named = sorted(((texts[int(v)], int(n)) for v, n in zip(values, size, strict=True)), key=lambda pair: -pair[1])
    bars = tuple(_bars(column[labels == label], low, high) for label in range(int(labels.max()) + 1))
    return Column(
        name, low, first, median, third, high, float(column.mean(dtype=np.float64)), float((column == 0).mean()),
        len(values), float(size.max() / len(column)), int(table.empty[name][rows].sum()) if name in table.empty else 0,
        tuple(named) if texts else (), bars,
    )  # fmt: skip


def _bars(column: np.ndarray, low: float, high: float) -> tuple[int, ...]:
    place = ((column.astype(np.float64) - low) * (BARS / ((high - low) or 1.0))).astype(np.int64)
    return tuple(np.bincount(np.minimum(place, BARS - 1), minlength=BARS).tolist())


def twins(table: Table, rows: np.ndarray) -> list[tuple[str, str]]:
    """Return pairs of columns, among the first MOST_PAIRED, that are the same but for scale and offset."""
    x = table.x[rows, :MOST_PAIRED].astype(np.float64)
    x -= x.mean(axis=0)
    length = np.sqrt((x * x).sum(axis=0))
    x /= np.where(length > 0, length, 1.0)
    near = np.triu(np.abs(x.T @ x) > SAME, k=1)
    return [(table.names[a], table.names[b]) for a, b in np.argwhere(near)]


def codes(table: Table, rows: np.ndarray) -> list[tuple[str, float, int]]:
    """Return (column, value, rows) where a lowest or highest value stands alone, far from all others, in several rows.

    Far: further from the next value than all the others are from each other. Such a value (-999, 9999) is
    often a code for "not known".
    """
    found = []
    for place, name in enumerate(table.names[:MOST_COLUMNS]):
        if name in table.categories:
            continue
        values, size = np.unique(table.x[rows, place], return_counts=True)
        for end, rest in ((0, values[1:]), (-1, values[:-1])):
            if len(values) < 10 or size[end] < FEWEST_REPEATS:
                continue
            if np.abs(values[end] - rest).min() > rest[-1] - rest[0]:
                found.append((name, float(values[end]), int(size[end])))
    return found


def balance(table: Table, parts: dict[str, np.ndarray]) -> tuple[tuple[str, ...], dict[str, tuple[int, ...]]]:
    """Return names of classes, or of steps of the target, and the number of rows of each, per part."""
    if table.classes:
        return table.classes, {
            part: tuple(np.bincount(table.y[rows], minlength=len(table.classes)).tolist())
            for part, rows in parts.items()
        }
    cuts = np.linspace(table.y.min(), table.y.max(), BARS + 1)
    names = tuple(f"{a:.4g} to {b:.4g}" for a, b in zip(cuts[:-1], cuts[1:], strict=True))
    return names, {part: tuple(np.histogram(table.y[rows], cuts)[0].tolist()) for part, rows in parts.items()}
