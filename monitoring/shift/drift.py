"""Does a window of traffic still look like the reference: the recording and alert rules of drift, in numpy.

What Prometheus computes from counters, these compute from rows or counts: `judge` says what the alert rules say
of a window of 1 h, 24 h or 7 d; `alarms` looks once, at any number of rows, at a stated false-alarm probability.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from monitoring.shift import missing
from monitoring.shift.bulk import Counting
from monitoring.shift.calibration import wilson_hilferty, z_scores
from monitoring.shift.reference import Reference
from monitoring.shift.signals import CLASS, EMBEDDING
from registry.release import InputSpec

OUTSIDE = " outside its range"  # added to the name of a signal whose rows left its range
SMOOTHING = 1e-4  # keeps the logarithm finite for a bin that is empty on one side; the rules use the same
OUTSIDE_POINTS = 0.01  # more rows outside than in the reference, as a share, before that is told
OUTSIDE_ROWS = 5
RESTLESS_TAIL = 1.25  # the far tail of dependent rows is that much longer than the ninth decile says
CALM_LEVEL, CALM_SCALE = 0.5, 1.25  # of z between windows that follow one another: what chance may give
NORMAL = NormalDist()


@dataclass(frozen=True)
class Unrest:
    """How unlike two windows are that follow one another, where independent rows give 0 and 1.

    level, scale: of z, per signal, float64 (signals,), the embedding's last. Rows that depend on one another raise
    both, and the limits with them.
    """

    level: np.ndarray
    scale: np.ndarray


@dataclass(frozen=True)
class Window:
    """What was counted of some rows. counts: float64 (signals, BINS). sums: of the embedding's components, (k,).

    unrest: of the traffic, None if not known: its rows are taken for independent.
    """

    counts: np.ndarray
    sums: np.ndarray | None
    rows: int
    unrest: Unrest | None = None


@dataclass(frozen=True)
class Finding:
    """A signal that moved. limit: what z is over.

    psi: of the embedding its size, see `Embedding.size`; of a missing class how much of its share is gone.
    """

    signal: str
    z: float
    psi: float
    limit: float


def window_of(
    reference: Reference, spec: InputSpec, inputs: np.ndarray, outputs: np.ndarray, threshold: float | None = None
) -> Window:
    """Return the window of rows; arguments as in `signals.compute`.

    Without sums where the graph's own embedding is watched, which rows and answers do not tell.
    """
    counting = Counting.of(reference, spec, threshold)
    counts = counting.counts(inputs, outputs).astype(np.float64)
    known = counting.embedding is not None and not counting.width
    return Window(counts, counting.sums(inputs, outputs)[:-1] if known else None, len(inputs))


def scores(reference: Reference, window: Window) -> dict[str, float]:
    """Return z of each signal and, where the reference has one, of the embedding; empty without rows."""
    if not window.rows:
        return {}
    normal = reference.padded_shares() * reference.rows
    names = (bins.name for bins in reference.bins)
    found = dict(zip(names, z_scores(_inside(reference, window), normal).tolist(), strict=True))
    if reference.embedding is not None and window.sums is not None:
        found[EMBEDDING] = reference.embedding.z(window.sums, window.rows, reference.rows)
    return found


def stability(reference: Reference, window: Window) -> dict[str, float]:
    """Return the population stability index (PSI) of each signal, and the size of the embedding's shift."""
    normal, counts = reference.padded_shares(), _inside(reference, window)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    psi = ((share - normal) * np.log((share + SMOOTHING) / (normal + SMOOTHING))).sum(axis=1)
    found = dict(zip((bins.name for bins in reference.bins), psi.tolist(), strict=True))
    if reference.embedding is not None and window.sums is not None:
        found[EMBEDDING] = reference.embedding.size(window.sums, window.rows, reference.rows)
    return found


def judge(reference: Reference, window: Window, length: str) -> list[Finding]:
    """Return the signals the alert rules call moved, the surest first.

    length: "short", "medium" or "long", which is 1 h, 24 h or 7 d.
    """
    base, slopes = reference.z_thresholds[length], reference.padded_slopes()
    rows = np.append(_inside(reference, window).sum(axis=1), window.rows)[: len(slopes)]
    limits = base + slopes / np.maximum(rows, 1)
    moved = [found for found in _over(reference, window, limits) if found.psi > reference.psi_floor]
    enough = dict(zip((*(b.name for b in reference.bins), EMBEDDING), rows >= reference.min_rows, strict=False))
    left, gone = _left(reference, window, base, reference.min_rows), _gone(reference, window, length)
    return _sorted([*(f for f in moved if enough[f.signal]), *left, *gone])


def alarms(reference: Reference, window: Window, false_alarm: float) -> list[Finding]:
    """Return the signals that moved, the surest first, of a window that is looked at once.

    false_alarm: the probability that any is returned though nothing moved.
    """
    if not window.rows:
        return []
    missed, left = _missed(reference, window, false_alarm)
    count = len(reference.bins) + (reference.embedding is not None)
    limit = NORMAL.inv_cdf(1 - left / count)
    limits = np.full(count, limit) if reference.nulls is None else reference.nulls.limits(window.rows, left)
    return _sorted([*missed, *_over(reference, window, limits), *_left(reference, window, limit, 1)])


def unrest(reference: Reference, windows: Sequence[Window]) -> Unrest:
    """Return how unlike windows of traffic are that follow one another, as the rules measure it.

    windows: in time, of one length. The median and the ninth decile of z between neighbours, so that a change that
    comes once counts for little.
    """
    return calmed(np.array([unlike(reference, *pair) for pair in zip(windows[:-1], windows[1:], strict=True)]))


