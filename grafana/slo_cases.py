"""Cases for `slo_rules`: one error ratio per tier, and what must wake nobody."""

from collections.abc import Callable

from grafana.cases import Case, Fire, Series, series

ALL_DAY = 200  # minutes; the slowest tier waits for three hours


def cases() -> list[Case]:
    """Return every case of the two objectives."""
    return [
        *_tiers("VigilErrorBurn", _errors, total=20_000, objective=0.001),
        *_tiers("VigilLatencyBurn", _slow, total=2_000, objective=0.01),
        *_edges(),
    ]


def _tiers(name: str, traffic: Callable[[str, str], Series], total: int, objective: float) -> list[Case]:
    # Just over the factor of a tier it fires first; the case ends there, before the slower ones are due.
    found = []
    for tier, factor in (("fast", 15), ("steady", 7), ("slow", 3.5), ("creeping", 1.5), ("", 0.9)):
        bad = round(total * objective * factor)
        fire = Fire(1, tier=tier, labels={"job": "vigil"}, value=f"{100 * objective * factor:.4g}%")
        flow = traffic(f"0+{total - bad}x{ALL_DAY}", f"0+{bad}x{ALL_DAY}")
        fires = (fire,) if tier else ()
        found.append(Case(name, f"{factor:g} times too fast", flow, fires, last=70))
    return found


def _errors(good: str, bad: str, route: str = "/v1/predict") -> Series:
    failed = series("vigil_requests_total", bad, route=route, code="500")
    return failed | series("vigil_requests_total", good, route=route, code="200")


def _slow(quick: str, slow: str) -> Series:
    # A histogram counts up: what is quick is also in the buckets above.
    every = _sum(quick, slow)
    bucket = series("vigil_request_seconds_bucket", quick, route="/v1/predict", le="0.25")
    return bucket | series("vigil_request_seconds_count", every, route="/v1/predict")


def _sum(a: str, b: str) -> str:
    steps, count = zip(*(text.removeprefix("0+").split("x") for text in (a, b)), strict=True)
    return f"0+{sum(map(int, steps))}x{count[0]}"


def _edges() -> list[Case]:
    name = "VigilErrorBurn"
    only_good = series("vigil_requests_total", "0+60x60", route="/v1/predict", code="200")
    return [
        Case(name, "a spike that ended 40 minutes ago", _errors("0+100x100", "0x50 0+50x10 500x40"), last=100),
        Case(name, "two failures of ten requests", _errors("0 1 2 3 4 5 6 7 8 8x100", "0x5 1 2 2x100"), last=40),
        Case(name, "no traffic", _errors("0x180", "0x180"), last=70),
        Case(name, "no failure ever", only_good),
        Case(name, "scrapes and probes that fail", _errors("0+60x60", "0+60x60", route="/metrics")),
        Case("VigilLatencyBurn", "no traffic", _slow("0+0x180", "0+0x180"), last=70),
    ]
