"""What an alert tells of the releases: which is live, which one a rollback goes back to, and the command for it.

These are annotations, so the notification has them when nobody can reach a dashboard. They are looked up when the
alert is evaluated; of a server that is gone, what was scraped in the hour before counts.
"""

UNDONE_BY_ROLLBACK = (
    "VigilAbsent", "VigilDataDrift", "VigilErrorBurn", "VigilHostMemoryLow", "VigilInvalidInputs", "VigilLatencyBurn",
    "VigilModelLoadFailing", "VigilNotReady", "VigilPredictionsCollapsed", "VigilQualityDeclined",
    "VigilQualitySliceUnderFloor", "VigilQualityUnderFloor", "VigilQueueWaitHigh", "VigilRejectingRequests",
    "VigilSaturated", "VigilUnknownCategories", "VigilVersionSplit", "VigilWorkersRestarting",
    "VigilWrongVersionServed",
)  # fmt: skip
UNKNOWN, NONE = "not known", "none: no other version was promoted before"
LIVE = 'vigil_model_info{stage="live"}'
BEFORE = "vigil_model_rollback_info"
TAG = "{{ $one.Labels.model }}:{{ $one.Labels.version }}"


def releases(alert: str, of_model: bool) -> dict[str, str]:
    """Return the annotations of an alert, as Go templates; of_model: of the model that its label names."""
    command = f"vigil rollback --model {{{{ $one.Labels.model }}}} --why {alert}"
    return {
        "live": _each(LIVE, of_model, TAG, UNKNOWN),
        "previous": _each(BEFORE, of_model, TAG, NONE),
        "rollback": _each(BEFORE, of_model, command, NONE),
    }


def _each(metric: str, of_model: bool, text: str, otherwise: str) -> str:
    asked = f"query `{_query(metric)}`"
    if of_model:
        chosen = metric.replace("}", ",model=%[1]q}") if "}" in metric else metric + "{model=%[1]q}"
        asked = f"printf `{_query(chosen)}` $labels.model | query"
    each = f'{{{{ range $i, $one := {asked} | sortByLabel "version" }}}}{{{{ if $i }}}}, {{{{ end }}}}{text}'
    return f"{each}{{{{ else }}}}{otherwise}{{{{ end }}}}"


def _query(metric: str) -> str:
    return f"max by (model, version) ({metric} == 1 or on () last_over_time({metric}[1h]) == 1)"
