"""Cases for `slo_rules`: one error ratio per tier, and what must wake nobody."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from math import ceil

from grafana import notation, slo
from grafana.cases import MINUTE, SLOWLY, Case, Fire, Series, series
from grafana.profile import MINUTE_S, PRODUCTION
from grafana.slo_rules import ENOUGH_BAD

ALL_DAY = 200  # minutes, or more; the slowest tier waits for three hours
THIRDS = 20  # minutes between samples of the tiers that look back for hours
WAITS = {burn.tier: burn.for_s // MINUTE_S for burn in PRODUCTION.burns}  # minutes
BUDGET = 20  # requests that may fail between two samples


@dataclass(frozen=True)
class Pace:
    """How fast a budget burns so that one tier fires and no faster one does. All lengths in minutes.

    times: too fast. ended: so fast for how long, how fast then, and when the tier is silent, by its short window.
    burst: after how many good minutes, how fast then, and when it is looked at: the long window says that it is
    short. few: bad requests between two samples, so that there are enough of them soon, and not many more.
    """

    tier: str
    times: float
    step: int
    ended: tuple[float, int, float, int]
    burst: tuple[int, float, int, int]
    few: tuple[float, float]


PACES = (
    Pace("fast", 15, MINUTE, (19, 5, 13, 15), (52, 19, 72, SLOWLY), (19, 3)),
    Pace("steady", 7, SLOWLY, (12, 20, 3, 52), (100, 10, 144, SLOWLY), (10, 3.2)),
    Pace("slow", 3.5, THIRDS, (5.9, 40, 2.5, 180), (400, 5.9, 560, THIRDS), (4, 2.5)),
    Pace("creeping", 1.5, THIRDS, (2.9, 200, 0.5, 520), (800, 2.9, 1160, THIRDS), (2, 1.1)),
)


def cases() -> list[Case]:
    """Return every case of the two objectives."""
    promised = slo.read()
    return [
        *_tiers("VigilErrorBurn", _errors, promised.availability),
        *_tiers("VigilLatencyBurn", _slow, promised.latency),
        *_edges(),
    ]


def _tiers(name: str, traffic: Callable[[str, str], Series], objective: float) -> list[Case]:
    found = []
    total = BUDGET / (1 - objective)

    def flow(*parts: tuple[int, float]) -> Series:
        # Each part: so many samples, of whose requests that many times too many are bad.
        bad = [BUDGET * times for samples, times in parts for _ in range(samples)]
        good = [total - one for one in bad]
        return traffic(*(" ".join(f"{one:.10g}" for one in accumulate(each, initial=0)) for each in (good, bad)))

    def said(times: float) -> str:
        return f"{100 * times * (1 - objective):.4g}%"

    for pace in PACES:
        step, fire = pace.step, partial(Fire, tier=pace.tier, labels={"job": "vigil"})
        steady = fire(step, value=said(pace.times))
        found.append(Case(name, f"{pace.times:g} times too fast", flow((ALL_DAY, pace.times)), (steady,), step=step))

        times, ends, after, until = pace.ended
        due = step + ceil(WAITS[pace.tier] / step) * step
        mean = (times * min(ends, due) + after * max(0, due - ends)) / due
        ended = fire(step, value=said(mean), until=until)
        slower = flow((ends // step, times), (ALL_DAY, after))
        found.append(Case(name, f"{times:g} times for {ends} minutes, then {after:g}", slower, (ended,), step=step))

        good, times, last, step = pace.burst
        title = f"{times:g} times after {good} good minutes"
        found.append(Case(name, title, flow((good // step, 0), (ALL_DAY, times)), last=last, step=step))

        times, each = pace.few
        few = fire(ceil(ENOUGH_BAD / each) * pace.step, value=said(times))
        every = each / (times * (1 - objective))
        some = traffic(f"0+{every - each:.10g}x{ALL_DAY}", f"0+{each}x{ALL_DAY}")
        found.append(Case(name, f"few requests, {times:g} times too fast", some, (few,), step=pace.step))
    within = flow((ALL_DAY, 0.9))
    return [
        *found,
        Case(name, "within the budget", within),
        Case(name, "within the budget for long", within, last=ALL_DAY, step=THIRDS),
        Case(name, "nine bad requests", traffic(f"0+1x{ALL_DAY}", f"0+0.35x{ALL_DAY}"), last=27),
        Case(name, "eight bad ones in hours", traffic(f"0+2x{ALL_DAY}", f"0+0.4x{ALL_DAY}"), last=400, step=THIRDS),
    ]


def _errors(good: str, bad: str, route: str = "/v1/predict") -> Series:
    failed = series("vigil_requests_total", bad, route=route, code="500")
    return failed | series("vigil_requests_total", good, route=route, code="200")


def _slow(quick: str, slow: str) -> Series:
    # A histogram counts up: what is quick is also in the buckets above.
    every = _sum(quick, slow)
    bucket = series("vigil_request_seconds_bucket", quick, route="/v1/predict", le=f"{slo.read().bound_s}")
    return bucket | series("vigil_request_seconds_count", every, route="/v1/predict")


def _sum(a: str, b: str) -> str:
    pairs = zip(notation.samples(a), notation.samples(b), strict=True)
    return " ".join(f"{float(x or 0) + float(y or 0):.10g}" for x, y in pairs)


def _edges() -> list[Case]:
    name = "VigilErrorBurn"
    only_good = series("vigil_requests_total", "0+60x60", route="/v1/predict", code="200")
    hot = Fire(1, tier="fast", labels={"job": "vigil"}, value="100%")
    spike = _errors("0+400x15", "0x2 0+200x2 600x10")
    probes = _errors("0+60x60", "0+60x60", route="/metrics")
    return [
        *(
            Case(name, f"all fail at {route}", _errors("0x60", "0+20x60", route), (hot,))
            for route in ("/v2/models/{name}/infer", "/v2/models/{name}/versions/{version}/infer", "/predict")
        ),
        Case(name, "a spike that ended 40 minutes ago", spike, last=60, step=SLOWLY),
        Case(name, "no traffic", _errors("0x60", "0x60"), last=20),
        Case(name, "no traffic for long", _errors("0x60", "0x60"), last=ALL_DAY, step=THIRDS),
        Case(name, "no failure ever", only_good, last=ALL_DAY, step=THIRDS),
        Case(name, "scrapes and probes that fail", probes, last=20),
        Case(name, "scrapes and probes that fail for long", probes, last=ALL_DAY, step=THIRDS),
        Case("VigilLatencyBurn", "no traffic", _slow("0+0x60", "0+0x60"), last=20),
        Case("VigilLatencyBurn", "no traffic for long", _slow("0+0x60", "0+0x60"), last=ALL_DAY, step=THIRDS),
    ]
