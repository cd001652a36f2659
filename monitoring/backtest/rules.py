"""The alert rules as they are replayed: lengths of time and limits, the same as in the rule files.

A test holds them against the profiles and the expressions that the rule files are generated from.
"""

import math
from dataclasses import dataclass

from monitoring.judge.quality_page import STEPS_PER_WINDOW
from monitoring.monitor.state import BUCKET_S, BUCKETS_PER_WINDOW

DRIFT, COLLAPSE = "VigilDataDrift", "VigilPredictionsCollapsed"
INVALID, FLOOR, DECLINED = "VigilInvalidInputs", "VigilQualityUnderFloor", "VigilQualityDeclined"
SLICE, ESTIMATE = "VigilQualitySliceUnderFloor", "VigilQualityEstimateUnderFloor"
LATE, LATE_DELAYS = "VigilLabelsLate", 3  # so many usual delays later than the length of time that all may take
COLLAPSED_SHARE, USUAL_SHARE = 0.95, 0.8  # one class gets more than the first, and none does in the reference
CLASS_SIGNAL = "predicted_class"
HISTORY_WINDOWS, FEWEST_WINDOWS = 168, 48  # short ones that unrest is looked for in, and must be known of
INVALID_SHARES = {"critical": 0.5, "warning": 0.05}
DAY_S = 86_400


@dataclass(frozen=True)
class Rules:
    """evaluation_s: between two evaluations of the drift rules. rate_s: the window of a rate. urgent_s, patient_s: the
    `for` of alerts. windows_s: of drift. quality_s, quality_rows: the window of quality and the fewest labelled rows.
    labels_late_s: without a label, while rows come.
    """

    evaluation_s: int
    rate_s: int
    urgent_s: int
    patient_s: int
    windows_s: tuple[tuple[str, int], ...]
    quality_s: int = DAY_S
    quality_rows: int = 200
    labels_late_s: int = DAY_S

    @property
    def decline_step_s(self) -> float:
        """The step of time in which rows are put together by the test for a decline."""
        return self.quality_s / STEPS_PER_WINDOW

    @property
    def stretch_s(self) -> float:
        """The stretch of time in which the monitor puts rows together."""
        return min(BUCKET_S, self.quality_s / BUCKETS_PER_WINDOW)

    @property
    def bucket_s(self) -> int:
        """The longest stretch of time that every window is a whole number of."""
        return math.gcd(self.evaluation_s, self.rate_s, self.quality_s, *(length for _, length in self.windows_s))


PROFILES = {
    "production": Rules(120, 300, 120, 900, (("short", 3600), ("medium", DAY_S), ("long", 7 * DAY_S))),
    "demo": Rules(1, 10, 2, 5, (("short", 20), ("medium", 60), ("long", 180)), 120, 50, 60),
}
