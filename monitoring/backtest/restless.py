"""How unlike short windows of traffic are that follow one another, as the rules measure it while traffic goes by."""

from collections import deque

import numpy as np

from monitoring.backtest.counted import Counted
from monitoring.backtest.moved import unlike
from monitoring.backtest.rules import FEWEST_WINDOWS, HISTORY_WINDOWS, Rules
from monitoring.backtest.stack import Stacking
from monitoring.log.opened import Opened
from monitoring.shift import drift
from monitoring.shift.drift import Unrest

RENEWED = 1 / 50  # of what it is made of must be new before it is computed again


class Restless:
    """The unrest of one version in the time before a step; steps must not go back."""

    def __init__(self, counted: Counted, known: Opened, rules: Rules) -> None:
        self._reference = known.reference
        self._every = rules.evaluation_s // rules.bucket_s
        self._short = dict(rules.windows_s)["short"] // rules.bucket_s
        self._history = HISTORY_WINDOWS * self._short
        self._fewest = FEWEST_WINDOWS * self._short // self._every
        self._now, self._before = Stacking(counted, self._short), Stacking(counted, self._short)
        self._seen: deque[tuple[int, np.ndarray]] = deque()  # z, and the step from which on it held
        self._computed_at = -1
        self._unrest: Unrest | None = None

    def over(self, steps: np.ndarray) -> list[Unrest | None]:
        """Return the unrest at each of some steps (rising), None while too few windows could be compared."""
        now, before = self._now.over(steps), self._before.over(steps - self._short)
        changed = np.flatnonzero(now.changed | before.changed)
        z = dict(zip(changed.tolist(), unlike(self._reference, before.some(changed), now.some(changed)), strict=True))
        return [self._at(step, z.get(place)) for place, step in enumerate(steps.tolist())]

    def _at(self, step: int, z: np.ndarray | None) -> Unrest | None:
        # z: of each signal and the embedding, NaN where it is not known; None where it is as it was.
        if z is not None:
            self._seen.append((step, z))
        while len(self._seen) > 1 and self._seen[1][0] <= step - self._history:
            self._seen.popleft()
        if self._seen and step - self._computed_at >= RENEWED * min(step - self._seen[0][0], self._history):
            self._unrest, self._computed_at = self._calmed(step), step
        return self._unrest

    def _calmed(self, step: int) -> Unrest | None:
        # Each z counts as often as the rules looked at it; of a signal with too few of them nothing is known.
        begins = np.maximum([at for at, _ in self._seen], step - self._history)
        looks = np.diff(np.append(begins, step + self._every)) // self._every
        z = np.repeat([found for _, found in self._seen], looks, axis=0)
        few = (~np.isnan(z)).sum(axis=0) < self._fewest
        z[:, few] = np.nan
        return None if few.all() else drift.calmed(z)
