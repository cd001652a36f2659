"""Rows and outputs -> a few numbers per row (signals) -> counts per bin.

A signal is a number whose distribution says something about the traffic: a feature, the brightness of
an image, the confidence of the answer. Bins are fixed by the reference, so counts add up over replicas
and restarts. Counting costs one table lookup and one `bincount` for a whole batch.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from monitoring.sampling import Bucket
from registry.release import InputSpec

BINS = 16
CELLS = 4096  # resolution of the lookup table; bin edges lie on its grid, so table and reference agree exactly
MOST_COLUMNS = 96
FLUSH_S = 2e-4  # how long counting may delay an answer
CPU_SHARE = 0.02
MOST_BUFFER_ROWS = 512
IMAGE = (
    "brightness", "contrast", "sharpness", "edge_x", "edge_y",
    "centre_x", "centre_y", "spread_x", "spread_y", "above_mean",
)  # fmt: skip
TENSOR = ("mean", "std", "min", "max")
CLASS, PREDICTION, REST = "predicted_class", "prediction", "other_columns_mean"
OUTPUTS = ("confidence", "margin", "entropy", CLASS)


def names(spec: InputSpec, classes: int) -> tuple[str, ...]:
    """Return the signals of a model, in the order of the columns of `compute`; classes: 0 in a regression."""
    return (*_input_names(spec), *(OUTPUTS if classes else (PREDICTION,)))


def indices(spec: InputSpec, classes: Sequence[object]) -> dict[str, Sequence[object]]:
    """Return the signals whose values are the index of a category or class, with those."""
    columns = spec.columns[:MOST_COLUMNS]
    found: dict[str, Sequence[object]] = {_signal(c): spec.categories[c] for c in columns if c in spec.categories}
    return found | ({CLASS: classes} if classes else {})


def compute(spec: InputSpec, inputs: np.ndarray, outputs: np.ndarray, threshold: float | None = None) -> np.ndarray:
    """Return the signals of each row, float32 (n, signals).

    inputs: (n, *spec.shape) raw rows, all finite. outputs: probabilities (n, classes), or the prediction
    (n, 1) of a regression. threshold: see `registry.release.Draft`.
    """
    rows = inputs.astype(np.float32, copy=False)
    if spec.columns:
        measured = _tabular(rows)
    elif len(spec.shape) >= 2:
        measured = _image(_grey(rows))
    else:
        measured = _tensor(rows.reshape(len(rows), -1))
    return np.concatenate([measured, _outputs(outputs, threshold)], axis=1, dtype=np.float32)


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
        place = values - self._low
        place *= self._scale
        np.fmin(place, CELLS - 1, out=place)
        np.fmax(place, 0, out=place)
        return place.astype(np.int32)

    def count(self, values: np.ndarray) -> np.ndarray:
        """Return how many rows fall into each bin, int64 (signals, BINS), for values (n, signals)."""
        cells = self.cells(values)
        cells += self._offset
        bins = self._lookup.take(cells.ravel(), mode="clip")
        return np.bincount(bins, minlength=len(self.signals) * BINS).reshape(-1, BINS)


class Tally:
    """The running counts of one release; rows wait in a buffer so that one `bincount` serves many.

    A killed process loses the rows that wait: call `flush` every second or so.
    later: where set, called with what is still to do when a request was larger than the buffer, as
    `loop.call_soon` is; otherwise that is done at once.
    """

    later: Callable[[Callable[[], None]], object] | None = None

    def __init__(
        self,
        spec: InputSpec,
        binner: Binner,
        threshold: float | None = None,
        counts: np.ndarray | None = None,
        rows_per_s: float = math.inf,
    ) -> None:
        """threshold: see `registry.release.Draft`. counts: (signals, BINS), what to add to; new zeros if None.

        rows_per_s: what is counted, at most, and fewer of those rows that would take more than CPU_SHARE of a
        core; whole requests beyond that are left out. Infinity counts all.
        """
        self._spec = spec
        self._threshold = threshold
        self._binner = binner
        self._inputs: list[np.ndarray] = []
        self._outputs: list[np.ndarray] = []
        self._rows = 0
        self._counts = np.zeros((len(binner.signals), BINS)) if counts is None else counts
        call_s, row_s = self._line()
        fits = max((FLUSH_S - call_s) / row_s, call_s / row_s)  # as many as fit, or the call costs more than its rows
        self.buffer_rows = max(1, min(MOST_BUFFER_ROWS, round(fits)))
        cost_s = call_s / self.buffer_rows + row_s
        self._takes = Bucket(rows_per_s if math.isinf(rows_per_s) else min(rows_per_s, CPU_SHARE / cost_s)).take

    def add(self, inputs: np.ndarray, outputs: np.ndarray) -> None:
        """Remember a request; counts it only when enough rows are waiting."""
        rows = len(inputs)
        if self._takes(rows):
            self._inputs.append(inputs)
            self._outputs.append(outputs)
            self._rows += rows
            if self._rows >= self.buffer_rows:
                self._drain()

    def flush(self) -> None:
        """Count all rows that wait."""
        while self._rows:
            self._count_some()

    def counts(self) -> np.ndarray:
        """Return the counts of all rows so far, float64 (signals, BINS)."""
        self.flush()
        return self._counts

    def _drain(self) -> None:
        while self._rows >= self.buffer_rows:
            self._count_some()
            if self.later is not None and self._rows >= self.buffer_rows:
                self.later(self._drain)
                return

    def _count_some(self) -> None:
        inputs, outputs = _joined(self._inputs), _joined(self._outputs)
        here, rest = slice(self.buffer_rows), slice(self.buffer_rows, None)
        self._inputs, self._outputs = [inputs[rest]], [outputs[rest]]
        self._rows = len(inputs[rest])
        if not self._rows:
            self._inputs, self._outputs = [], []
        self._counts += self._count(inputs[here], outputs[here])

    def _count(self, inputs: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        return self._binner.count(compute(self._spec, inputs, outputs, self._threshold))

    def _line(self) -> tuple[float, float]:
        # What a call costs, and each row in it: from one row and so many that they cost twice as much.
        rows, one = 2, self._cost_s(1)
        while (many := self._cost_s(rows)) < 2 * one and rows < MOST_BUFFER_ROWS:
            rows *= 2
        row_s = max(many - one, 1e-9) / (rows - 1)
        return max(one - row_s, 0.0), row_s

    def _cost_s(self, rows: int) -> float:
        inputs = np.zeros((rows, *self._spec.shape), dtype=self._spec.dtype)
        outputs = np.full((rows, 2 if CLASS in self._binner.signals else 1), 0.5, dtype=np.float32)
        took = []
        for _ in range(4):
            begun = time.thread_time()  # of this thread alone: a release is loaded while another one answers
            self._count(inputs, outputs)
            took.append(time.thread_time() - begun)
        return min(took)


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _input_names(spec: InputSpec) -> tuple[str, ...]:
    if spec.columns:
        rest = (REST,) if len(spec.columns) > MOST_COLUMNS else ()
        return (*map(_signal, spec.columns[:MOST_COLUMNS]), *rest)
    return IMAGE if len(spec.shape) >= 2 else TENSOR


def _signal(column: str) -> str:
    # Two signals of one name would be one series: a column named like an output makes way.
    return f"input_{column}" if column in (*OUTPUTS, PREDICTION, REST) else column


def _tabular(rows: np.ndarray) -> np.ndarray:
    if rows.shape[1] <= MOST_COLUMNS:
        return rows
    return np.column_stack([rows[:, :MOST_COLUMNS], rows[:, MOST_COLUMNS:].mean(axis=1)])


def _tensor(rows: np.ndarray) -> np.ndarray:
    return np.column_stack([rows.mean(axis=1), rows.std(axis=1), rows.min(axis=1), rows.max(axis=1)])


def _grey(rows: np.ndarray) -> np.ndarray:
    # (n, height, width) from one grey, channels-first or channels-last image; channels are the short axis.
    if rows.ndim == 3:
        return rows
    axis = 1 + int(np.argmin(rows.shape[1:]))
    return rows.mean(axis=axis) if rows.ndim == 4 else rows.reshape(len(rows), rows.shape[1], -1)


def _image(x: np.ndarray) -> np.ndarray:
    # x: float32 (n, height, width); centre and spread are the first moments of the brightness, in pixels.
    flat = x.reshape(len(x), -1)
    mean = flat.mean(axis=1)
    inner = x[:, 1:-1, 1:-1]
    curvature = 4 * inner - x[:, :-2, 1:-1] - x[:, 2:, 1:-1] - x[:, 1:-1, :-2] - x[:, 1:-1, 2:]
    edge_x = np.abs(np.diff(x, axis=2)).mean(axis=(1, 2))
    edge_y = np.abs(np.diff(x, axis=1)).mean(axis=(1, 2))
    lit = x - x.min(axis=(1, 2), keepdims=True).clip(None, 0)  # pixels below 0 have no mass: the darkest is 0 then
    (centre_x, spread_x), (centre_y, spread_y) = _moments(lit.sum(axis=1)), _moments(lit.sum(axis=2))
    above = (flat > mean[:, None]).mean(axis=1)
    columns = [mean, flat.std(axis=1), curvature.var(axis=(1, 2)), edge_x, edge_y]
    return np.column_stack([*columns, centre_x, centre_y, spread_x, spread_y, above])


def _moments(profile: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    place = np.arange(profile.shape[1], dtype=np.float32)
    mass = profile.sum(axis=1) + 1e-6  # a blank image has its centre at 0 and no spread
    centre = (profile * place).sum(axis=1) / mass
    spread = np.sqrt((profile * (place - centre[:, None]) ** 2).sum(axis=1).clip(0) / mass)
    return centre, spread


def _outputs(outputs: np.ndarray, threshold: float | None) -> np.ndarray:
    if outputs.shape[1] == 1:
        return outputs
    top = np.sort(outputs, axis=1)
    entropy = -(outputs * np.log(outputs.clip(1e-12))).sum(axis=1)
    predicted = outputs.argmax(axis=1) if threshold is None else outputs[:, 1] >= threshold
    return np.column_stack([top[:, -1], top[:, -1] - top[:, -2], entropy, predicted])
