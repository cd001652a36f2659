"""Counters, gauges and histograms that add up over the workers of a service and outlive a killed one.

They are called as those of prometheus_client, which prints them: `family.labels(*values)` gives a child with
`inc`, `set` or `observe`. Code that runs per request holds the child: to look it up costs more than to count.

A child is written by one thread at a time: two threads that count into one child lose counts. A family that is
declared `shared` may be counted by any thread and pays for a lock. To set a gauge is safe from any thread.
"""

import hashlib
import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from monitoring.counting import processes
from monitoring.counting.cells import COUNTER, GAUGE, Cells, Doubles, Found
from monitoring.counting.gather import Gathering

NONE = float("nan")  # the value of a gauge that is not shown
FEW = 16  # values: below this a loop is faster than arrays
Labels = tuple[str, ...]
Totals = dict[Labels, np.ndarray]
Child = TypeVar("Child")
Source = Callable[[Labels], Cells]


class CounterChild:
    """One counter."""

    __slots__ = ("_cell",)

    def __init__(self, cell: Doubles) -> None:
        self._cell = cell

    def inc(self, n: float = 1) -> None:
        """Add n, 0 or more."""
        self._cell[0] += n


class SharedCounterChild(CounterChild):
    """A counter for several threads."""

    __slots__ = ("_lock",)

    def __init__(self, cell: Doubles) -> None:
        super().__init__(cell)
        self._lock = threading.Lock()

    def inc(self, n: float = 1) -> None:
        """Add n, 0 or more."""
        with self._lock:
            self._cell[0] += n


class GaugeChild:
    """One gauge; not shown from `clear` to the next `set`."""

    __slots__ = ("_cell",)

    def __init__(self, cell: Doubles) -> None:
        self._cell = cell

    def set(self, value: float) -> None:
        """Show `value`."""
        self._cell[0] = value

    def inc(self, n: float = 1) -> None:
        """Add n, which may be negative."""
        self._cell[0] += n

    def clear(self) -> None:
        """Show nothing."""
        self._cell[0] = NONE


class HistogramChild:
    """One histogram: a cell for each bucket and one for the sum of the values."""

    __slots__ = ("_bounds", "_cells", "_limits", "_sum")

    def __init__(self, cells: Doubles, bounds: tuple[float, ...]) -> None:
        self._cells = cells
        self._bounds = bounds
        self._limits = np.array(bounds)
        self._sum = len(bounds) + 1

    def observe(self, value: float, n: int = 1) -> None:
        """Count `value` n times. A kill within loses at most its part of the sum, never a count."""
        cells = self._cells
        cells[bisect_left(self._bounds, value)] += n
        cells[self._sum] += value * n

    def observe_all(self, values: Sequence[float], times: Sequence[int] | None = None) -> None:
        """Count many values at once; times: how often each of them is counted, None: once."""
        if len(values) < FEW:
            for value, n in zip(values, times or [1] * len(values), strict=True):
                self.observe(value, n)
            return
        cells, found = self._cells, np.array(values)
        counts = np.bincount(self._limits.searchsorted(found), times)
        for place in np.flatnonzero(counts).tolist():
            cells[place] += counts[place]
        cells[self._sum] += float(found.sum() if times is None else found.dot(times))


class Family(Generic[Child]):
    """The children of one name, by the values of their labels."""

    kind = COUNTER

    def __init__(self, cells: Source, name: str, text: str, names: Labels, make: Callable[[Doubles], Child]) -> None:
        """cells: gives those of a child by the values of its labels."""
        self.name = name
        self.text = text
        self.names = names
        self.size = 1
        self._cells = cells
        self._make = make
        self._children: dict[Labels, Child] = {}
        self._lock = threading.Lock()

    def labels(self, *values: str) -> Child:
        """Return the child of these label values, the same one each time."""
        try:
            return self._children[values]
        except KeyError:
            return self._add(values)

    def metric(self, totals: Totals) -> Metric:
        """Return what is printed."""
        shown = CounterMetricFamily(self.name, self.text, labels=self.names)
        for values, (total,) in sorted(totals.items()):
            shown.add_metric(values, total)
        return shown

    def merge(self, before: np.ndarray, more: np.ndarray) -> np.ndarray:
        """Return the total of two processes."""
        total: np.ndarray = before + more
        return total

    def forget(self, first: Labels) -> None:
        """Let go of the children whose labels begin with these."""
        with self._lock:
            kept = {values: child for values, child in self._children.items() if values[: len(first)] != first}
            self._children = kept

    def _add(self, values: Labels) -> Child:
        if len(values) != len(self.names):
            raise ValueError(f"{self.name}: takes {len(self.names)} labels ({', '.join(self.names)}), got {values}")
        with self._lock:
            if values not in self._children:
                taken = self._cells(values).take(self.kind, self.name, values, self.size)
                self._children[values] = self._make(taken)
            return self._children[values]


class Counter(Family[CounterChild]):
    """A number that only grows."""

    def inc(self, n: float = 1) -> None:
        """Add n to the counter without labels."""
        self.labels().inc(n)