def unlike(reference: Reference, earlier: Window, later: Window) -> np.ndarray:
    """Return z between two windows, float64 (signals,), the embedding's last where it is known of both.

    NaN where either is empty.
    """
    z: np.ndarray = restless(np.array([_inside(reference, window) for window in (earlier, later)]))[0]
    if reference.embedding is None or earlier.sums is None or later.sums is None:
        return z
    return np.append(z, _restless_sums([earlier, later]))


def restless(counts: np.ndarray) -> np.ndarray:
    """Return z between neighbours, float64 (windows - 1, signals), from the counts (windows, signals, BINS).

    NaN where either window is empty.
    """
    rows = counts.sum(axis=2)
    return np.where(rows[1:] * rows[:-1] > 0, z_scores(counts[1:], counts[:-1]), np.nan)


def calmed(z: np.ndarray) -> Unrest:
    """Return the unrest that z between neighbours, (windows, signals), shows beyond chance; NaN counts for nothing."""
    nothing = np.isnan(z).all(axis=0)
    level, high = np.nanquantile(np.where(nothing, 0.0, z), [0.5, 0.9], axis=0)
    scale = (high - level) / NORMAL.inv_cdf(0.9)
    return Unrest(np.where(level > CALM_LEVEL, level, 0.0), np.where(scale > CALM_SCALE, scale * RESTLESS_TAIL, 1.0))


def _restless_sums(windows: Sequence[Window]) -> np.ndarray:
    sums, rows = np.array([window.sums for window in windows]), np.array([float(max(w.rows, 1)) for w in windows])
    gaps = np.diff(sums / rows[:, None], axis=0)
    t2 = rows[1:] * rows[:-1] / (rows[1:] + rows[:-1]) * (gaps**2).sum(axis=1)
    return wilson_hilferty(t2, float(gaps.shape[1]))


def _inside(reference: Reference, window: Window) -> np.ndarray:
    counts: np.ndarray = np.where(reference.compared(), window.counts, 0.0)
    return counts


def _classes(reference: Reference, window: Window) -> tuple[int, np.ndarray, np.ndarray] | None:
    # The place of the predicted class among the signals, and its counts and shares by bin.
    for s, (bins, shares) in enumerate(zip(reference.bins, reference.shares, strict=True)):
        if bins.name == CLASS:
            return s, window.counts[s, : len(shares)], np.array(shares)
    return None


def _missed(reference: Reference, window: Window, false_alarm: float) -> tuple[list[Finding], float]:
    # A class that is missing, and the false-alarm probability that is left for all else.
    known = _classes(reference, window)
    if known is None:
        return [], false_alarm
    s, counts, shares = known
    limit, used = missing.limit(reference.shares[s], window.rows, reference.rows, false_alarm * missing.SHARE)
    limit = _lifted(limit, window, s)
    z = missing.each(counts, shares, reference.rows)
    most = int(z.argmax())
    lost = float(missing.losses(counts, shares)[most])
    found = [Finding(missing_name(reference, most), float(z[most]), lost, limit)] if z[most] > limit else []
    return found, false_alarm - used


def _gone(reference: Reference, window: Window, length: str) -> list[Finding]:
    # The classes that lost much of their share, surely: both keys of the alert rule.
    known = _classes(reference, window)
    if known is None or length not in reference.missing_thresholds or known[1].sum() < reference.min_rows:
        return []
    s, counts, shares = known
    limit = _lifted(reference.missing_thresholds[length], window, s)
    z, lost = missing.each(counts, shares, reference.rows), missing.losses(counts, shares)
    places = np.flatnonzero((z > limit) & (lost >= missing.LEAST_LOSS)).tolist()
    return [Finding(missing_name(reference, k), float(z[k]), float(lost[k]), limit) for k in places]


def _lifted(limit: float, window: Window, signal: int) -> float:
    if window.unrest is None:
        return limit
    return float(window.unrest.level[signal] + window.unrest.scale[signal] * limit)


def missing_name(reference: Reference, place: int) -> str:
    """Return the signal that tells that the class at a place is missing."""
    held = reference.classes[place] if reference.classes else f"{place}"
    return f"class {held}{missing.GONE}"


def _over(reference: Reference, window: Window, limits: np.ndarray) -> list[Finding]:
    z, psi = scores(reference, window), stability(reference, window)
    if window.unrest is not None:
        known = len(window.unrest.level)  # the embedding's may not be
        limits = np.append(window.unrest.level + window.unrest.scale * limits[:known], limits[known:])
    found = [Finding(name, value, psi[name], limit) for (name, value), limit in zip(z.items(), limits, strict=False)]
    return [finding for finding in found if finding.z > finding.limit]


def _left(reference: Reference, window: Window, limit: float, min_rows: int) -> list[Finding]:
    # Rows outside the range of a signal, of two bins: inside and outside. Fewer than in the reference is no news.
    total, normal = window.counts.sum(axis=1), reference.outside_shares()
    outside = total - _inside(reference, window).sum(axis=1)
    rows = np.maximum(total, 1)
    pairs = np.stack([rows - outside, outside], axis=1)
    whole = np.stack([1 - normal, normal], axis=1) * reference.rows
    z, gap = z_scores(pairs, whole), outside / rows - normal
    told = (z > limit) & (gap > OUTSIDE_POINTS) & (outside >= OUTSIDE_ROWS) & (total >= min_rows)
    return [
        Finding(
            bins.name + OUTSIDE,
            float(z[s]),
            float(gap[s] * np.log((outside / rows)[s] / (normal[s] + SMOOTHING))),
            limit,
        )
        for s, bins in enumerate(reference.bins)
        if told[s]
    ]


def _sorted(found: list[Finding]) -> list[Finding]:
    return sorted(found, key=lambda finding: -finding.z)
