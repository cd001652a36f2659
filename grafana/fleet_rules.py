"""Alerts on the servers as a fleet: which are gone, whether they agree, how they share the work, what they export."""

from grafana.config import SAMPLE_LIMIT
from grafana.profile import Profile, duration
from grafana.slo_rules import ROUTES
from grafana.statement import Alert, Statement, record

USUAL_RATE = 0.05  # requests/s from which a service has traffic that can stop
QUEUE_S = 0.1  # a bucket of vigil_stage_seconds
LONELY_ROWS, HASTE_S, RUNS = 1.5, 0.02, 5  # rows a run, seconds in the queue, runs a second
FAILED_SHARE = 0.01  # of the rows that the challenger was given
RESTARTS = 3
SYNC_S = 60  # without a good look of `vigil models sync`, which looks every few seconds
NEARLY = 0.8  # of the samples that a scrape may have


def records(profile: Profile) -> list[Statement]:
    """Return the measures that alerts and panels share."""
    window = duration(profile.rate_s)
    rows, runs = (f"sum by (model) (rate(vigil_batch_rows_{what}[{window}]))" for what in ("sum", "count"))
    failed, given = (
        f"sum by (model, version) (rate(vigil_shadow_rows_total{chosen}[{window}]))"
        for chosen in ('{outcome="failed"}', '{outcome=~"run|failed"}')
    )
    queued = f'sum by (model, le) (rate(vigil_stage_seconds_bucket{{stage="queue"}}[{window}]))'
    return [
        record("model:queue_wait_p95:seconds", f"histogram_quantile(0.95, {queued})"),
        record("model:batch_rows:mean", f"{rows} / ({runs} > 0)"),
        record("model:challenger_failed:ratio", f"{failed} / ({given} > 0)"),
    ]


def alerts(profile: Profile) -> list[Alert]:
    """Return the alerts, the most urgent first."""
    return [
        _instance_down(profile), _restarting(profile), _no_traffic(profile),
        _sync_stale(profile), _challenger_failing(profile), _waiting(profile), _lonely(profile),
        _too_many_series(profile),
    ]  # fmt: skip


def _instance_down(profile: Profile) -> Alert:
    return Alert(
        name="VigilInstanceDown",
        severity="warning",
        component="serving",
        summary="A model server cannot be scraped.",
        description=f"{{{{ $labels.instance }}}} has answered no scrape for {duration(profile.patient_s)}.",
        expr='up{job="vigil"} == 0',
        for_s=profile.patient_s,
    )


def _restarting(profile: Profile) -> Alert:
    window = duration(2 * profile.patient_s)
    return Alert(
        name="VigilWorkersRestarting",
        severity="warning",
        component="serving",
        summary="The workers of a model server start again and again.",
        description=(
            f'{{{{ $labels.instance }}}} or workers of it had to be started again {{{{ printf "%.0f" $value }}}} times '
            f"in {window}."
        ),
        expr=(
            f'sum by (job, instance) (increase(vigil_worker_starts_total{{job="vigil",reason="replace"}}[{window}])) '
            f">= {RESTARTS}\nor max by (job, instance) "
            f'(changes(vigil_service_start_timestamp_seconds{{job="vigil"}}[{window}])) >= {RESTARTS}'
        ),
    )


def _no_traffic(profile: Profile) -> Alert:
    short, season = duration(profile.drift.short_s), duration(profile.season_s)
    now = f"sum by (job) (rate(vigil_requests_total{{{ROUTES}}}[{duration(profile.rate_s)}]))"
    then = f"sum by (job) (rate(vigil_requests_total{{{ROUTES}}}[{short}] offset {season}))"
    return Alert(
        name="VigilNoTraffic",
        severity="warning",
        component="serving",
        summary="Requests stopped arriving.",
        description=(
            f"{{{{ $labels.job }}}} gets no request; {season} ago it did. The fault may lie before the servers."
        ),
        expr=f"{now} == 0\nand on (job) {then} > {USUAL_RATE}",
        for_s=profile.patient_s,
    )


def _sync_stale(profile: Profile) -> Alert:
    return Alert(
        name="VigilSyncStale",
        severity="warning",
        component="model",
        summary="A server of {{ $labels.model }} no longer learns what is promoted.",
        description=(
            "The last good look of `vigil models sync` beside {{ $labels.instance }} at what {{ $labels.model }} "
            "follows was {{ $value | humanizeDuration }} ago: a promotion or rollback does not reach it."
        ),
        expr=f"time() - max by (instance, model) (vigil_followed_timestamp_seconds) > {SYNC_S}",
        for_s=profile.rate_s,
    )


def _challenger_failing(profile: Profile) -> Alert:
    return Alert(
        name="VigilChallengerFailing",
        severity="warning",
        component="model",
        summary="The challenger of {{ $labels.model }} fails on rows that the live release answers.",
        description=(
            "{{ $value | humanizePercentage }} of the rows fail in the challenger {{ $labels.model }} "
            "{{ $labels.version }}; callers do not see it."
        ),
        expr=f"model:challenger_failed:ratio > {FAILED_SHARE}",
        for_s=profile.urgent_s,
    )


def _waiting(profile: Profile) -> Alert:
    return Alert(
        name="VigilQueueWaitHigh",
        severity="warning",
        component="serving",
        summary="Requests for {{ $labels.model }} wait long before they are run.",
        description='One in twenty requests for {{ $labels.model }} waits {{ printf "%.2f" $value }} s or longer.',
        expr=f"model:queue_wait_p95:seconds > {QUEUE_S}",
        for_s=profile.patient_s,
    )


def _lonely(profile: Profile) -> Alert:
    runs = f"sum by (model) (rate(vigil_batch_rows_count[{duration(profile.rate_s)}]))"
    return Alert(
        name="VigilBatchingIneffective",
        severity="info",
        component="serving",
        summary="Requests for {{ $labels.model }} queue, but run nearly one by one.",
        description='A run of {{ $labels.model }} has {{ printf "%.1f" $value }} rows although requests wait.',
        expr=(
            f"model:batch_rows:mean < {LONELY_ROWS}\n"
            f"and on (model) model:queue_wait_p95:seconds > {HASTE_S}\nand on (model) {runs} > {RUNS}"
        ),
        for_s=2 * profile.patient_s,
    )


def _too_many_series(profile: Profile) -> Alert:
    return Alert(
        name="VigilTooManySeries",
        severity="warning",
        component="monitor",
        summary="A model server exports nearly more series than a scrape may have.",
        description=(
            f"{{{{ $labels.instance }}}} exports {{{{ $value }}}} samples; over {SAMPLE_LIMIT} its scrapes are "
            "refused, and all its alerts are blind."
        ),
        expr=f'scrape_samples_post_metric_relabeling{{job="vigil"}} > {NEARLY * SAMPLE_LIMIT:.0f}',
        for_s=profile.patient_s,
    )
