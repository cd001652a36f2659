"""How fast Vigil watches: every length of time that a rule uses, one table per profile.

The rules are the same text in every profile but for these lengths, so what the demo shows in a minute
is what production shows in a day.

| seconds                        | production         | demo        |
|--------------------------------|--------------------|-------------|
| scrape, evaluation             | 15, 30             | 1, 1        |
| drift windows                  | 1 h, 24 h, 7 d     | 20, 60, 180 |
| window of a rate               | 5 min              | 10          |
| `for` of an urgent alert       | 2 min              | 2           |
| `for` of a patient alert       | 15 min             | 5           |
| labels are late after          | 24 h               | 60          |
| traffic looks alike again after| 24 h               | 600         |
| heartbeat of the Watchdog      | 5 min              | 10          |
"""

from dataclasses import dataclass

from grafana import slo

MINUTE_S = 60
HOUR_S = 3600
DAY_S = 86400


@dataclass(frozen=True)
class Windows:
    """Lengths of the windows that drift is judged over."""

    short_s: int
    medium_s: int
    long_s: int

    def items(self) -> tuple[tuple[str, int], ...]:
        """Return (label value, seconds), shortest first."""
        return ("short", self.short_s), ("medium", self.medium_s), ("long", self.long_s)


@dataclass(frozen=True)
class Burn:
    """Alert when the error budget burns `factor` times too fast over a long and a short window.

    Source of the shape: the Site Reliability Workbook, chapter 5, "Alerting on SLOs".
    """

    tier: str
    severity: str
    factor: float
    short_s: int
    long_s: int
    for_s: int


@dataclass(frozen=True)
class Profile:
    """One column of the table above; `delivery` is group wait, group interval and repeat interval.

    page_wait_s: the group wait of pages, shorter: nobody asleep needs the whole picture first.
    heartbeat_s: a beat of the Watchdog is sent at least that often; its switch is told this period.
    season_s: after which traffic looks alike again. What was promised to callers is in slo.toml.
    """

    name: str
    scrape_s: int
    evaluation_s: int
    drift_evaluation_s: int
    drift: Windows
    burns: tuple[Burn, ...]
    budget_s: int
    rate_s: int
    urgent_s: int
    patient_s: int
    labels_late_s: int
    season_s: int
    delivery: tuple[int, int, int]
    page_wait_s: int
    heartbeat_s: int

    @property
    def availability(self) -> float:
        return slo.read().availability

    @property
    def latency(self) -> float:
        return slo.read().latency

    @property
    def latency_bound_s(self) -> float:
        return slo.read().bound_s


PRODUCTION = Profile(
    name="production",
    scrape_s=15,
    evaluation_s=30,
    drift_evaluation_s=2 * MINUTE_S,  # a series that is older than 5 minutes is no longer seen
    drift=Windows(HOUR_S, DAY_S, 7 * DAY_S),
    burns=(
        Burn("fast", "critical", 14.4, 5 * MINUTE_S, HOUR_S, 2 * MINUTE_S),
        Burn("steady", "critical", 6, 30 * MINUTE_S, 6 * HOUR_S, 15 * MINUTE_S),
        Burn("slow", "warning", 3, 2 * HOUR_S, DAY_S, HOUR_S),
        Burn("creeping", "warning", 1, 6 * HOUR_S, 3 * DAY_S, 3 * HOUR_S),
    ),
    budget_s=30 * DAY_S,
    rate_s=5 * MINUTE_S,
    urgent_s=2 * MINUTE_S,
    patient_s=15 * MINUTE_S,
    labels_late_s=DAY_S,
    season_s=DAY_S,
    delivery=(30, 5 * MINUTE_S, 4 * HOUR_S),
    page_wait_s=10,
    heartbeat_s=5 * MINUTE_S,
)
DEMO = Profile(
    name="demo",
    scrape_s=1,
    evaluation_s=1,
    drift_evaluation_s=1,
    drift=Windows(20, 60, 180),
    burns=(
        Burn("fast", "critical", 14.4, 5, 20, 2),
        Burn("steady", "critical", 6, 10, 60, 5),
        Burn("slow", "warning", 3, 30, 120, 20),
        Burn("creeping", "warning", 1, 60, 180, 60),
    ),
    budget_s=600,
    rate_s=10,
    urgent_s=2,
    patient_s=5,
    labels_late_s=60,
    season_s=600,
    delivery=(1, 2, HOUR_S),
    page_wait_s=1,
    heartbeat_s=10,
)
PROFILES = {profile.name: profile for profile in (PRODUCTION, DEMO)}


def duration(seconds: int) -> str:
    """Return `seconds` as Prometheus writes it: 90 -> "90s", 3600 -> "1h"."""
    for unit, size in (("d", DAY_S), ("h", HOUR_S), ("m", MINUTE_S)):
        if seconds and seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
