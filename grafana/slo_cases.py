"""Cases for `slo_rules`: one error ratio per tier, and what must wake nobody."""

from collections.abc import Callable

from grafana import slo
from grafana.cases import MINUTE, Case, Fire, Series, series

ALL_DAY = 200  # samples; the slowest tier waits for three hours
BUDGET = 20  # requests that may fail between two samples
SLOWLY = 5  # minutes between samples of what takes hours
TIERS = (
    ("fast", 15, MINUTE), ("steady", 7, MINUTE), ("slow", 3.5, SLOWLY), ("creeping", 1.5, SLOWLY),
    ("", 0.9, MINUTE), ("", 0.9, SLOWLY),
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
    for tier, factor, step in TIERS:
        bad = round(BUDGET * factor)
        fire = Fire(step, tier=tier, labels={"job": "vigil"}, value=f"{100 * bad / total:.4g}%")
        flow = traffic(f"0+{total - bad}x{ALL_DAY}", f"0+{bad}x{ALL_DAY}")
        fires = (fire,) if tier else ()
        last = 20 if step == MINUTE else ALL_DAY
        found.append(Case(name, f"{factor:g} times too fast", flow, fires, last=last, step=step))
    return found


def _errors(good: str, bad: str, route: str = "/v1/predict") -> Series:
    failed = series("vigil_requests_total", bad, route=route, code="500")
    return failed | series("vigil_requests_total", good, route=route, code="200")


def _slow(quick: str, slow: str) -> Series:
    # A histogram counts up: what is quick is also in the buckets above.
    every = _sum(quick, slow)
    bucket = series("vigil_request_seconds_bucket", quick, route="/v1/predict", le=f"{slo.read().bound_s}")
    return bucket | series("vigil_request_seconds_count", every, route="/v1/predict")


def _sum(a: str, b: str) -> str:
    steps, count = zip(*(text.removeprefix("0+").split("x") for text in (a, b)), strict=True)
    return f"0+{sum(map(int, steps))}x{count[0]}"


def _edges() -> list[Case]:
    name = "VigilErrorBurn"
    only_good = series("vigil_requests_total", "0+60x60", route="/v1/predict", code="200")
    probes = _errors("0+60x60", "0+60x60", route="/metrics")
    return [
        Case(name, "a spike that ended 40 minutes ago", _errors("0+100x100", "0x50 0+50x10 500x40"), last=100),
        Case(name, "two failures of ten requests", _errors("0 1 2 3 4 5 6 7 8 8x100", "0x5 1 2 2x100"), last=20),
        Case(name, "no traffic", _errors("0x60", "0x60"), last=20),
        Case(name, "no traffic for long", _errors("0x60", "0x60"), last=ALL_DAY, step=SLOWLY),
        Case(name, "no failure ever", only_good, last=ALL_DAY, step=SLOWLY),
        Case(name, "scrapes and probes that fail", probes, last=20),
        Case(name, "scrapes and probes that fail for long", probes, last=ALL_DAY, step=SLOWLY),
        Case("VigilLatencyBurn", "no traffic", _slow("0+0x60", "0+0x60"), last=20),
        Case("VigilLatencyBurn", "no traffic for long", _slow("0+0x60", "0+0x60"), last=ALL_DAY, step=SLOWLY),
    ]
