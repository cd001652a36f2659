"""How good the answers were, with the uncertainty that the number of labels leaves."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from statistics import NormalDist

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Joined:
    """One answered row. label: None while the truth is not known; delay_s: from answer to label."""

    version: str
    predicted: str
    label: str | None
    delay_s: float | None


@dataclass(frozen=True)
class Measured:
    """The quality of one version in a window. value, lower, upper: None without a labelled row."""

    rows: int
    labelled: int
    value: float | None
    lower: float | None
    upper: float | None
    confusion: dict[tuple[str, str], int]

    @property
    def coverage(self) -> float:
        return self.labelled / self.rows


def wilson(right: int, rows: int, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the interval of a share, `right` of `rows` (> 0).

    Source: Wilson 1927, "Probable inference", eq. for the score interval; sound for few rows and shares near 1.
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share, room = right / rows, z * z / rows
    centre = (share + room / 2) / (1 + room)
    half = z / (1 + room) * math.sqrt(share * (1 - share) / rows + room / (4 * rows))
    return max(0.0, centre - half), min(1.0, centre + half)


def by_version(joined: Iterable[Joined]) -> dict[str, Measured]:
    """Return what was measured of each version; accuracy counts only rows with a label."""
    groups: dict[str, list[Joined]] = defaultdict(list)
    for row in joined:
        groups[row.version].append(row)
    return {version: _measure(rows) for version, rows in groups.items()}


def _measure(rows: list[Joined]) -> Measured:
    confusion = Counter((row.label, row.predicted) for row in rows if row.label is not None)
    labelled = confusion.total()
    if not labelled:
        return Measured(len(rows), 0, None, None, None, {})
    right = sum(count for (label, predicted), count in confusion.items() if label == predicted)
    lower, upper = wilson(right, labelled)
    return Measured(len(rows), labelled, right / labelled, lower, upper, dict(confusion))
