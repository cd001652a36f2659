"""Whether quality fell below what it was at the release, right at every look, also when it falls late.

A bettor starts with 1 at the beginning of each step of time and stakes on each labelled row that answers are
right less often than `level`. While that is false its wealth is expected to fall, whenever the labels come and
in whatever order. The mean over all bettors of a month is such a wealth too, so the chance that it ever reaches
1 / FALSE_ALARMS is at most FALSE_ALARMS (Ville), however often one looks. A drop on the twentieth day is found by those
that began on the twentieth day, whom the good days before it cost nothing.

Source: Shin, Ramdas & Rinaldo 2024, "E-detectors: a nonparametric framework for sequential change detection", New
England Journal of Statistics in Data Science 2, 229-260: the e-SR procedure; stakes as in `monitoring.judge.evidence`.
"""

import math
from dataclasses import dataclass

import numpy as np

FALSE_ALARMS = 0.05  # in any MONTH_S
MONTH_S = 30 * 86_400.0
LOOK_BACK_S = MONTH_S
STEP_S = 6 * 3600.0  # a bettor begins
STAKES = 12
SMALLEST_DROP = 0.005
TOLERANCE = 0.01  # where a release states none
HIGHEST_LEVEL = 1 - 1e-4


@dataclass(frozen=True)
class Decline:
    """What the labels say against "as good as at the release".

    evidence: the mean wealth, 1 / FALSE_ALARMS and above is an alarm. level: what quality must not be under.
    begun: the index of the step since which the evidence is strongest, quality: the share of right answers since;
    None without a label.
    """

    evidence: float
    level: float
    begun: int | None = None
    quality: float | None = None

    @property
    def alarm(self) -> bool:
        """Return whether quality is surely below the level."""
        return self.evidence >= limit()


def limit() -> float:
    """Return the evidence at which there is an alarm."""
    return 1 / FALSE_ALARMS


def level(value: float, lower: float, tolerance: float = TOLERANCE) -> float:
    """Return what the quality of a release must not fall under: its own less the tolerance, or what is sure of it.

    value, lower: quality at the release and the lower end of its interval: few held-out rows cannot say that it
    was better than that.
    """
    return min(value - tolerance, lower)


def judge(right: np.ndarray, labelled: np.ndarray, level: float, step_s: float = STEP_S) -> Decline:
    """Return the evidence that answers are right less often than `level`.

    right, labelled: rows per step of time, the oldest first, the last one being now; what is older than LOOK_BACK_S
    counts no more. step_s: the length of a step. Only the counts matter, not when the labels came.
    """
    steps = max(1, round(LOOK_BACK_S / step_s))
    old = max(0, len(labelled) - steps)
    right, labelled = right[old:], labelled[old:]
    if level <= SMALLEST_DROP or not labelled.sum():
        return Decline(0.0, level)
    hits, rows = (np.cumsum(counts[::-1])[::-1].astype(np.float64) for counts in (right, labelled))
    rise, fall = factors(level)
    logs = np.multiply.outer(hits, fall) + np.multiply.outer(rows - hits, rise)  # (steps, STAKES)
    most = logs.max(axis=1)
    each = most + np.log(np.exp(logs - most[:, None]).mean(axis=1))
    top = float(each.max())
    wealth = top + math.log(float(np.exp(each - top).sum())) - math.log(bettors(step_s))
    begun = int(each.argmax())
    return Decline(math.exp(min(wealth, 700.0)), level, old + begun, float(hits[begun] / max(rows[begun], 1.0)))


def bettors(step_s: float) -> float:
    """Return how many can raise an alarm in a month: those that begin in it, and those that began before and go on."""
    return (MONTH_S + LOOK_BACK_S) / step_s


def factors(level: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the log of the factor of each stake (STAKES,) for a wrong and for a right answer.

    Each stake is one drop below `level`, from SMALLEST_DROP to nearly all of it, in steps of the same ratio.
    """
    top = min(level, HIGHEST_LEVEL)
    lower = top - np.geomspace(SMALLEST_DROP, 0.95 * top, STAKES)
    return np.log((1 - lower) / (1 - top)), np.log(lower / top)
