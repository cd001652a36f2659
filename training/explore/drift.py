"""Does the data change: between the parts of a split, and along the file or the time?

Every signal (a column; of images brightness, contrast, ... as in monitoring) and the target are compared by
the two-sample Kolmogorov-Smirnov test, a target class by the share of its rows; all p-values of one question
are corrected together after Holm 1979, so that data without drift gives any finding with probability ALPHA
at most. A gap that is sure but smaller than MUCH is said, but no reason to worry.
"""

from dataclasses import dataclass

import numpy as np

from monitoring.shift import signals
from training.rows.data import Table

ALPHA = 0.01
MUCH = 0.1  # of the distance between two cumulative distributions, 0 to 1
MOST_ROWS = 100_000
MOST_SIGNALS = 500
WINDOWS = 10
FEWEST_WINDOW_ROWS = 60
CLASS_PREFIX = "class "
_CHUNK_ROWS = 4096


@dataclass(frozen=True)
class Signals:
    """A few numbers per row: values float32 (n, signals), rows int64 (n,) of the table, in ascending order."""

    names: tuple[str, ...]
    values: np.ndarray
    rows: np.ndarray


@dataclass(frozen=True)
class Drift:
    """How far apart the rows of each window are from all others, by signal.

    gap: float64 (windows, signals), the Kolmogorov-Smirnov distance.  p: the same, corrected after Holm.
    mean: float64 (windows, signals), of the signal in the window.  rows: per window.
    """

    names: tuple[str, ...]
    windows: tuple[str, ...]
    rows: tuple[int, ...]
    gap: np.ndarray
    p: np.ndarray
    mean: np.ndarray

    @property
    def sure(self) -> np.ndarray:
        """Return bool (windows, signals): differs, by Holm's correction."""
        found: np.ndarray = self.p < ALPHA
        return found

    @property
    def large(self) -> np.ndarray:
        """Return bool (windows, signals): differs surely and by much."""
        found: np.ndarray = self.sure & (self.gap >= MUCH)
        return found


def measure(table: Table) -> Signals:
    """Return the signals of all rows, of MOST_ROWS by hash if there are more; the target is the last of them."""
    rows = np.sort(np.argsort(table.key, kind="stable")[:MOST_ROWS])
    if table.names:
        names, values = table.names[:MOST_SIGNALS], np.array(table.x[rows, :MOST_SIGNALS])
    else:
        names = signals.names(table.spec, 0)[:-1]  # the last is of the answer of a model, which there is none of
        values = np.concatenate([
            signals.compute(table.spec, table.x[part], np.zeros((len(part), 1), dtype=np.float32))[:, :-1]
            for part in np.array_split(rows, -(-len(rows) // _CHUNK_ROWS))
        ])  # fmt: skip
    target = table.y[rows]
    if table.classes:
        names += tuple(CLASS_PREFIX + name for name in table.classes)
        values = np.column_stack([values, target[:, None] == np.arange(len(table.classes))])
    else:
        names, values = (*names, "target"), np.column_stack([values, target])
    return Signals(names, values.astype(np.float32), rows)


def between(measured: Signals, part: np.ndarray, unit: np.ndarray) -> Drift | None:
    """Return how validation and test differ from training; None if a part has less than two rows or groups.

    part: int64 (n,), 0, 1, 2 for training, validation, test, of all rows of the table.
    Rows of one group are no independent draws: where there are groups (`unit` repeats), each counts once,
    with the mean of its rows.
    """
    place, values = part[measured.rows], measured.values
    _, first, group = np.unique(unit[measured.rows], return_index=True, return_inverse=True)
    if len(first) < len(place):
        size = np.bincount(group)
        values = np.column_stack([np.bincount(group, column) / size for column in values.T])
        place = place[first]
    if np.bincount(place[place >= 0], minlength=3).min() < 2:
        return None
    found = [_against(values[place == 0], values[place == number]) for number in (1, 2)]
    means = np.stack([values[place == number].mean(axis=0) for number in (1, 2)])
    rows = tuple(int((place == number).sum()) for number in (1, 2))
    gap, p = (np.stack(both) for both in zip(*found, strict=True))
    return Drift(measured.names, ("validation", "test"), rows, gap, holm(p), means)


def along(measured: Signals, order: np.ndarray) -> Drift | None:
    """Return how each window differs from all other rows; None if there are too few rows for two windows.

    order: int64, a permutation of the measured rows; it is cut into windows of equal numbers of rows.
    """
    count = min(WINDOWS, len(order) // FEWEST_WINDOW_ROWS)
    if count < 2:
        return None
    values, cuts = measured.values[order], np.linspace(0, len(order), count + 1).astype(int)
    found, means = [], []
    for start, stop in zip(cuts[:-1], cuts[1:], strict=True):
        rest = np.concatenate([values[:start], values[stop:]])
        found.append(_against(rest, values[start:stop]))
        means.append(values[start:stop].mean(axis=0))
    gap, p = (np.stack(both) for both in zip(*found, strict=True))
    windows = tuple(
        f"{start / len(order):.0%}-{stop / len(order):.0%}" for start, stop in zip(cuts[:-1], cuts[1:], strict=True)
    )
    return Drift(measured.names, windows, tuple(np.diff(cuts).tolist()), gap, holm(p), np.stack(means))


def holm(p: np.ndarray) -> np.ndarray:
    """Return p-values of any shape, corrected for all of them together. Source: Holm 1979."""
    flat = p.ravel()
    order = np.argsort(flat, kind="stable")
    raised = np.maximum.accumulate(flat[order] * np.arange(len(flat), 0, -1))
    corrected = np.empty(len(flat))
    corrected[order] = np.minimum(raised, 1.0)
    return corrected.reshape(p.shape)


def _against(rest: np.ndarray, window: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return distance and p-value per signal for two sets of rows, float64 (signals,) each."""
    gap = np.array([distance(one, two) for one, two in zip(rest.T, window.T, strict=True)])
    return gap, p_values(gap, len(rest), len(window))


def distance(one: np.ndarray, two: np.ndarray) -> float:
    """Return the Kolmogorov-Smirnov distance of two samples."""
    one, two = np.sort(one), np.sort(two)
    places = np.concatenate([one, two])
    gaps = np.searchsorted(one, places, side="right") / len(one) - np.searchsorted(two, places, side="right") / len(two)
    return float(np.abs(gaps).max())


def p_values(gap: np.ndarray, one: int, two: int) -> np.ndarray:
    """Return p-values of distances between samples of these sizes: the limit of many rows, too high for few.

    Values that repeat make them too high as well: the test is then less sharp, never too eager.
    """
    from scipy.special import kolmogorov

    found: np.ndarray = kolmogorov(np.sqrt(one * two / (one + two)) * gap)
    return found
