"""Cases for `slo_rules`: one error ratio per tier, and what must wake nobody."""

from collections.abc import Callable

from grafana import notation, slo
from grafana.cases import MINUTE, Case, Fire, Series, series

ALL_DAY = 200  # minutes, or more; the slowest tier waits for three hours
THIRDS = 20  # minutes between samples of the tiers that look back for hours
BUDGET = 20  # requests that may fail between two samples
# Tier, times too fast, minutes between samples; the minute at which it ends in another case, and when all is silent.
TIERS = (
    ("fast", 15, MINUTE, 5, 18), ("steady", 7, MINUTE, 20, 40), ("slow", 3.5, THIRDS, 80, 320),
    ("creeping", 1.5, THIRDS, 200, 340),
)  # fmt: skip


def cases() -> list[Case]:
    """Return every case of the two objectives."""
    promised = slo.read()
    return [
        *_tiers("VigilErrorBurn", _errors, promised.availability),
        *_tiers("VigilLatencyBurn", _slow, promised.latency),
        *_edges(),
    ]


def _tiers(name: str, traffic: Callable[[str, str], Series], objective: float) -> list[Case]:
    # Just over the factor of a tier it fires first; the case ends there, before the slower ones are due.
    found = []
    total = round(BUDGET / (1 - objective))
    for tier, factor, step, ends, clears in TIERS:
        bad, until = round(BUDGET * factor), ends // step
        fires = (Fire(step, tier=tier, labels={"job": "vigil"}, value=f"{100 * bad / total:.4g}%"),)
        good = f"0+{total - bad}x{ALL_DAY}"
        title = f"{factor:g} times too fast"
        found.append(Case(name, title, traffic(good, f"0+{bad}x{ALL_DAY}"), fires, step=step))
        rest = f"x{ALL_DAY - until - 1}"
        healthy = f"0+{total - bad}x{until} {(total - bad) * until + total}+{total}{rest}"
        ended = traffic(healthy, f"0+{bad}x{until} {bad * until}{rest}")
        found.append(Case(name, f"{title} for {ends} minutes", ended, fires, clears, step=step))
    bad = round(BUDGET * 0.9)
    slower = traffic(f"0+{total - bad}x{ALL_DAY}", f"0+{bad}x{ALL_DAY}")
    within = [Case(name, "within the budget", slower), Case(name, "for long", slower, last=ALL_DAY, step=THIRDS)]
    return [*found, *within]


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
    return " ".join(f"{float(x or 0) + float(y or 0):g}" for x, y in pairs)


def _edges() -> list[Case]:
    name = "VigilErrorBurn"
    only_good = series("vigil_requests_total", "0+60x60", route="/v1/predict", code="200")
    probes = _errors("0+60x60", "0+60x60", route="/metrics")
    return [
        Case(name, "a spike that ended 40 minutes ago", _errors("0+100x60", "0x10 0+50x10 500x40"), last=60),
        Case(name, "two failures of ten requests", _errors("0 1 2 3 4 5 6 7 8 8x100", "0x5 1 2 2x100"), last=20),
        Case(name, "no traffic", _errors("0x60", "0x60"), last=20),
        Case(name, "no traffic for long", _errors("0x60", "0x60"), last=ALL_DAY, step=THIRDS),
        Case(name, "no failure ever", only_good, last=ALL_DAY, step=THIRDS),
        Case(name, "scrapes and probes that fail", probes, last=20),
        Case(name, "scrapes and probes that fail for long", probes, last=ALL_DAY, step=THIRDS),
        Case("VigilLatencyBurn", "no traffic", _slow("0+0x60", "0+0x60"), last=20),
        Case("VigilLatencyBurn", "no traffic for long", _slow("0+0x60", "0+0x60"), last=ALL_DAY, step=THIRDS),
    ]
