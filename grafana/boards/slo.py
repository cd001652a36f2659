"""The SLO dashboard: what is left of the error budgets, how fast they burn, which route burns them."""

from grafana.boards.board import Board, servers_and_models
from grafana.boards.views import GREEN, ORANGE, RED, SCRAPED, WINDOW, View
from grafana.profile import Profile
from grafana.slo_rules import ASKED, ENOUGH_BAD

JOB = 'job=~"$job"'
ROUTES = f'{SCRAPED},route=~"{ASKED}"'
LEFT = ((RED, None), (ORANGE, 0.0), (GREEN, 0.25))


def slo(profile: Profile) -> Board:
    """Return the dashboard."""
    rows = {
        "What is left of the budgets?": _left(),
        "How fast do they burn?": (*_burns(profile), _enough()),
        "Which requests are bad?": _requests(profile),
    }
    return Board("vigil-slo", "Vigil / SLO", rows, servers_and_models())


def _left() -> tuple[View, ...]:
    query = ((f"job:slo_budget_left:ratio{{{JOB}}}", "{{slo}}"),)
    return (
        View(
            "Budget left",
            "Share of each error budget that is left of the last 30 days; below 0 the objective is missed.",
            "percentunit",
            query,
            kind="bargauge",
            width=8,
            steps=LEFT,
            highest=1,
            none="no traffic",
        ),
        View(
            "Budget left over time",
            "The same over time: a cliff is an incident, a slope is a slow leak.",
            "percentunit",
            query,
            width=16,
            steps=LEFT,
            none="no traffic",
        ),
    )


def _burns(profile: Profile) -> tuple[View, ...]:
    page = min(burn.factor for burn in profile.burns if burn.severity == "critical")
    ticket = min(burn.factor for burn in profile.burns if burn.severity == "warning")
    return tuple(
        _burn(which, what, (ticket, page)) for which, what in (("availability", "Error"), ("latency", "Latency"))
    )


def _burn(which: str, what: str, limits: tuple[float, float]) -> View:
    ticket, page = limits
    errors = f'job:slo_errors:ratio{{slo="{which}",{JOB}}}'
    budget = f'(1 - job:slo_objective:ratio{{slo="{which}"}})'
    return View(
        f"{what} burn by window",
        f"How many times too fast the {which} budget is used up. An alert needs both windows of its tier over the "
        f"tier's factor: from {ticket:g} on a ticket, from {page:g} on a page.",
        "none",
        ((f"{errors} / on () group_left () {budget}", "{{tier}} {{span}}"),),
        width=9,
        steps=((GREEN, None), (ORANGE, ticket), (RED, page)),
        none="no traffic",
    )


def _enough() -> View:
    return View(
        "Bad requests",
        f"Failed or slow requests in the longer window of each tier; fewer than {ENOUGH_BAD} wake nobody.",
        "short",
        ((f"job:slo_errors:count{{{JOB}}}", "{{slo}} {{tier}}"), (f"vector({ENOUGH_BAD})", "fewest")),
        dashed="fewest",
        none="no traffic",
    )


def _requests(profile: Profile) -> tuple[View, ...]:
    bad = f'vigil_requests_total{{{SCRAPED},code=~"[45].."}}'
    bucket = f'vigil_request_seconds_bucket{{{ROUTES},le="{profile.latency_bound_s}"}}'
    every = f"sum by (route) (rate(vigil_request_seconds_count{{{ROUTES}}}[{WINDOW}]))"
    buckets = f"sum by (route, le) (rate(vigil_request_seconds_bucket{{{ROUTES}}}[{WINDOW}]))"
    return (
        View(
            "Errors by route and code",
            "The ten that are most frequent now. 5xx spend the budget; 4xx are the caller's.",
            "reqps",
            ((f"topk(10, sum by (route, code) (rate({bad}[{WINDOW}])))", ""),),
            kind="table",
            width=8,
            none="no errors",
            value="per second",
        ),
        View(
            "Share too slow by route",
            f"Share of the requests that took longer than the objective, {profile.latency_bound_s:g} s.",
            "percentunit",
            ((f"1 - sum by (route) (rate({bucket}[{WINDOW}])) / ({every} > 0)", "{{route}}"),),
            width=8,
            none="no requests",
        ),
        View(
            "p99 by route",
            f"From request to reply; the line is the objective, {profile.latency_bound_s:g} s.",
            "s",
            ((f"histogram_quantile(0.99, {buckets})", "{{route}}"),),
            width=8,
            steps=((GREEN, None), (RED, profile.latency_bound_s)),
            none="no requests",
        ),
    )
