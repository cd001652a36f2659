"""Two objectives, availability and latency, and alerts on their error budgets burning too fast."""

from grafana.profile import Burn, Profile, duration
from grafana.statement import Alert, Statement, record

ASKED = "/v1/.*|/v2/models/.*/infer|/predict"  # what callers ask, by any of the three protocols; probes are not
ROUTES = f'job="vigil",route=~"{ASKED}"'
ENOUGH_BAD = 10  # fewer failures than this in the long window wake nobody, however few requests there were
REQUESTS, BAD = "job:slo_requests:rate", "job:slo_bad:rate"
MEANING = {
    "availability": "failed with a 5xx code",
    "latency": "took longer than the latency objective allows",
}


def records(profile: Profile) -> list[Statement]:
    """Return the objectives, and per burn tier and span requests, bad ones and their ratio."""
    rules: list[Statement] = []
    for slo, objective in _objectives(profile).items():
        rules.append(record("job:slo_objective:ratio", f"vector({objective})", slo=slo))
        for burn in profile.burns:
            for span, seconds in (("short", burn.short_s), ("long", burn.long_s)):
                window, labels = duration(seconds), {"slo": slo, "tier": burn.tier, "span": span}
                rules.append(record(REQUESTS, _all(slo, window), **labels))
                rules.append(record(BAD, _bad(profile, slo, window, _chosen(REQUESTS, labels)), **labels))
            bad = _chosen(BAD, {"slo": slo, "tier": burn.tier, "span": "long"})
            rules.append(record("job:slo_errors:count", f"{bad} * {burn.long_s}", slo=slo, tier=burn.tier))
    return [*rules, record("job:slo_errors:ratio", f"{BAD} / ({REQUESTS} > 0)")]


def budget_records(profile: Profile) -> list[Statement]:
    """Return the share of each error budget that is left; the window is long, so evaluate it slowly."""
    window, found = duration(profile.budget_s), []
    for slo, objective in _objectives(profile).items():
        every = _all(slo, window)
        left = f"1 - (({_bad(profile, slo, window, every)})\n/ ({every} > 0)) / (1 - {objective})"
        found.append(record("job:slo_budget_left:ratio", left, slo=slo))
    return found


def alerts(profile: Profile) -> list[Alert]:
    """Return one alert per objective and burn tier."""
    return [_burn(profile, slo, burn) for slo in MEANING for burn in profile.burns]


def _objectives(profile: Profile) -> dict[str, float]:
    return {"availability": profile.availability, "latency": profile.latency}


def _all(slo: str, window: str) -> str:
    metric = "vigil_requests_total" if slo == "availability" else "vigil_request_seconds_count"
    return f"sum by (job) (rate({metric}{{{ROUTES}}}[{window}]))"


def _bad(profile: Profile, slo: str, window: str, every: str) -> str:
    # A service without a single failure has no 5xx series: that is a rate of 0, not of nothing.
    if slo == "availability":
        return f'sum by (job) (rate(vigil_requests_total{{{ROUTES},code=~"5.."}}[{window}]))\nor on (job) 0 * {every}'
    quick = f'vigil_request_seconds_bucket{{{ROUTES},le="{profile.latency_bound_s}"}}'
    return f"{every} - on (job) sum by (job) (rate({quick}[{window}]))"


def _chosen(metric: str, labels: dict[str, str]) -> str:
    return metric + "{" + ",".join(f'{name}="{value}"' for name, value in labels.items()) + "}"


def _burn(profile: Profile, slo: str, burn: Burn) -> Alert:
    limit = f"{burn.factor:g} * (1 - {_objectives(profile)[slo]})"
    chosen = f'slo="{slo}",tier="{burn.tier}"'
    over = [f'max by (job) (job:slo_errors:ratio{{{chosen},span="{span}"}}) > {limit}' for span in ("long", "short")]
    enough = f"max by (job) (job:slo_errors:count{{{chosen}}}) >= {ENOUGH_BAD}"
    return Alert(
        name="VigilErrorBurn" if slo == "availability" else "VigilLatencyBurn",
        severity=burn.severity,
        component="slo",
        summary=f"The {slo} budget burns more than {burn.factor:g} times too fast.",
        description=(
            f"{{{{ $value | humanizePercentage }}}} of the requests {MEANING[slo]} "
            f"over the last {duration(burn.long_s)}."
        ),
        expr="\nand on (job) ".join([*over, enough]),
        for_s=burn.for_s,
        keep_s=profile.rate_s,
        labels={"tier": burn.tier},
    )
