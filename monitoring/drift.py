"""Does a window of traffic still look like the reference: the recording and alert rules of drift, in numpy.

What Prometheus computes from counters, these compute from rows or counts: `judge` says what the alert rules say
of a window of 1 h, 24 h or 7 d; `alarms` looks once, at any number of rows, at a stated false-alarm probability.
"""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from monitoring.bulk import Counting
from monitoring.reference import Reference, z_scores
from monitoring.signals import EMBEDDING
from registry.release import InputSpec

SMOOTHING = 1e-4  # keeps the logarithm finite for a bin that is empty on one side; the rules use the same


@dataclass(frozen=True)
class Window:
    """What was counted of some rows. counts: float64 (signals, BINS). sums: of the embedding's components, (k,)."""

    counts: np.ndarray
    sums: np.ndarray | None
    rows: int


@dataclass(frozen=True)
class Finding:
    """A signal that moved. psi: of the embedding its size, see `Embedding.size`. limit: what z is over."""

    signal: str
    z: float
    psi: float
    limit: float


def window_of(
    reference: Reference, spec: InputSpec, inputs: np.ndarray, outputs: np.ndarray, threshold: float | None = None
) -> Window:
    """Return the window of rows; arguments as in `signals.compute`."""
    counting = Counting.of(reference, spec, threshold)
    counts = counting.counts(inputs, outputs).astype(np.float64)
    return Window(counts, counting.sums(inputs, outputs)[:-1] if reference.embedding else None, len(inputs))


def scores(reference: Reference, window: Window) -> dict[str, float]:
    """Return z of each signal and, where the reference has one, of the embedding; empty without rows."""
    if not window.rows:
        return {}
    normal = reference.padded_shares() * reference.rows
    names = (bins.name for bins in reference.bins)
    found = dict(zip(names, z_scores(window.counts, normal).tolist(), strict=True))
    if reference.embedding is not None and window.sums is not None:
        found[EMBEDDING] = reference.embedding.z(window.sums, window.rows, reference.rows)
    return found


def stability(reference: Reference, window: Window) -> dict[str, float]:
    """Return the population stability index (PSI) of each signal, and the size of the embedding's shift."""
    normal = reference.padded_shares()
    share = window.counts / window.counts.sum(axis=1, keepdims=True)
    psi = ((share - normal) * np.log((share + SMOOTHING) / (normal + SMOOTHING))).sum(axis=1)
    found = dict(zip((bins.name for bins in reference.bins), psi.tolist(), strict=True))
    if reference.embedding is not None and window.sums is not None:
        found[EMBEDDING] = reference.embedding.size(window.sums, window.rows, reference.rows)
    return found


def judge(reference: Reference, window: Window, length: str) -> list[Finding]:
    """Return the signals the alert rules call moved, the surest first.

    length: "short", "medium" or "long", which is 1 h, 24 h or 7 d.
    """
    if window.rows < reference.min_rows:
        return []
    limit = reference.z_thresholds[length]
    return [finding for finding in _over(reference, window, limit) if finding.psi > reference.psi_floor]


def alarms(reference: Reference, window: Window, false_alarm: float) -> list[Finding]:
    """Return the signals that moved, the surest first, of a window that is looked at once.

    false_alarm: the probability that any is returned though nothing moved.
    """
    if not window.rows:
        return []
    count = len(reference.bins) + (reference.embedding is not None)
    return _over(reference, window, NormalDist().inv_cdf(1 - false_alarm / count))


def _over(reference: Reference, window: Window, limit: float) -> list[Finding]:
    psi = stability(reference, window)
    found = [Finding(name, z, psi[name], limit) for name, z in scores(reference, window).items() if z > limit]
    return sorted(found, key=lambda finding: -finding.z)