class Gauge(Family[GaugeChild]):
    """A number that rises and falls; of the processes that live, the sum or the largest is shown."""

    kind = GAUGE

    def __init__(self, cells: Source, name: str, text: str, names: Labels, add: bool) -> None:
        super().__init__(cells, name, text, names, GaugeChild)
        self._rule = np.add if add else np.maximum

    def labels(self, *values: str) -> GaugeChild:
        """Return the child of these label values; one that was cleared starts again at 0."""
        child = super().labels(*values)
        if child._cell[0] != child._cell[0]:
            child.set(0)
        return child

    def set(self, value: float) -> None:
        """Set the gauge without labels."""
        self.labels().set(value)

    def clear(self) -> None:
        """Show none of this process's children until they are set again."""
        for child in list(self._children.values()):
            child.clear()

    def merge(self, before: np.ndarray, more: np.ndarray) -> np.ndarray:
        """Return what two processes show together."""
        total: np.ndarray = self._rule(before, more)
        return total

    def metric(self, totals: Totals) -> Metric:
        """Return what is printed."""
        shown = GaugeMetricFamily(self.name, self.text, labels=self.names)
        for values, (total,) in sorted(totals.items()):
            shown.add_metric(values, total)
        return shown


class Histogram(Family[HistogramChild]):
    """Values counted by size."""

    def __init__(self, cells: Source, name: str, text: str, names: Labels, bounds: tuple[float, ...]) -> None:
        """bounds: the upper end of each bucket, in order."""
        super().__init__(cells, name, text, names, lambda taken: HistogramChild(taken, bounds))
        self.size = len(bounds) + 2
        self._ends = (*map(str, map(float, bounds)), "+Inf")

    def observe(self, value: float, n: int = 1) -> None:
        """Count a value in the histogram without labels."""
        self.labels().observe(value, n)

    def metric(self, totals: Totals) -> Metric:
        """Return what is printed."""
        shown = HistogramMetricFamily(self.name, self.text, labels=self.names)
        for values, cells in sorted(totals.items()):
            counts = list(accumulate(cells[:-1].tolist()))
            shown.add_metric(values, list(zip(self._ends, counts, strict=True)), cells[-1])
        return shown


class Counts(Collector):
    """Everything one process counts, and the scrape of what all workers of its service have counted."""

    def __init__(self, folder: Path | None = None, apart: Labels = ()) -> None:
        """folder: of the service, see `monitoring.counting.folder`; None counts for this process alone.

        apart: names of labels. What is counted of their values can be forgotten: of families whose labels begin so.
        """
        self._gathering = Gathering(folder)
        self._apart = apart
        self._families: dict[str, Counter | Gauge | Histogram] = {}
        self._arrays: dict[tuple[str, Labels, int], np.ndarray] = {}

    def counter(self, name: str, text: str, *labels: str, shared: bool = False) -> Counter:
        """Declare a counter. shared: several threads count into one child."""
        child = SharedCounterChild if shared else CounterChild
        counter = Counter(self._source(labels), name, text, labels, child)
        self._declare(counter)
        return counter

    def gauge(self, name: str, text: str, *labels: str, add: bool = False, lasting: bool = False) -> Gauge:
        """Declare a gauge. add: over the workers, where otherwise the largest is shown. lasting: is never forgotten."""
        gauge = Gauge(self._source(() if lasting else labels), name, text, labels, add)
        self._declare(gauge)
        return gauge

    def histogram(self, name: str, text: str, bounds: tuple[float, ...], *labels: str) -> Histogram:
        """Declare a histogram."""
        histogram = Histogram(self._source(labels), name, text, labels, bounds)
        self._declare(histogram)
        return histogram

    def array(self, name: str, labels: Labels, size: int) -> np.ndarray:
        """Return counters that are added to in bulk, float64 (size,): the same memory each time.

        They are not printed; `array_totals` gives what all workers have counted.
        """
        key = (name, labels, size)
        if key not in self._arrays:
            taken = self._source(self._apart)(labels).take(COUNTER, name, labels, size)
            self._arrays[key] = np.asarray(taken)
        return self._arrays[key]

    def forget(self, *values: str) -> None:
        """Show nothing more of these values of `apart`, unless another worker does, until they are asked for again.

        Their counters then go on where they were. Nobody may count for them meanwhile.
        """
        if self._gathering.forget(_group(values)):
            for family in self._families.values():
                if family.names[: len(values)] == self._apart:
                    family.forget(values)
            self._arrays = {key: array for key, array in self._arrays.items() if key[1][: len(values)] != values}

    def array_totals(self, name: str) -> Totals:
        """Return the arrays of that name that this process has, each added up over all workers, living and dead."""
        totals: Totals = {}
        for one in self._gathering.read().found:
            if one.entry.name == name and (name, one.entry.labels, one.entry.size) in self._arrays:
                _merge(totals, one, np.add)
        return totals

    def collect(self) -> Iterator[Metric]:
        """Yield what all workers have counted, and what they use of the machine."""
        reading = self._gathering.read()
        totals: dict[str, Totals] = {name: {} for name in self._families}
        for one in _shown(reading.found):
            family = self._families.get(one.entry.name)
            if family is not None and one.entry.size == family.size:
                _merge(totals[family.name], one, family.merge)
        yield from (family.metric(totals[name]) for name, family in self._families.items())
        yield from processes.families(reading.uses, reading.cpu_s)

    def _source(self, names: Labels) -> Source:
        if self._apart and names[: len(self._apart)] == self._apart:
            return lambda values: self._gathering.group(_group(values[: len(self._apart)]))
        return lambda _: self._gathering.base

    def _declare(self, family: Counter | Gauge | Histogram) -> None:
        self._families[family.name] = family
        if not family.names:
            family.labels()


def _group(values: Labels) -> str:
    return hashlib.sha256("\0".join(values).encode()).hexdigest()[:16]


def _shown(found: Iterable[Found]) -> Iterator[Found]:
    return (one for one in found if one.entry.kind == COUNTER or one.values[0] == one.values[0])


def _merge(totals: Totals, one: Found, rule: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> None:
    before = totals.get(one.entry.labels)
    totals[one.entry.labels] = one.values if before is None else rule(before, one.values)
