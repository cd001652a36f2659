"""The on-call dashboard: is it broken, is it us, what changed; `grafana.boards.oncall_model` has the lower half."""

from grafana.boards import oncall_model
from grafana.boards.board import Board, servers_and_models
from grafana.boards.views import (
    BLUE,
    BOTH,
    GREEN,
    JUDGE,
    ORANGE,
    RED,
    ROLLOUT,
    RUNBOOK,
    SCRAPED,
    SLO,
    UNJUDGED,
    WINDOW,
    View,
    named,
    tile,
)
from grafana.profile import Profile


def oncall(profile: Profile) -> Board:
    """Return the dashboard; its query text is the same in every profile, but for the latency objective."""
    rows = {
        "Is it broken?": _tiles(),
        "What users see": _users(profile),
        "What changed": _changes(),
        "Where the time goes": oncall_model.stages(),
        "Does the traffic still look like the reference?": oncall_model.drift(),
        "Are the answers still right?": oncall_model.quality(),
        "Is the monitoring alive?": oncall_model.monitoring(),
    }
    return Board("vigil-oncall", "Vigil / On call", rows, servers_and_models())


def _tiles() -> tuple[View, ...]:
    return (
        *_service_tiles(),
        *_budget_tiles(),
        *_release_tiles(),
        *_firing(),
    )


def _firing() -> tuple[View, ...]:
    alerts = 'ALERTS{alertname=~"Vigil.*",alertstate="firing"}'
    before = f"max by (model, version) (vigil_model_rollback_info{{{BOTH}}} == 1)"
    undo = f'label_replace({before}, "command", "vigil rollback --model $1, to", "model", "(.+)")'
    since = 'time() - ALERTS_FOR_STATE{alertname=~"Vigil.*"}'
    return (
        View(
            "Firing alerts",
            "Every Vigil alert that fires now, and for how long its condition has held; a click on its name opens "
            "the runbook.",
            "s",
            ((f"sort_desc(max by (alertname, severity, model) ({since} and ignoring (alertstate) {alerts}))", ""),),
            kind="table",
            width=14,
            height=5,
            words={"critical": ("page", RED), "warning": ("ticket", ORANGE)},
            none="nothing fires",
            links=(RUNBOOK,),
            value="for",
            cells="severity",
        ),
        View(
            "Undo the last promotion",
            "The command that goes back to the release that was live before; no server has to load anything.",
            "string",
            ((named(undo, "command", "no release was live before"), "{{command}} {{version}}"),),
            kind="stat",
            width=10,
            height=5,
            steps=((UNJUDGED, None), (BLUE, 1.0)),
            none="no release was live before",
            links=(ROLLOUT,),
        ),
    )


def _service_tiles() -> tuple[View, ...]:
    up = f"up{{{SCRAPED}}}"
    return (
        tile(
            View(
                "Alerts",
                "Vigil alerts that fire now.",
                "short",
                (('count(ALERTS{alertname=~"Vigil.*",alertstate="firing"}) or vector(0)', "firing"),),
                steps=JUDGE,
                words={"null": ("Prometheus does not answer", RED)},
                none="Prometheus does not answer",
            ),
            width=2,
        ),
        tile(
            View(
                "Servers ready",
                "Model servers that answer predictions, of those that are known.",
                "percentunit",
                (
                    (
                        f"(sum(vigil_ready{{{SCRAPED}}}) or 0 * count({up})) / count({up})",
                        "ready",
                    ),
                ),
                steps=((RED, None), (ORANGE, 0.5), (GREEN, 1.0)),
                words={"null": ("no server", RED)},
                none="no server",
            )
        ),
    )


def _budget_tiles() -> tuple[View, ...]:
    burn = 'job:slo_errors:ratio{{slo="{slo}",tier="fast",span="long"}} / on () group_left () {budget}'
    budget = '(1 - job:slo_objective:ratio{{slo="{slo}"}})'
    tiles = []
    for slo, what in (("availability", "Error"), ("latency", "Latency")):
        expr = burn.format(slo=slo, budget=budget.format(slo=slo))
        tiles.append(
            tile(
                View(
                    f"{what} burn",
                    "How many times too fast the budget is used up over the fastest tier's longer window. "
                    "1 spends it exactly; 14.4 spends a month's in two days.",
                    "none",
                    ((expr, "times too fast"),),
                    steps=((GREEN, None), (ORANGE, 1.0), (RED, 14.4)),
                    none="no traffic",
                    links=(SLO,),
                )
            )
        )
    left = tile(
        View(
            "Budget left",
            "The smaller of the two error budgets that is left of the last 30 days.",
            "percentunit",
            (("min(job:slo_budget_left:ratio)", "left"),),
            steps=((RED, None), (ORANGE, 0.0), (GREEN, 0.25)),
            none="no traffic",
            links=(SLO,),
        )
    )
    return (*tiles, left)


