"""Months of traffic without drift, counted minute by minute, and what the alert rules say of them."""

import numpy as np

from monitoring.shift import drift, missing, reference, signals
from monitoring.shift.binning import codes_of
from monitoring.shift.calibration import WINDOW_MINUTES, z_scores
from monitoring.shift.drift import SMOOTHING
from monitoring.shift.reference import ReferenceSettings
from monitoring.shift.signals import CLASS
from registry.release import InputSpec

SPEC = InputSpec("float32", (6,), ("age", "height", "weight", "income", "kind", "plan"),
                 {"kind": ("a", "b", "c"), "plan": ("free", "basic", "gold", "trial", "old")})  # fmt: skip
EVERY_MINUTES = {"short": 1, "medium": 4, "long": 20}  # a look
DAYS, WARM_DAYS = 30, 7


def population(rows, seed, memory=0.0):
    """Return rows of features that go together, and a model's answers; memory: of each row for the one before."""
    generator = np.random.default_rng(seed)
    noise = generator.standard_normal((rows, 6))
    if memory:
        for i in range(1, rows):
            noise[i] = memory * noise[i - 1] + np.sqrt(1 - memory**2) * noise[i]
    hidden = noise @ np.linalg.cholesky(0.4 * np.ones((6, 6)) + 0.6 * np.eye(6)).T
    x = hidden.astype(np.float32)
    x[:, 3] = np.exp(hidden[:, 3])
    x[:, 4] = np.searchsorted([-0.3, 1.0], hidden[:, 4])
    x[:, 5] = np.searchsorted([0.5, 1.3, 1.9, 2.4], hidden[:, 5])
    scores = hidden @ np.random.default_rng(7).standard_normal((6, 4)) * 1.5
    answers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return x, (answers / answers.sum(axis=1, keepdims=True)).astype(np.float32)


def made_from(x, answers, rows, **settings):
    """Return the reference of the first rows."""
    return reference.build(ReferenceSettings(**settings), reference.HeldOut(SPEC, x[:rows], answers[:rows]))


def coded(made, x, answers):
    """Return the bins of rows, -1 where they are not compared."""
    return codes_of(made.bins, made.far, signals.compute(SPEC, x, answers))


def month(made, codes, rows_per_h, seed, in_order=False, run_time=False):
    """Return the windows, by name, in which the rules find drift somewhere in 30 days, and those over z alone."""
    generator = np.random.default_rng(seed)
    minutes = (DAYS + WARM_DAYS) * 1440
    rows = generator.poisson(rows_per_h * minutes / 60)
    when = np.sort(generator.integers(0, minutes, rows))
    which = np.arange(rows) + generator.integers(len(codes)) if in_order else generator.integers(0, len(codes), rows)
    told, sure = set(), set()
    for s in range(codes.shape[1]):
        total = _running(codes[which % len(codes), s], when, minutes)
        calm = _calm(total) if run_time else (0.0, 1.0)
        for window, length in WINDOW_MINUTES.items():
            counts = _counts(total, length, EVERY_MINUTES[window], WARM_DAYS * 1440)
            by_z, by_both = _over(made, s, window, counts, calm)
            sure |= {window} if by_z else set()
            told |= {window} if by_both else set()
            if made.bins[s].name == CLASS and _missing(made, s, window, counts, calm):
                sure, told = sure | {window}, told | {window}
    return told, sure


def _running(codes, when, minutes):
    kept = codes >= 0
    counted = np.bincount(when[kept] * 16 + codes[kept], minlength=minutes * 16).reshape(minutes, 16)
    return np.concatenate([np.zeros((1, 16)), np.cumsum(counted, axis=0)])


def _counts(total, length, step, start):
    ends = np.arange(start, len(total), step)
    return total[ends] - total[ends - length]


def _calm(total):
    hours = _counts(total, 60, 60, 60)
    found = drift.calmed(drift.restless(hours[:, None]))
    return float(found.level[0]), float(found.scale[0])


def _over(made, s, window, counts, calm):
    shares = made.padded_shares()[s]
    rows = counts.sum(axis=1)
    judged = counts[rows >= made.min_rows]
    if not len(judged):
        return False, False
    z = z_scores(judged[:, None], (shares * made.rows)[None, None])[:, 0]
    base, slope = made.z_thresholds[window], made.padded_slopes()[s]
    rows = judged.sum(axis=1)
    share = judged / rows[:, None]
    psi = ((share - shares) * np.log((share + SMOOTHING) / (shares + SMOOTHING))).sum(axis=1)
    over = z > calm[0] + calm[1] * (base + slope / rows)
    return bool(over.any()), bool((over & (psi > made.psi_floor)).any())


def _missing(made, s, window, counts, calm):
    judged = counts[counts.sum(axis=1) >= made.min_rows]
    shares = made.padded_shares()[s]
    if not len(judged):
        return False
    z = missing.each(judged, shares, made.rows)
    lost = 1 - judged / judged.sum(axis=1, keepdims=True) / np.where(shares > 0, shares, np.inf)
    over = z > calm[0] + calm[1] * made.missing_thresholds[window]
    return bool((over & (shares > 0) & (lost >= missing.LEAST_LOSS)).any())
