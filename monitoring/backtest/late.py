"""Whether labels stopped arriving: the alert on their age, replayed at every bucket, since time alone fires it."""

import numpy as np

from monitoring.backtest import rules as limits
from monitoring.backtest.counted import Seen
from monitoring.backtest.firing import Alert, Held, Watched
from monitoring.backtest.rules import Rules
from monitoring.monitor.tally import delay_s


def watched(model: str, seen: Seen, rules: Rules, end: int) -> Watched:
    """Return the alert on late labels of a model, followed up to the bucket `end`."""
    alert = Alert(limits.LATE, "warning", model, "", rules.patient_s, "s since the newest label")
    found, delays = Watched(alert), seen.delays[np.argsort(seen.delays[:, 0], kind="stable")]
    rows = [counted.buckets for counted in seen.counted.values()]
    if not len(delays) or not rows:
        return found
    known = np.unique(delays[:, 1])
    steps = np.arange(known[0] + 1, end + 1)
    age_s = (steps - known[np.searchsorted(known, steps) - 1]) * rules.bucket_s
    asked = np.unique(np.concatenate(rows))
    begins = steps - rules.labels_late_s // rules.bucket_s
    some = np.searchsorted(asked, steps) > np.searchsorted(asked, begins)
    old = (some & (age_s > rules.labels_late_s)).tolist()
    for step, age, maybe in zip(steps.tolist(), age_s.tolist(), old, strict=True):
        late = maybe and age > rules.labels_late_s + limits.LATE_DELAYS * _usual_s(delays, step, rules)
        found.step(float(step * rules.bucket_s), Held(age) if late else None)
    return found


def _usual_s(delays: np.ndarray, step: int, rules: Rules) -> float:
    # The median delay of the labels known by then, of rows answered in the window of quality; 0 without one.
    begin = (step * rules.bucket_s - rules.quality_s) / rules.stretch_s - 1
    some = delays[np.searchsorted(delays[:, 0], begin, side="right") :]
    some = some[some[:, 1] < step]
    if not len(some):
        return 0.0
    counts = np.bincount(some[:, 2], some[:, 3])
    return delay_s(int(np.searchsorted(counts.cumsum(), np.ceil(counts.sum() / 2))))
