"""Limits for drift with a stated false-alarm rate, from windows drawn out of the reference itself.

A window and the rest of the reference never share a row. Where neighbouring rows are alike, whole blocks are drawn.
Per signal and size of window the far half of the null distribution of z is a line in normal quantiles, which holds
beyond what the draws reach: z at the probability p is about start + scale * u, with u the normal quantile of 1 - p.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist
from typing import Any

import numpy as np

from monitoring.shift.count import count, counter

NORMAL = NormalDist()
LOOKS_30D = {"short": 720.0, "medium": 30.0, "long": 30 / 7}  # windows of 1 h, 24 h and 7 d laid end to end
WINDOW_MINUTES = {"short": 60, "medium": 1440, "long": 10080}  # a window slides and is looked at each minute
SIZES = (10, 20, 50, 100, 200, 500, 1000, 2000)  # rows of the windows drawn
MOST_DRAWS, FEWEST_DRAWS = 6000, 2000
DRAWN_ROWS = 1_500_000  # of one size, at most where FEWEST_DRAWS allow
MOST_PLACES = 400_000  # at a time: bounds the memory
TAIL = (0.1, 0.05, 0.02, 0.01, 0.005, 0.0025)  # where the line is fitted; 5 to 15 draws lie beyond the last
LEVELS = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)  # of the largest signal
BLOCKS = (8, 16, 32, 64, 128, 256, 512)  # rows, tried in turn
FEWEST_BLOCKS = 20  # in the reference
LEAST_SCALE = 0.85  # a chi-square with one degree of freedom has 0.93
LARGE_SIZES = 4  # the last ones
GROWTH = 1.15  # blocks are long enough when twice as long ones differ by no more than this

Draw = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Nulls:
    """How z is spread when nothing moves, by size of the window.

    rows: the sizes. starts, scales: of the line of each signal, (sizes, signals). largest: quantiles at LEVELS of the
    largest of all signals, each z brought to normal by its line, (sizes, levels). block_rows: what was drawn together.
    """

    rows: tuple[int, ...]
    starts: tuple[tuple[float, ...], ...]
    scales: tuple[tuple[float, ...], ...]
    largest: tuple[tuple[float, ...], ...]
    block_rows: int

    @classmethod
    def from_json(cls, said: dict[str, Any]) -> "Nulls":
        """Return the nulls that `asdict` made into JSON."""
        return cls(**{name: tuples(value) for name, value in said.items()})

    def limits(self, rows: float, false_alarm: float) -> np.ndarray:
        """Return the limit of each signal's z, float64 (signals,), for one look at a window of so many rows.

        false_alarm: the probability that any signal of a window without drift is over its limit.
        """
        return self.at(rows, self.quantile(rows, false_alarm))

    def at(self, rows: float, quantile: float) -> np.ndarray:
        """Return z of each signal at a normal quantile, float64 (signals,)."""
        starts, scales = (self._between(table, rows) for table in (self._starts, self._scales))
        found: np.ndarray = starts + scales * quantile
        return found

    def quantile(self, rows: float, false_alarm: float) -> float:
        """Return the normal quantile that the largest signal exceeds with that probability."""
        drawn = self._between(self._largest, rows)
        if false_alarm >= 1 - LEVELS[-1]:
            places = [NORMAL.inv_cdf(level) for level in LEVELS]
            return float(np.interp(NORMAL.inv_cdf(1 - false_alarm), places, drawn))
        return NORMAL.inv_cdf((1 - false_alarm) ** (1 / self.independent(rows)))

    def independent(self, rows: float) -> float:
        """Return how many independent signals would be as often over a far limit as these together."""
        drawn = self._between(self._largest, rows)[-2:]
        tails = [-math.log1p(-NORMAL.cdf(-u)) for u in drawn]
        counts = [-math.log(level) / max(tail, 1e-12) for level, tail in zip(LEVELS[-2:], tails, strict=True)]
        return float(min(max(1.0, np.mean(counts)), self._starts.shape[1] * 2.0))

    def _between(self, table: np.ndarray, rows: float) -> np.ndarray:
        # Straight in the logarithm of the rows; beyond the sizes, the last of them.
        place = float(np.interp(math.log(max(rows, 1.0)), self._log_rows, np.arange(len(self.rows))))
        below = min(int(place), len(self.rows) - 1)
        above = min(below + 1, len(self.rows) - 1)
        found: np.ndarray = table[below] + (place - below) * (table[above] - table[below])
        return found

    @cached_property
    def _log_rows(self) -> np.ndarray:
        return np.log(self.rows)

    @cached_property
    def _starts(self) -> np.ndarray:
        return np.array(self.starts)

    @cached_property
    def _scales(self) -> np.ndarray:
        return np.array(self.scales)

    @cached_property
    def _largest(self) -> np.ndarray:
        return np.array(self.largest)


def z_scores(window: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return how unlike two samples are, one z per signal, from counts (..., signals, BINS).

    Two-sample chi-square, made normal by Wilson & Hilferty (1931); about N(0, 1) without drift, 0 where either is
    empty. The recording rules compute the same in PromQL.
    """
    n, m = window.sum(axis=-1), reference.sum(axis=-1)
    pooled = (window + reference) / np.maximum(n + m, 1)[..., None]
    gap = (window / np.maximum(n, 1)[..., None] - reference / np.maximum(m, 1)[..., None]) ** 2
    terms = np.divide(gap, pooled, out=np.zeros(gap.shape), where=pooled > 0)
    chi2 = n * m / np.maximum(n + m, 1) * terms.sum(axis=-1)
    df = np.maximum((pooled > 0).sum(axis=-1) - 1, 1)
    scores: np.ndarray = np.where(n * m > 0, wilson_hilferty(chi2, df), 0.0)
    return scores


