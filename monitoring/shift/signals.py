"""Rows and outputs -> a few numbers per row (signals) -> counts per bin.

A signal is a number whose distribution says something about the traffic: a feature, the brightness of
an image, the confidence of the answer. Bins are fixed by the reference, so counts add up over replicas
and restarts. Counting costs one table lookup and one `bincount` for a whole batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from monitoring.shift import images, support
from monitoring.shift.support import Support
from registry.release import InputSpec

BINS = 16
CELLS = 4096  # resolution of the lookup table; bin edges lie on its grid, so table and reference agree exactly
MOST_SIGNALS = 100  # of a model, with the two that have no bins of their own: the embedding and the missing class
MOST_COLUMNS = 92
MOST_BINS_IN_ALL = 640  # of a model: a scrape prints two series for each
FEWEST_BINS = 4
OUTER_BINS = 2  # of a number that nothing bounds, beside those asked for
TENSOR = ("mean", "std", "min", "max")
CLASS, PREDICTION, REST = "predicted_class", "prediction", "other_columns_mean"
OUTPUTS = ("confidence", "margin", "entropy", CLASS)
EMBEDDING = "embedding"
EMPTY = " empty"  # behind the name of a column that may be empty: whether it is
TAKEN = frozenset((*OUTPUTS, PREDICTION, REST, support.NAME, EMBEDDING))


def names(spec: InputSpec, classes: int, supported: bool = False) -> tuple[str, ...]:
    """Return the signals of a model, in the order of the columns of `compute`; classes: 0 in a regression.

    supported: whether `compute` is given a support.
    """
    outside = (support.NAME,) if supported else ()
    return (*_input_names(spec), *empty_columns(spec), *outside, *(OUTPUTS if classes else (PREDICTION,)))


def indices(spec: InputSpec, classes: Sequence[object]) -> dict[str, Sequence[object]]:
    """Return the signals whose values are the index of a category or class, with those."""
    columns = spec.columns[:MOST_COLUMNS]
    found: dict[str, Sequence[object]] = {_signal(c): spec.categories[c] for c in columns if c in spec.categories}
    found |= dict.fromkeys(empty_columns(spec), ("filled", "empty"))
    return found | ({CLASS: classes} if classes else {})


def empty_columns(spec: InputSpec) -> dict[str, tuple[int, float]]:
    """Return, of each column that may be empty, the signal that says so, its place and what then stands in a row.

    As many as there may be signals. A value that is by chance what stands for none counts as empty, in the reference
    too.
    """
    spare = MOST_COLUMNS - min(len(spec.columns), MOST_COLUMNS)
    named = {f"{_signal(column)}{EMPTY}": (spec.columns.index(column), fill) for column, fill in spec.fills.items()}
    return dict([pair for pair in named.items() if pair[0] not in spec.columns][:spare])


def most_bins(signals: int, asked: int) -> int:
    """Return how many bins each of `signals` gets when `asked` are wanted: fewer where there are many signals."""
    return min(asked, max(FEWEST_BINS, MOST_BINS_IN_ALL // signals - OUTER_BINS))


def compute(
    spec: InputSpec,
    inputs: np.ndarray,
    outputs: np.ndarray,
    threshold: float | None = None,
    seen: Support | None = None,
) -> np.ndarray:
    """Return the signals of each row, float32 (n, signals).

    inputs: (n, *spec.shape) raw rows, all finite. outputs: probabilities (n, classes), or the prediction
    (n, 1) of a regression. threshold: see `registry.release.Draft`. seen: where the model has learned.
    """
    supported = seen is not None
    meter = Meter(spec, names(spec, outputs.shape[1] if outputs.shape[1] > 1 else 0, supported), threshold, seen)
    return meter.measure(inputs, outputs)


class Meter:
    """What is measured of each row for one reference, which may be older than a signal or name fewer."""

    def __init__(
        self, spec: InputSpec, signals: Sequence[str], threshold: float | None = None, seen: Support | None = None
    ) -> None:
        """signals: their names, in the order wanted. threshold, seen: see `compute`."""
        self.spec = spec
        self.signals = tuple(signals)
        self.classes = CLASS in self.signals
        self._threshold = threshold
        columns = {_signal(column) for column in spec.columns}
        self._alone = sum(name in columns for name in self.signals)
        self._seen = seen
        self._limits = seen.limits(spec.dtype) if seen is not None else None
        empty = [found for name, found in empty_columns(spec).items() if name in self.signals]
        self._empty = [place for place, _ in empty], np.array([fill for _, fill in empty]).astype(spec.dtype)
        every = names(spec, int(self.classes), seen is not None)
        own = tuple(_signal(column) for column in spec.columns[: self._alone])
        if spec.columns:
            rest = (REST,) if self._alone < len(spec.columns) else ()
            later = every[len(_input_names(spec)) :]
            # A release from before empty columns were counted names none of them, and pays for none.
            every = (*own, *rest, *(name for name in later if not name.endswith(EMPTY) or name in self.signals))
        # A release from before there were so many signals is measured by those it names.
        self._picked = None if every == self.signals else [every.index(name) for name in self.signals]

    def measure(self, inputs: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        """Return the signals of each row, float32 (n, signals), in the order of `signals`."""
        # Each signal lies in one piece: loops over all rows of one signal are long, over all signals of a row short.
        with np.errstate(over="ignore", invalid="ignore"):  # rows are finite, their squares and sums may not be
            parts = [*(part.T for part in self._inputs(inputs)), *_outputs(outputs, self._threshold)]
        values = np.concatenate(parts, axis=0, dtype=np.float32)
        return values.T if self._picked is None else values[self._picked].T

    def _inputs(self, inputs: np.ndarray) -> list[np.ndarray]:
        if self.spec.columns:
            found = _tabular(inputs, self._alone)
            places, fills = self._empty
            if places:
                found.append(inputs[:, places] == fills)
        elif len(self.spec.shape) >= 2:
            found = [images.measure(images.grey(inputs))]
        else:
            found = [_tensor(inputs.astype(np.float32, copy=False).reshape(len(inputs), -1))]
        if self._seen is not None and self._limits is not None:
            found.append(support.outside(inputs, self._seen.step, self._limits)[:, None])
        return found


@dataclass(frozen=True)
class Bins:
    """The bins of one signal: cells of width (high - low) / CELLS; bin k starts at cell `cuts[k - 1]`.

    Values outside [low, high) belong to the first or the last bin.
    """

    name: str
    low: float
    high: float
    cuts: tuple[int, ...]


class Binner:
    """Count rows into the bins of every signal."""

    def __init__(self, bins: Sequence[Bins]) -> None:
        self.signals = tuple(b.name for b in bins)
        self._low = np.array([b.low for b in bins], dtype=np.float32)
        self._scale = np.array([CELLS / (b.high - b.low) for b in bins], dtype=np.float32)
        self._offset = np.arange(len(bins), dtype=np.int32) * CELLS
        starts = [np.searchsorted(b.cuts, np.arange(CELLS), side="right") + s * BINS for s, b in enumerate(bins)]
        self._lookup = np.concatenate(starts).astype(np.uint16)  # small enough to stay in the cache of a core

    def cells(self, values: np.ndarray) -> np.ndarray:
        """Return the cell of each value, int32 (n, signals), for values (n, signals)."""
        return self._scaled(values).astype(np.int32)

    def places(self, values: np.ndarray) -> np.ndarray:
        """Return the bin of each value as its place in the row of all bins, signal after signal, (n, signals)."""
        cells = self._scaled(values).astype(np.int32, order="C")
        cells += self._offset
        return self._lookup.take(cells, mode="clip")

    def count(self, values: np.ndarray) -> np.ndarray:
        """Return how many rows fall into each bin, int64 (signals, BINS), for values (n, signals)."""
        size = len(self.signals) * BINS
        # Row by row: to add to one bin again and again, as the rows of one signal do, takes half as long again.
        return np.bincount(self.places(values).ravel(), minlength=size).reshape(-1, BINS)

    def _scaled(self, values: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):  # what lies so far outside is clipped below
            place: np.ndarray = values - self._low
            place *= self._scale
        np.fmin(place, CELLS - 1, out=place)
        np.fmax(place, 0, out=place)
        return place


def _input_names(spec: InputSpec) -> tuple[str, ...]:
    if spec.columns:
        rest = (REST,) if len(spec.columns) > MOST_COLUMNS else ()
        return (*map(_signal, spec.columns[:MOST_COLUMNS]), *rest)
    return images.NAMES if len(spec.shape) >= 2 else TENSOR


def _signal(column: str) -> str:
    # Two signals of one name would be one series: a column named like an output makes way.
    return f"input_{column}" if column in TAKEN else column


def _tabular(rows: np.ndarray, alone: int) -> list[np.ndarray]:
    if rows.shape[1] <= alone:
        return [rows]
    return [rows[:, :alone], rows[:, alone:].astype(np.float32, copy=False).mean(axis=1)[:, None]]


def _tensor(rows: np.ndarray) -> np.ndarray:
    return np.column_stack([rows.mean(axis=1), rows.std(axis=1), rows.min(axis=1), rows.max(axis=1)])


def _outputs(outputs: np.ndarray, threshold: float | None) -> list[np.ndarray]:
    if outputs.shape[1] == 1:
        return [outputs.T]
    by_class = np.ascontiguousarray(outputs.T)
    most, second = by_class[0].copy(), np.zeros_like(by_class[0])
    for other in by_class[1:]:
        np.maximum(second, np.minimum(most, other), out=second)
        np.maximum(most, other, out=most)
    entropy = -(by_class * np.log(np.maximum(by_class, 1e-12))).sum(axis=0)
    predicted = outputs.argmax(axis=1) if threshold is None else outputs[:, 1] >= threshold
    return [column[None] for column in (most, most - second, entropy, predicted)]
