"""The conditions of the alerts on one version, at the steps where they may change."""

import math
from dataclasses import replace

import numpy as np

from monitoring.backtest.counted import Changes, Counted
from monitoring.backtest.firing import Held
from monitoring.backtest.restless import Restless
from monitoring.backtest.rules import CLASS_SIGNAL, COLLAPSED_SHARE, USUAL_SHARE, Rules
from monitoring.backtest.windows import Sliding
from monitoring.judge import decline, intervals
from monitoring.judge.intervals import CONFIDENCE
from monitoring.judge.quality_page import level
from monitoring.judge.validity import FALSE_ALARM, MOST_ROWS
from monitoring.log.opened import Opened
from monitoring.shift import drift
from monitoring.shift.drift import Finding


class Drift:
    """Whether signals moved in one of the windows, and whether one class takes nearly all."""

    def __init__(self, counted: Counted, known: Opened, rules: Rules) -> None:
        self._known = known
        self._restless = Restless(counted, known, rules)
        self._windows = {name: Sliding(counted, length // rules.bucket_s) for name, length in rules.windows_s}
        self._found: dict[str, list[Finding]] = {name: [] for name in self._windows}
        self._collapsed: Held | None = None

    def at(self, step: int) -> tuple[Held | None, Held | None]:
        """Return what drifted and what collapsed at a step; steps must not go back."""
        unrest = self._restless.at(step)
        for name, sliding in self._windows.items():
            if sliding.move(step):
                window = replace(sliding.window, unrest=unrest)
                self._found[name] = judged(self._known, window, name)
                if name == "short":
                    self._collapsed = collapsed(self._known, window)
        moved: dict[str, float] = {}
        for finding in (finding for found in self._found.values() for finding in found):
            moved[finding.signal] = max(finding.z, moved.get(finding.signal, finding.z))
        return Held(len(moved), moved) if moved else None, self._collapsed


def judged(known: Opened, window: drift.Window, length: str) -> list[Finding]:
    """Return the signals that moved; see `drift.judge`. Of a signal that the log does not hold nothing is said."""
    if window.rows < known.reference.min_rows:
        return []
    with np.errstate(divide="ignore", invalid="ignore"):
        return drift.judge(known.reference, window, length)


def collapsed(known: Opened, window: drift.Window) -> Held | None:
    """Return the share of the class that nearly all rows get, if one does that did not in the reference."""
    reference = known.reference
    names = [bins.name for bins in reference.bins]
    if CLASS_SIGNAL not in names or window.rows < reference.min_rows:
        return None
    place = names.index(CLASS_SIGNAL)
    share = float(window.counts[place].max() / window.rows)
    usual = float(reference.padded_shares()[place].max())
    return Held(share) if share > COLLAPSED_SHARE and usual < USUAL_SHARE else None


class Floor:
    """Whether quality, of all rows or of a slice, is surely under a floor."""

    def __init__(self, changes: Changes, floor: float, fewest: int, confidence: float = CONFIDENCE) -> None:
        """fewest: labelled rows it is judged on. confidence: of the interval whose upper end is looked at."""
        self._at = changes.at
        self._labelled, self._right = np.cumsum(changes.labelled), np.cumsum(changes.right)
        self._floor, self._fewest, self._confidence = floor, fewest, confidence

    def enough(self, step: int) -> bool:
        """Return whether there are as many labelled rows as it takes."""
        return self._counts(step)[0] >= self._fewest

    def at(self, step: int) -> Held | None:
        """Return the upper end of the interval at a step if it is under the floor."""
        labelled, right = self._counts(step)
        if labelled < self._fewest or not labelled:
            return None
        upper = intervals.wilson(right, labelled, self._confidence)[1]
        return Held(upper) if upper < self._floor else None

    def _counts(self, step: int) -> tuple[int, int]:
        found = int(np.searchsorted(self._at, step)) - 1
        return (int(self._labelled[found]), int(self._right[found])) if found >= 0 else (0, 0)


class Estimated:
    """Whether accuracy is surely under its floor by estimates that nothing speaks against, where labels are few."""

    def __init__(self, counted: Counted, floor: float, known: Opened, rules: Rules) -> None:
        self._known, self._floor = known, floor
        self._window = Sliding(counted, rules.quality_s // rules.bucket_s)
        self._held: Held | None = None

    def at(self, step: int, labelled: bool) -> Held | None:
        """Return the upper end of both estimates if they are under the floor; labelled: whether labels say enough."""
        if self._window.move(step):
            self._held = self._under()
        return None if labelled else self._held

    def _under(self) -> Held | None:
        estimation, window = self._known.reference.estimation, self._window.window
        if estimation is None or not window.rows:
            return None
        found = estimation.estimate(self._window.estimated, window.rows)
        upper = max(found.cbpe.upper, found.atc.upper)
        if upper >= self._floor or found.doubts or not self._window.whole:
            return None
        return None if drift.alarms(self._known.reference, _sampled(window), FALSE_ALARM) else Held(upper)


def _sampled(window: drift.Window) -> drift.Window:
    # As if so many of its rows were looked at as the monitor looks at.
    share = min(1.0, MOST_ROWS / window.rows)
    sums = None if window.sums is None else window.sums * share
    return drift.Window(window.counts * share, sums, max(1, round(window.rows * share)))


class Declined:
    """Whether the labels of a month say that quality fell since the release, also those that come late."""

    def __init__(self, changes: Changes, known: Opened, rules: Rules) -> None:
        self._told = changes.told[np.argsort(changes.told[:, 1], kind="stable")]
        self._rules = rules
        self._level = level(known.release.manifest)
        self._first = int(changes.told[:, 0].min()) if len(changes.told) else 0
        self._counts = np.zeros((0, 2), np.int64)
        self._used = 0
        self._held: Held | None = None

    def at(self, step: int) -> Held | None:
        """Return the quality since it fell, if it surely did; steps must not go back."""
        now = math.floor(step * self._rules.bucket_s / self._rules.decline_step_s) - self._first + 1
        used = int(np.searchsorted(self._told[:, 1], step))
        if used > self._used or (used and now > len(self._counts)):
            self._counts = np.concatenate([self._counts, np.zeros((max(now - len(self._counts), 0), 2), np.int64)])
            new = self._told[self._used : used]
            np.add.at(self._counts, new[:, 0] - self._first, new[:, 2:])
            self._used = used
            labelled, right = self._counts.T
            found = decline.judge(right, labelled, self._level, self._rules.decline_step_s)
            self._held = Held(found.quality) if found.alarm and found.quality is not None else None
        return self._held


class Invalid:
    """The share of the rows that were refused, over the window of a rate."""

    def __init__(self, refused: tuple[np.ndarray, np.ndarray], answered: tuple[np.ndarray, np.ndarray], rules: Rules):
        self._refused, self._answered = _Running(*refused), _Running(*answered)
        self._length = rules.rate_s // rules.bucket_s

    def at(self, step: int) -> float:
        """Return the share at a step, 0 without a row."""
        refused, answered = (one.between(step - self._length, step) for one in (self._refused, self._answered))
        return refused / (refused + answered) if refused else 0.0


class _Running:
    def __init__(self, places: np.ndarray, rows: np.ndarray) -> None:
        self._places, self._sums = places, np.concatenate([[0], np.cumsum(rows)])

    def between(self, begin: int, end: int) -> int:
        low, high = np.searchsorted(self._places, (begin, end))
        return int(self._sums[high] - self._sums[low])