def wilson_hilferty(chi2: np.ndarray, df: np.ndarray | float) -> np.ndarray:
    """Return the chi-square with `df` degrees of freedom as a z, about N(0, 1)."""
    spread = 2 / (9 * np.asarray(df))
    z: np.ndarray = (np.cbrt(chi2 / df) - (1 - spread)) / np.sqrt(spread)
    return z


def draw(codes: np.ndarray, extra: Draw | None, seed: int) -> Nulls:
    """Return the nulls of a reference.

    codes: the bin of each row and signal, int (rows, signals), in the order of the rows; negative where it is not
    compared. extra: z of one more signal, (windows,), for the places of the rows of windows, (windows, rows).
    """
    generator, block, counted = np.random.default_rng(seed), block_rows(codes), counter(codes)
    whole = count(codes[None])[0]
    sizes = [size for size in SIZES if size <= len(codes) // 2] or [max(2, len(codes) // 2)]
    lines, largest = [], []
    for size in sizes:
        chunks = []
        for places in _windows(generator, len(codes), size, min(block, size)):
            z = z_of_parts(counted(places), whole)
            chunks.append(z if extra is None else np.column_stack([z, extra(places)]))
        z = np.concatenate(chunks)
        start, scale = _line(z)
        lines.append((start, scale))
        largest.append(np.quantile(((z - start) / scale).max(axis=1), LEVELS))
    starts, scales = (tuple(_rounded(line[i]) for line in lines) for i in (0, 1))
    return Nulls(tuple(sizes), starts, scales, tuple(_rounded(q) for q in largest), block)


def of_embedding(embedding: Any, components: np.ndarray) -> Draw:
    """Return the z of windows of the reference against its other rows, from the components of its rows (rows, k)."""
    rows = len(components)
    centre = np.nanmean(components, axis=0, dtype=np.float64)
    components = np.where(np.isfinite(components), components, centre)  # a row that is not finite says nothing

    def z(places: np.ndarray) -> np.ndarray:
        size = places.shape[1]
        gaps = components[places].sum(axis=1, dtype=np.float64) - size * centre
        # The window is part of the reference: its gap to the rest is larger than that to the whole.
        gaps *= math.sqrt((rows + size) / (rows - size))
        return np.array([embedding.z(size * centre + gap, size, rows) for gap in gaps])

    return z


def z_of_parts(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """Return `z_scores` of parts (windows, signals, BINS) of a whole (signals, BINS) against its other rows.

    Both have the bins of the whole as their pool, which leaves one sum: with n of N rows in the part and S the sum of
    its squared counts over those of the whole, chi-square is N (N S - n^2) / (n (N - n)).
    """
    n, total = part.sum(axis=-1), whole.sum(axis=-1)
    over = np.divide(1.0, whole, out=np.zeros(whole.shape), where=whole > 0)
    squares = np.einsum("wsb,wsb,sb->ws", part, part, over)
    both = n * (total - n)
    chi2 = total * np.maximum(total * squares - n**2, 0.0) / np.maximum(both, 1)
    df = np.maximum((whole > 0).sum(axis=-1) - 1, 1)
    scores: np.ndarray = np.where(both > 0, wilson_hilferty(chi2, df), 0.0)
    return scores


def block_rows(codes: np.ndarray) -> int:
    """Return how many neighbouring rows of (rows, signals) depend on one another; 1 if they do not.

    Compares each stretch of rows with the next one. A file that is sorted is no sequence in time: within it, nearly
    all neighbouring stretches are alike, and 1 is returned.
    """
    found, before = 1, None
    for size in BLOCKS:
        if len(codes) // size < FEWEST_BLOCKS:
            break
        blocks = count(codes[: len(codes) // size * size].reshape(-1, size, codes.shape[1]))
        restless = np.median(z_scores(blocks[1:], blocks[:-1]), axis=0).max()
        surely = max(0.5, 5 * 1.25 / math.sqrt(len(blocks)))
        if restless < surely:
            continue
        if before is not None and _inflation(restless) < GROWTH * _inflation(before):
            break
        found, before = size, restless
    return found


def monthly(
    nulls: Nulls, df: np.ndarray, false_alarms_30d: float, min_rows: int
) -> tuple[dict[str, float], tuple[float, ...]]:
    """Return the limit of z by window, and by signal what a window of few rows adds to it, times its rows.

    In 30 days in which nothing moves any signal is over its limit in any window with the probability stated.
    df: bins of each signal less one. min_rows: of the smallest window that is judged.
    """
    budget = -math.log1p(-false_alarms_30d) / len(LOOKS_30D)
    judged = [rows for rows in nulls.rows if rows >= min_rows] or [nulls.rows[-1]]
    independent = nulls.independent(judged[-1])
    bases, slopes = {}, np.zeros(len(df))
    few = 1 / np.array(judged)
    for window, looks in LOOKS_30D.items():
        quantile = _sliding_quantile(budget / looks / independent, df, 1 / WINDOW_MINUTES[window])
        limits = np.array([nulls.at(rows, quantile) for rows in judged])
        # All signals and the larger sizes together: what one of them is off by is the chance of the draws.
        base = float(np.median(limits[-LARGE_SIZES:]))
        slopes = np.maximum(slopes, few @ (limits - base) / (few @ few))
        bases[window] = round(base, 4)
    return bases, tuple(round(slope, 2) for slope in slopes.tolist())


def chi2_at(z: np.ndarray | float, df: np.ndarray | float) -> np.ndarray:
    """Return the chi-square whose z, by Wilson & Hilferty, is given."""
    spread = 2 / (9 * np.asarray(df))
    found: np.ndarray = np.asarray(df) * np.maximum(np.asarray(z) * np.sqrt(spread) + 1 - spread, 0) ** 3
    return found


def clusters(x: np.ndarray, df: np.ndarray, step: float) -> float:
    """Return how many times P(chi2 > x) a chi-square of a sliding window begins to be over x, per length of it.

    df: its degrees of freedom, the mean over all is returned. step: by which the window slides, of its length. 2 x
    times the density, about (x - df + 2) P(chi2 > x), without steps (Albin 1990; Leadbetter et al. 1983, chapter 12),
    and with steps a factor (Siegmund 1985, chapter 10) less.
    """
    return float(np.maximum(1.0, (x - df + 2) * np.exp(-0.583 * np.sqrt(2 * step * x))).mean())


def _sliding_quantile(rate: float, df: np.ndarray, step: float) -> float:
    low, high = 0.0, 12.0
    for _ in range(60):
        middle = (low + high) / 2
        often = clusters(chi2_at(middle, df), df, step) * NORMAL.cdf(-middle)
        low, high = (middle, high) if often > rate else (low, middle)
    return high


def _windows(generator: np.random.Generator, rows: int, size: int, block: int) -> Iterator[np.ndarray]:
    # Of each permutation of the blocks as many windows as it holds: they share no row either.
    per, blocks = max(1, size // block), rows // block
    each = blocks // per
    draws = min(MOST_DRAWS, max(FEWEST_DRAWS, DRAWN_ROWS // size))
    left, most = -(-draws // each), max(1, MOST_PLACES // rows)
    while left > 0:
        order = generator.permuted(np.tile(np.arange(blocks), (min(left, most), 1)), axis=1)
        left -= len(order)
        order = order[:, : each * per].reshape(-1, per, 1)
        yield (order * block + np.arange(block)).reshape(len(order), -1)


def _line(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    # Per column, by least squares; a quantile counts the less the fewer draws lie beyond it.
    u = np.array([NORMAL.inv_cdf(1 - p) for p in TAIL])
    weights = np.sqrt(TAIL)[:, None] / np.sqrt(TAIL).sum()
    drawn = np.quantile(z, [1 - p for p in TAIL], axis=0)
    middle, centre = (weights[:, 0] * u).sum(), (weights * drawn).sum(axis=0)
    away = (u - middle)[:, None]
    scale = np.maximum((weights * away * (drawn - centre)).sum(axis=0) / (weights * away**2).sum(), LEAST_SCALE)
    start = centre - scale * middle
    still = drawn[-1] <= z.min(axis=0)  # nothing was drawn but one value: take the normal distribution
    return np.where(still, 0.0, start), np.where(still, 1.0, scale)


def _inflation(z: float) -> float:
    return float(chi2_at(z, 9.0)) / 9.0


def _rounded(values: np.ndarray) -> tuple[float, ...]:
    return tuple(round(float(value), 4) for value in values)


def tuples(value: object) -> Any:
    """Return lists, at any depth, as tuples."""
    return tuple(tuples(v) for v in value) if isinstance(value, list) else value
