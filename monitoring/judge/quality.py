"""How good the answers were, with the uncertainty that the number of labels leaves."""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from monitoring.judge.intervals import wilson
from registry import release, store
from registry.errors import ReleaseError
from registry.release import Manifest, Release


@dataclass(frozen=True)
class Joined:
    """One answered row. label: None while the truth is not known; delay_s: from answer to label.

    number: whether prediction and label are numbers, as in a regression, or classes.
    """

    version: str
    predicted: str
    label: str | None
    delay_s: float | None
    number: bool = False


@dataclass(frozen=True)
class Measured:
    """The quality of one version in a window: the share of right answers among the labelled rows.

    value, lower, upper: None without a labelled row, or where it is not known what is right.
    confusion: {} in a regression.
    """

    rows: int
    labelled: int
    value: float | None
    lower: float | None
    upper: float | None
    confusion: dict[tuple[str, str], int]

    @property
    def coverage(self) -> float:
        return self.labelled / self.rows


def by_version(joined: Iterable[Joined], tolerances: Mapping[str, float] | None = None) -> dict[str, Measured]:
    """Return what was measured of each version; only rows with a label count.

    tolerances: per version of a regression, how far a right answer may be from the truth.
    """
    groups: dict[str, list[Joined]] = defaultdict(list)
    for row in joined:
        groups[row.version].append(row)
    known = tolerances or {}
    return {
        version: _numbers(rows, known.get(version)) if rows[0].number else _classes(rows)
        for version, rows in groups.items()
    }


def manifest_of(model: str, version: str) -> Manifest | None:
    """Return what a recorded version was released with, or None if it was deleted since."""
    found = release_of(model, version)
    return None if found is None else found.manifest


def release_of(model: str, version: str) -> Release | None:
    """Return the release of a recorded version, or None if it was deleted since."""
    try:
        return release.load(store.models() / model / version, f"{model}:{version}")
    except ReleaseError:
        return None


def number(text: str) -> float | None:
    """Return the finite number that `text` says, or None."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _classes(rows: list[Joined]) -> Measured:
    confusion = Counter((row.label, row.predicted) for row in rows if row.label is not None)
    right = sum(count for (label, predicted), count in confusion.items() if label == predicted)
    return _measured(len(rows), confusion.total(), right, dict(confusion))


def _numbers(rows: list[Joined], tolerance: float | None) -> Measured:
    # A label that came before its answer was not checked at the door; one that is no number says nothing.
    truths = [(float(row.predicted), number(row.label)) for row in rows if row.label is not None]
    gaps = [abs(predicted - truth) for predicted, truth in truths if truth is not None]
    right = None if tolerance is None else sum(gap <= tolerance for gap in gaps)
    return _measured(len(rows), len(gaps), right, {})


def _measured(rows: int, labelled: int, right: int | None, confusion: dict[tuple[str, str], int]) -> Measured:
    if not labelled or right is None:
        return Measured(rows, labelled, None, None, None, confusion)
    return Measured(rows, labelled, right / labelled, *wilson(right, labelled), confusion)
