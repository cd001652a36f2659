"""The metrics of the signals: bins, the embedding, and what the reference says of them; without an object per series.

The others are declared in `monitoring.metrics`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from monitoring.counting.counts import Counts, Totals
from monitoring.metrics import EMBEDDING_ROWS, EMBEDDING_SUM, RELEASE, SIGNAL_BIN
from monitoring.shift.signals import CLASS, EMBEDDING


@dataclass(frozen=True)
class SignalState:
    """What was counted of one live release in this worker, as the scrape reads it.

    counts: (signals, BINS). shares: per signal, of each of its bins. `rows` is the size of the reference.
    sums: of the embedding's components, and the rows last. centres: (components,), their means in the reference.
    far: per signal, the bins outside its range; outside: the share of the reference's rows in them. slopes: per
    signal, the embedding's last; classes, missing_limits: see `monitoring.shift.reference.Reference`.
    """

    model: str
    version: str
    signals: tuple[str, ...]
    counts: np.ndarray
    shares: Sequence[Sequence[float]] | np.ndarray
    rows: int
    sums: np.ndarray | None = None
    centres: Sequence[float] = ()
    far: Sequence[Sequence[int]] = ()
    outside: Sequence[float] = ()
    slopes: Sequence[float] = ()
    classes: Sequence[str] = ()
    missing_limits: Mapping[str, float] = field(default_factory=dict)

    def values(self, counts: np.ndarray | None, sums: np.ndarray | None) -> dict[str, list[float]]:
        """Return what is printed of each counter, in the order of its series.

        counts, sums: of all workers, flat; what this one has counted for None.
        """
        table = (self.counts if counts is None else counts.reshape(self.counts.shape)).astype(np.int64).tolist()
        summed = self.sums if sums is None else sums
        every = summed.tolist() if summed is not None and len(self.centres) else []
        return {
            SIGNAL_BIN: [n for row, shares in zip(table, self.shares, strict=True) for n in row[: len(shares)]],
            EMBEDDING_SUM: every[:-1],
            EMBEDDING_ROWS: [int(n) for n in every[-1:]],
        }


class SignalCollector(Collector):
    """Expose the signal counts of every live release without one object per series.

    Bins that a signal does not have are not printed, nor a release that is not live: no rule reads them.
    """

    def __init__(self, states: Callable[[], Iterable[SignalState]], counts: Counts | None = None) -> None:
        """counts: adds the other workers, living and dead; without, the states are all there is."""
        self._states = states
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        """Yield counters and sums, and what the reference says of each."""
        states = list(self._states())  # first: to ask for them counts the rows that wait
        yield from self._bins(states)
        yield from _limits(states)
        yield from _classes(states)
        yield from self._embeddings(states)

    def _bins(self, states: Iterable[SignalState]) -> Iterator[Metric]:
        labels = (*RELEASE, "signal", "bin")
        counts = CounterMetricFamily(SIGNAL_BIN, "Rows per bin of a signal", labels=labels)
        shares = GaugeMetricFamily("vigil_reference_share", "Share of a bin in the reference", labels=labels)
        rows = GaugeMetricFamily("vigil_reference_rows", "Rows in the reference", labels=RELEASE)
        totals = self._totals(SIGNAL_BIN)
        for state in states:
            place = state.model, state.version
            rows.add_metric(place, state.rows)
            counted = iter(state.values(totals.get(place), None)[SIGNAL_BIN])
            for s, (signal, known) in enumerate(zip(state.signals, state.shares, strict=True)):
                far = state.far[s] if state.far else ()  # what has no share is outside the range
                for b, share in enumerate(known):
                    counts.add_metric((*place, signal, f"{b:02d}"), next(counted))
                    if b not in far:
                        shares.add_metric((*place, signal, f"{b:02d}"), float(f"{share:.6g}"))
        yield from (counts, shares, rows)

    def _embeddings(self, states: Iterable[SignalState]) -> Iterator[Metric]:
        labels = (*RELEASE, "component")
        sums = CounterMetricFamily(EMBEDDING_SUM, "Sum of a component of the embedding over the rows", labels=labels)
        means = GaugeMetricFamily("vigil_embedding_reference_mean", "Mean of it in the reference", labels=labels)
        rows = CounterMetricFamily(EMBEDDING_ROWS, "Rows that were added", labels=RELEASE)
        totals = self._totals(EMBEDDING_SUM)
        for state in states:
            place = state.model, state.version
            values = state.values(None, totals.get(place))
            for added in values[EMBEDDING_ROWS]:
                rows.add_metric(place, added)
            for c, (total, centre) in enumerate(zip(values[EMBEDDING_SUM], state.centres, strict=True)):
                sums.add_metric((*place, f"{c:02d}"), total)
                means.add_metric((*place, f"{c:02d}"), centre)
        yield from (sums, means, rows)

    def _totals(self, name: str) -> Totals:
        return self._counts.array_totals(name) if self._counts is not None else {}


def _limits(states: Iterable[SignalState]) -> Iterator[Metric]:
    labels = (*RELEASE, "signal")
    outside = GaugeMetricFamily("vigil_reference_outside_share", "Share of rows outside the range", labels=labels)
    slopes = GaugeMetricFamily("vigil_drift_z_slope", "What few rows add to the limit of z, times rows", labels=labels)
    for state in states:
        place = state.model, state.version
        for signal, share, far in zip(state.signals, state.outside, state.far, strict=False):
            if far:
                outside.add_metric((*place, signal), share)
        for signal, slope in zip((*state.signals, EMBEDDING), state.slopes, strict=False):
            slopes.add_metric((*place, signal), slope)
    yield from (outside, slopes)


def _classes(states: Iterable[SignalState]) -> Iterator[Metric]:
    held = GaugeMetricFamily(
        "vigil_signal_bin_info", "1 for what a bin holds", labels=(*RELEASE, "signal", "bin", "class")
    )
    limits = GaugeMetricFamily(
        "vigil_missing_class_z_threshold", "Limit of the score of a missing class", labels=(*RELEASE, "window")
    )
    for state in states:
        place = state.model, state.version
        for b, name in enumerate(state.classes):
            if name:
                held.add_metric((*place, CLASS, f"{b:02d}", name), 1)
        for window, limit in state.missing_limits.items():
            limits.add_metric((*place, window), limit)
    yield from (held, limits)
