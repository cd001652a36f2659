"""The reference that travels in a release: bins, shares and limits for drift, calibrated on held-out rows.

The limit of a window is set so that traffic like the reference raises an alarm in a 30-day month with a
stated probability, over all signals and windows together.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from monitoring import embedding, estimates, signals
from monitoring.embedding import Embedding
from monitoring.signals import BINS, CELLS, Binner, Bins
from monitoring.support import Support
from registry.errors import DataError, ReleaseError
from registry.release import InputSpec

LOOKS_30D = {
    "short": 720.0,
    "medium": 30.0,
    "long": 30 / 7,
}  # windows of 1 h, 24 h and 7 d that do not overlap
SLIDING = 4.0  # a window that slides looks about this many times as often as windows laid end to end
DRAWS = 400
WINDOW_SHARE = 1 / 3  # of the reference: the size of the windows drawn from it
ROWS_PER_BIN = 5  # fewest of the reference
# Parts that other modules own: how each is made again from what `asdict` gave, lists for tuples.
PARTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "embedding": Embedding.from_json,
    "estimation": estimates.parse,
    "support": Support.from_json,
}


@dataclass(frozen=True)
class ReferenceSettings:
    """bins: per signal, 2-16. false_alarms_30d: probability of any drift alarm in 30 days without drift."""

    bins: int = 10
    false_alarms_30d: float = 0.05
    min_rows: int = 100
    psi_floor: float = 0.1
    seed: int = 0


@dataclass(frozen=True)
class Reference:
    """What normal looks like, and how far from it is too far.

    shares: per signal, the share of each of its bins; sums to 1. z_thresholds: by window.
    embedding, estimation, support: None in a release that was made without them.
    """

    rows: int
    bins: tuple[Bins, ...]
    shares: tuple[tuple[float, ...], ...]
    z_thresholds: dict[str, float]
    psi_floor: float
    min_rows: int
    embedding: Embedding | None = None
    estimation: Any = None
    support: Support | None = None

    def to_json(self) -> bytes:
        """Return the artefact as stored in the release."""
        return json.dumps(asdict(self), indent=1).encode() + b"\n"

    def padded_shares(self) -> np.ndarray:
        """Return the shares as float64 (signals, BINS), 0 where a signal has fewer bins."""
        table = np.zeros((len(self.shares), BINS))
        for row, shares in zip(table, self.shares, strict=True):
            row[: len(shares)] = shares
        return table


def demand_rows(settings: ReferenceSettings, rows: int) -> None:
    """Raise DataError if that many held-out rows are too few to fill the bins."""
    fewest = ROWS_PER_BIN * settings.bins
    if rows < fewest:
        raise DataError(
            f"reference: {rows} held-out rows cannot fill {settings.bins} bins; at least {fewest} are needed: "
            "give the test split more rows, or lower reference.bins"
        )


def build(
    settings: ReferenceSettings,
    spec: InputSpec,
    inputs: np.ndarray,
    outputs: np.ndarray,
    threshold: float | None = None,
    seen: Support | None = None,
) -> Reference:
    """Return the reference of held-out rows; arguments as in `signals.compute`.

    Raises DataError if there are too few rows to fill the bins.
    """
    demand_rows(settings, len(inputs))
    rows, classes = len(inputs), outputs.shape[1] if outputs.shape[1] > 1 else 0
    values, counted = signals.compute(spec, inputs, outputs, threshold, seen), signals.indices(spec, range(classes))
    named = signals.names(spec, classes, seen is not None)
    most = signals.most_bins(len(named), settings.bins)
    bins = tuple(
        _index_bins(name, column, len(counted[name])) if name in counted else _bins(name, column, most)
        for name, column in zip(named, values.T, strict=True)
    )
    binner = Binner(bins)
    counts = binner.count(values)
    shares = tuple(tuple((c[: len(b.cuts) + 1] / rows).tolist()) for c, b in zip(counts, bins, strict=True))
    limits = calibrate(binner, values, settings)
    waves = embedding.fit(inputs, outputs, settings.seed)
    return Reference(rows, bins, shares, limits, settings.psi_floor, settings.min_rows, embedding=waves, support=seen)


def parse(content: bytes) -> Reference:
    """Return the reference in `content`; raises ReleaseError if it cannot be read."""
    try:
        said = json.loads(content)
        bins = tuple(Bins(**b | {"cuts": tuple(b["cuts"])}) for b in said["bins"])
        shares = tuple(tuple(s) for s in said["shares"])
        parts = {name: made(said[name]) for name, made in PARTS.items() if said.get(name) is not None}
        return Reference(**said | {"bins": bins, "shares": shares} | parts)
    except (ValueError, TypeError, KeyError) as error:
        raise ReleaseError(f"reference.json cannot be read: {error}; publish the model again") from error


def z_scores(window: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """Return how unlike two samples are, one z per signal, from counts (signals, BINS).

    Two-sample chi-square, made normal by Wilson & Hilferty (1931); about N(0, 1) without drift.
    The recording rules compute the same in PromQL.
    """
    n, m = window.sum(axis=1), reference.sum(axis=1)
    pooled = (window + reference) / (n + m)[:, None]
    gap = (window / n[:, None] - reference / m[:, None]) ** 2
    terms = np.divide(gap, pooled, out=np.zeros_like(gap), where=pooled > 0)
    chi2 = n * m / (n + m) * terms.sum(axis=1)
    df = np.maximum((pooled > 0).sum(axis=1) - 1, 1)
    spread = 2 / (9 * df)
    scores: np.ndarray = (np.cbrt(chi2 / df) - (1 - spread)) / np.sqrt(spread)
    return scores


def calibrate(binner: Binner, values: np.ndarray, settings: ReferenceSettings) -> dict[str, float]:
    """Return the limit of z for each window, from windows drawn out of the reference itself.

    The far tail comes from the normal distribution, Bonferroni over signals and looks; it is widened
    by how much the largest z of real null windows exceeds the normal's at the 99th percentile.
    """
    generator = np.random.default_rng(settings.seed)
    size = max(2, int(len(values) * WINDOW_SHARE))
    whole = binner.count(values)
    largest = np.empty(DRAWS)
    for draw in range(DRAWS):
        drawn = binner.count(values[generator.choice(len(values), size, replace=False)])
        largest[draw] = z_scores(drawn, whole - drawn).max()  # against the rest: rows in both would hide drift
    normal, count = NormalDist(), len(binner.signals)
    widen = max(1.0, float(np.quantile(largest, 0.99)) / normal.inv_cdf(0.99 ** (1 / count)))
    limits = {}
    for window, looks in LOOKS_30D.items():
        budget = settings.false_alarms_30d / len(LOOKS_30D) / (looks * SLIDING) / count
        limits[window] = round(widen * normal.inv_cdf(1 - budget), 4)
    return limits


def _index_bins(name: str, column: np.ndarray, count: int) -> Bins:
    # One bin for each of `count` values and one for any other, as far as they go; of too many values, neighbours
    # together so that each bin has about as many rows.
    cuts = tuple(range(1, min(count + 1, BINS))) if count <= BINS else _cuts(column.astype(np.int64), BINS)
    return Bins(name, 0.0, float(CELLS), cuts)


def _bins(name: str, column: np.ndarray, most: int) -> Bins:
    low, high = (float(q) for q in np.quantile(column, [0.005, 0.995]))
    room = (high - low) / 2 or max(abs(low), 1.0)  # a constant column gets room on both sides: leaving it is drift
    low, high = low - room, high + room
    return Bins(name, low, high, _cuts(Binner([Bins(name, low, high, ())]).cells(column[:, None])[:, 0], most))


def _cuts(cells: np.ndarray, most: int) -> tuple[int, ...]:
    inner = np.unique(np.quantile(cells, np.linspace(0, 1, most + 1)[1:-1], method="higher"))
    if len(inner) == 1:  # one value takes nearly all rows: itself, below, above
        inner = np.array([inner[0], inner[0] + 1])
    return tuple(int(cut) for cut in inner if 0 < cut < CELLS)
