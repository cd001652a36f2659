"""The signals that moved, of many windows at once: what `drift.judge` says of each of them, which a test demands."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from monitoring.backtest.stack import Stack
from monitoring.shift import drift, missing
from monitoring.shift.calibration import wilson_hilferty, z_scores
from monitoring.shift.drift import OUTSIDE, OUTSIDE_POINTS, OUTSIDE_ROWS, SMOOTHING, Unrest
from monitoring.shift.reference import Reference
from monitoring.shift.signals import CLASS, EMBEDDING

Told = tuple[list[str], np.ndarray, np.ndarray]  # signals (s,), z (n, s), whether each moved (n, s)


@dataclass(frozen=True)
class Lift:
    """What unrest does to limits: level + scale * limit. Both of each window and signal, the embedding's last."""

    level: np.ndarray
    scale: np.ndarray

    @classmethod
    def of(cls, reference: Reference, unrest: Sequence[Unrest | None]) -> "Lift":
        """Return the lift of windows by their unrest, which changes no limit where it is not known."""
        count = len(reference.bins) + (reference.embedding is not None)
        level, scale = np.zeros((len(unrest), count)), np.ones((len(unrest), count))
        for place, one in enumerate(unrest):
            if one is not None:
                level[place, : len(one.level)], scale[place, : len(one.scale)] = one.level, one.scale
        return cls(level, scale)


def moved(reference: Reference, stack: Stack, length: str, lift: Lift) -> list[dict[str, float]]:
    """Return by window the signals that moved and the z of each. length: see `drift.judge`."""
    inside = np.where(reference.compared(), stack.counts, 0.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = [_changed(reference, stack, length, inside, lift), _left(reference, stack, length, inside)]
        parts += [_embedded(reference, stack, length, lift), _gone(reference, stack, length, lift)]
    names = [name for part in parts for name in part[0]]
    z, told = (np.concatenate([part[side] for part in parts], axis=1) for side in (1, 2))
    told &= (stack.rows >= reference.min_rows)[:, None]
    found: list[dict[str, float]] = [{} for _ in stack.rows]
    for window, signal in np.argwhere(told).tolist():
        found[window][names[signal]] = float(z[window, signal])
    return found


def unlike(reference: Reference, earlier: Stack, later: Stack) -> np.ndarray:
    """Return `drift.unlike` of each pair, float64 (n, signals), the embedding's last if the reference has one."""
    pairs = [np.where(reference.compared(), one.counts, 0.0) for one in (earlier, later)]
    some = [pair.sum(axis=2) > 0 for pair in pairs]
    z = np.where(some[0] & some[1], z_scores(pairs[1], pairs[0]), np.nan)
    if reference.embedding is None:
        return z
    column = np.full(len(z), np.nan)
    if earlier.sums.shape[1]:
        n, m = (np.maximum(one.rows, 1).astype(np.float64) for one in (earlier, later))
        gaps = later.sums / m[:, None] - earlier.sums / n[:, None]
        column = wilson_hilferty(m * n / (m + n) * (gaps**2).sum(axis=1), float(gaps.shape[1]))
    column[(earlier.rows == 0) | (later.rows == 0)] = np.nan
    return np.column_stack([z, column])


def _changed(reference: Reference, stack: Stack, length: str, inside: np.ndarray, lift: Lift) -> Told:
    normal, rows, count = reference.padded_shares(), inside.sum(axis=2), len(reference.bins)
    z = z_scores(inside, normal * reference.rows)
    share = inside / np.maximum(rows, 1)[..., None]
    psi = ((share - normal) * np.log((share + SMOOTHING) / (normal + SMOOTHING))).sum(axis=2)
    limits = reference.z_thresholds[length] + reference.padded_slopes()[:count] / np.maximum(rows, 1)
    limits = lift.level[:, :count] + lift.scale[:, :count] * limits
    told = (z > limits) & (psi > reference.psi_floor) & (rows >= reference.min_rows)
    return [bins.name for bins in reference.bins], z, told


def _embedded(reference: Reference, stack: Stack, length: str, lift: Lift) -> Told:
    waves = reference.embedding
    if waves is None or not stack.sums.shape[1]:
        return [], np.zeros((len(stack.rows), 0)), np.zeros((len(stack.rows), 0), bool)
    z, size = (each(stack.sums, stack.rows, reference.rows) for each in (waves.z_of_each, waves.size_of_each))
    limits = reference.z_thresholds[length] + reference.padded_slopes()[-1] / np.maximum(stack.rows, 1)
    told = (z > lift.level[:, -1] + lift.scale[:, -1] * limits) & (size > reference.psi_floor)
    return [EMBEDDING], z[:, None], told[:, None]


def _left(reference: Reference, stack: Stack, length: str, inside: np.ndarray) -> Told:
    # Rows outside the range of a signal, of two bins: inside and outside.
    total, normal = stack.counts.sum(axis=2), reference.outside_shares()
    outside, rows = total - inside.sum(axis=2), np.maximum(total, 1)
    pairs = np.stack([rows - outside, outside], axis=2)
    z = z_scores(pairs, np.stack([1 - normal, normal], axis=1) * reference.rows)
    told = (z > reference.z_thresholds[length]) & (outside / rows - normal > OUTSIDE_POINTS)
    told &= (outside >= OUTSIDE_ROWS) & (total >= reference.min_rows)
    return [bins.name + OUTSIDE for bins in reference.bins], z, told


def _gone(reference: Reference, stack: Stack, length: str, lift: Lift) -> Told:
    names = [bins.name for bins in reference.bins]
    if CLASS not in names or length not in reference.missing_thresholds:
        return [], np.zeros((len(stack.rows), 0)), np.zeros((len(stack.rows), 0), bool)
    s = names.index(CLASS)
    shares = np.array(reference.shares[s])
    counts = stack.counts[:, s, : len(shares)]
    z, lost = missing.each(counts, shares, reference.rows), missing.losses(counts, shares)
    limits = lift.level[:, s] + lift.scale[:, s] * reference.missing_thresholds[length]
    told = (z > limits[:, None]) & (lost >= missing.LEAST_LOSS) & (counts.sum(axis=1) >= reference.min_rows)[:, None]
    return [drift.missing_name(reference, place) for place in range(len(shares))], z, told
