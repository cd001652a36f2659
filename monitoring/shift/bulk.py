"""Counting many rows at once: they wait in a buffer, so that one `bincount` serves many requests.

What comes out are counts per bin and sums of the embedding, numbers that only grow and add up.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from monitoring.log.sampling import Bucket
from monitoring.shift.embedding import Embedding, flatten
from monitoring.shift.reference import Reference
from monitoring.shift.signals import BINS, Binner, Meter
from registry.release import InputSpec

Part = tuple[np.ndarray, ...]  # rows, their answers and, where the graph gives one out, their embedding

FLUSH_S = 2e-4  # how long counting may delay an answer
CPU_SHARE = 0.01  # what it takes to put the rows together comes on top, for large ones a third more
MOST_BUFFER_ROWS = 1024
MOST_EMBEDDED_ROWS = 64  # of a buffer, evenly spaced: where a buffer fills, every sixteenth row says enough


@dataclass(frozen=True)
class Counting:
    """What is counted of rows for one reference."""

    meter: Meter
    binner: Binner
    embedding: Embedding | None = None

    @classmethod
    def of(cls, reference: Reference, spec: InputSpec, threshold: float | None = None) -> "Counting":
        """Return what `reference` asks for; threshold: see `registry.release.Draft`."""
        binner = Binner(reference.bins)
        return cls(Meter(spec, binner.signals, threshold, reference.support), binner, reference.embedding)

    @property
    def components(self) -> int:
        """Return how many components the embedding has, 0 without one."""
        return len(self.embedding.centres) if self.embedding is not None else 0

    @property
    def width(self) -> int:
        """Return the numbers per row of the graph's own embedding, 0 where none is watched."""
        return self.embedding.width if self.embedding is not None else 0

    def counts(self, inputs: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        """Return how many rows fall into each bin, int64 (signals, BINS); arguments as in `signals.compute`."""
        return self.binner.count(self.meter.measure(inputs, outputs))

    def sums(self, inputs: np.ndarray, outputs: np.ndarray, embedded: np.ndarray | None = None) -> np.ndarray:
        """Return the sums of the embedding's components and then the number of rows, float64 (components + 1,).

        embedded: (n, ...), what the graph gave out as its embedding; without it no row counts where that is watched.
        """
        summed = np.zeros(self.components + 1)
        seen = inputs if not self.width else embedded
        if seen is None:
            return summed
        summed[-1] = len(inputs)
        if self.embedding is not None:
            summed[:-1] = self.embedding.sums(seen.reshape(len(seen), -1) if self.width else seen, outputs)
        return summed

    def example(self, rows: int) -> Part:
        """Return rows of zeros, answers and what else is counted of them, to measure what counting costs."""
        inputs = np.zeros((rows, *self.meter.spec.shape), dtype=self.meter.spec.dtype)
        columns = 2 if self.meter.classes else 1
        seen = np.zeros((rows, self.width), np.float32) if self.width else inputs
        if self.embedding is not None:
            columns = len(self.embedding.low) - flatten(seen[:1], np.zeros((1, 0))).shape[1]
        answers = np.full((rows, columns), 1 / columns, dtype=np.float32)
        return (inputs, answers, seen) if self.width else (inputs, answers)


@dataclass(frozen=True)
class Totals:
    """What is added to. counts: float64 (signals, BINS). sums: float64 (components + 1,), the rows last."""

    counts: np.ndarray
    sums: np.ndarray

    @classmethod
    def new(cls, counting: Counting) -> "Totals":
        """Return zeros."""
        return cls(np.zeros((len(counting.binner.signals), BINS)), np.zeros(counting.components + 1))


class Tally:
    """The running totals of one release.

    A killed process loses the rows that wait: call `flush` every second or so.
    later: where set, called with what is still to do when a request was larger than the buffer, as
    `loop.call_soon` is; otherwise that is done at once.
    """

    later: Callable[[Callable[[], None]], object] | None = None

    def __init__(self, counting: Counting, totals: Totals | None = None, rows_per_s: float = math.inf) -> None:
        """totals: what to add to; new zeros if None. rows_per_s: see `wants`."""
        self._counting = counting
        self._waiting: list[Part] = []
        self._rows = 0
        self._totals = Totals.new(counting) if totals is None else totals
        call_s, row_s = self._line()
        fits = max((FLUSH_S - call_s) / row_s, call_s / row_s)  # as many as fit, or the call costs more than its rows
        self.buffer_rows = max(1, min(MOST_BUFFER_ROWS, round(fits)))
        cost_s = call_s / self.buffer_rows + row_s
        self._take = Bucket(rows_per_s if math.isinf(rows_per_s) else min(rows_per_s, CPU_SHARE / cost_s)).take

    def wants(self, rows: int) -> bool:
        """Say whether so many rows that came together are to be added, before anybody has put them together.

        No more than `rows_per_s` are, and fewer of those rows that would take more than CPU_SHARE of a core. Where
        that is infinity all are.
        """
        return self._take(rows)

    def add(self, *part: np.ndarray) -> None:
        """Remember a request, see Part; counts it only when enough rows are waiting."""
        self._waiting.append(part)
        self._rows += len(part[0])
        if self._rows >= self.buffer_rows:
            self._drain()

    def flush(self) -> None:
        """Count all rows that wait."""
        while self._rows:
            self._count_some()

    def counts(self) -> np.ndarray:
        """Return the counts of all rows so far, float64 (signals, BINS)."""
        self.flush()
        return self._totals.counts

    def sums(self) -> np.ndarray:
        """Return the sums of the rows that were embedded so far and, last, their number, float64 (components + 1,)."""
        self.flush()
        return self._totals.sums

    def _drain(self) -> None:
        while self._rows >= self.buffer_rows:
            self._count_some()
            if self.later is not None and self._rows >= self.buffer_rows:
                self.later(self._drain)
                return

    def _count_some(self) -> None:
        # Whole requests, as many as fit, so that a large one is not copied; or the first rows of one that does not.
        requests, rows = 0, 0
        for waiting in self._waiting:
            if requests and rows + len(waiting[0]) > self.buffer_rows:
                break
            requests, rows = requests + 1, rows + len(waiting[0])
        joined = tuple(map(_joined, zip(*self._waiting[:requests], strict=True)))
        del self._waiting[:requests]
        if rows > self.buffer_rows:
            some = -(-rows // -(-rows // self.buffer_rows))  # all of a size: a last one of few rows costs as a full one
            self._waiting.insert(0, tuple(values[some:] for values in joined))
            joined = tuple(values[:some] for values in joined)
        self._rows -= len(joined[0])
        self._count(self._totals, joined)

    def _count(self, totals: Totals, part: Part) -> None:
        inputs, outputs = part[:2]
        np.add(totals.counts, self._counting.counts(inputs, outputs), out=totals.counts)
        if self._counting.embedding is not None:
            step = -(-len(inputs) // MOST_EMBEDDED_ROWS)
            np.add(totals.sums, self._counting.sums(*(values[::step] for values in part)), out=totals.sums)

    def _line(self) -> tuple[float, float]:
        # What a call costs, and each row in it: from one row and so many that they cost twice as much.
        rows, one = 2, self._cost_s(1)
        while (many := self._cost_s(rows)) < 2 * one and rows < MOST_BUFFER_ROWS:
            rows *= 2
        row_s = max(many - one, 1e-9) / (rows - 1)
        return max(one - row_s, 0.0), row_s

    def _cost_s(self, rows: int) -> float:
        example, totals = self._counting.example(rows), Totals.new(self._counting)
        took = []
        for _ in range(4):
            begun = time.thread_time()  # of this thread alone: a release is loaded while another one answers
            self._count(totals, example)
            took.append(time.thread_time() - begun)
        return min(took)


def _joined(parts: tuple[np.ndarray, ...]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else np.concatenate(parts)