def _release_tiles() -> tuple[View, ...]:
    interval = "max by (job, instance) (vigil_monitor_interval_seconds)"
    target = f"vigil_model_target_info{{{BOTH}}}"
    live = f'vigil_model_info{{stage="live",{BOTH}}}'
    served = f"max by (model, version, provider) ({live})"
    device = f'label_replace({served}, "device", "$1", "provider", "(.+)ExecutionProvider")'
    return (
        tile(
            View(
                "Live",
                "Model, version and provider that answer now.",
                "string",
                ((named(device, "version", "nothing is live"), "{{version}} {{device}}"),),
                steps=((RED, None), (BLUE, 1.0)),
                none="nothing is live",
                links=(ROLLOUT,),
            ),
            width=4,
        ),
        tile(
            View(
                "As promoted?",
                "Whether every server serves the version that the alias asks for.",
                "none",
                (
                    (
                        f"count({target} unless on (instance, model, version) {live}) or 0 * count({target})",
                        "servers that differ",
                    ),
                ),
                steps=JUDGE,
                words={"0": ("yes", GREEN)},
                none="not known",
            )
        ),
        tile(
            View(
                "Monitor age",
                "Seconds since the monitor last finished a run, in units of its interval; over 3 is stale.",
                "suffix:intervals",
                ((f"max(instance:monitor_age:seconds / on (job, instance) {interval})", "intervals"),),
                steps=((GREEN, None), (ORANGE, 1.5), (RED, 3.0)),
                words={"null": ("no monitor", RED)},
                none="no monitor",
            )
        ),
    )


def _users(profile: Profile) -> tuple[View, ...]:
    buckets = f"rate(vigil_request_seconds_bucket{{{SCRAPED}}}[{WINDOW}])"
    every = 'max by (slo) (job:slo_errors:ratio{tier="fast",span="short"})'
    return (
        View(
            "Requests by code",
            "Requests per second. 5xx is ours, 4xx is the caller's, 429 is load that was turned away.",
            "reqps",
            ((f"sum by (code) (rate(vigil_requests_total{{{SCRAPED}}}[{WINDOW}]))", "{{code}}"),),
            colours={"^5..$": RED, "^4..$": ORANGE, "^2..$": GREEN},
            stack=True,
            none="no requests",
        ),
        View(
            "Bad requests against the objective",
            "Share of requests that failed, and that were too slow; dashed is what the objective allows.",
            "percentunit",
            ((every, "{{slo}}"), ("1 - job:slo_objective:ratio", "{{slo}} allowed")),
            dashed=".*allowed",
            none="no traffic",
        ),
        View(
            "Latency",
            f"From request to reply. The objective is {profile.latency_bound_s:g} s.",
            "s",
            tuple((f"histogram_quantile({q}, sum by (le) ({buckets}))", f"p{q * 100:g}") for q in (0.5, 0.95, 0.99)),
            steps=((GREEN, None), (RED, profile.latency_bound_s)),
            none="no requests",
        ),
        View(
            "Requests by route",
            "Requests per second; unknown paths count as other.",
            "reqps",
            ((f"sum by (route) (rate(vigil_requests_total{{{SCRAPED}}}[{WINDOW}]))", "{{route}}"),),
            stack=True,
            none="no requests",
        ),
    )


def _changes() -> tuple[View, ...]:
    return (
        View(
            "Live version",
            "Versions that answer, over time; blue marks are promotions and rollbacks.",
            "none",
            (
                (
                    f'max by (model, version) (vigil_model_info{{stage="live",{BOTH}}})',
                    "{{model}} {{version}}",
                ),
            ),
            kind="state-timeline",
            width=8,
            words={"1": ("live", GREEN)},
            none="nothing is live",
            links=(ROLLOUT,),
        ),
        View(
            "Rows by version",
            "Rows answered per second by the version that answered.",
            "short",
            (
                (
                    f"sum by (model, version) (rate(vigil_input_rows_total{{{BOTH}}}[{WINDOW}]))",
                    "{{model}} {{version}}",
                ),
            ),
            width=8,
            stack=True,
            none="no rows",
        ),
        *_restarts(),
    )


def _restarts() -> tuple[View, ...]:
    return (
        View(
            "Restarts and failed loads",
            "Starts of a service or of its workers, but for rolls, and releases that were refused or failed to load.",
            "short",
            (
                (
                    f"sum by (instance) (changes(vigil_service_start_timestamp_seconds{{{SCRAPED}}}[{WINDOW}]))",
                    "restart {{instance}}",
                ),
                (
                    f'sum by (instance) (increase(vigil_worker_starts_total{{{SCRAPED},reason="replace"}}[{WINDOW}]))',
                    "worker ended {{instance}}",
                ),
                (
                    f"sum by (model, reason) (increase(vigil_model_load_failures_total{{{BOTH}}}[{WINDOW}]))",
                    "load failed {{model}} {{reason}}",
                ),
            ),
            width=8,
            axis_to=1,
            none="none",
        ),
    )
