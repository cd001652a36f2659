"""What an alert tells of the releases: which is live, which one a rollback goes back to, and the command for it.

These are annotations, so the notification has them when nobody can reach a dashboard. They are looked up when the
alert is evaluated; where no server of a model is live, what was scraped last in the hour before counts. A live server
that shows no release before means that there is none: after a rollback to the first one, say. There is one command for
each model, whatever its servers say, with a semicolon between two: the line can be pasted.
"""

from collections.abc import Callable

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
LOOKED_S = 5  # from one look into the hour before to the next: shorter than from scrape to scrape
TAG = "{{ $one.Labels.model }}:{{ $one.Labels.version }}"


def releases(alert: str, of_model: bool) -> dict[str, str]:
    """Return the annotations of an alert, as Go templates; of_model: of the model that its label names."""
    command = f"vigil rollback --model {{{{ $one.Labels.model }}}} --why {alert}"
    live, before = (_chosen(metric) if of_model else metric for metric in (LIVE, BEFORE))
    shown = (f"{live} == 1", _last(live))
    known = (f"{before} == 1", f"{_last(before)} unless on (model) {live} == 1")
    return {
        "live": _each(_tags, shown, TAG, UNKNOWN),
        "previous": _each(_tags, known, TAG, NONE),
        "rollback": _each(_models, known, command, NONE, "; "),
    }


def _chosen(metric: str) -> str:
    return metric.replace("}", ",model=%[1]q}") if "}" in metric else metric + "{model=%[1]q}"


def _each(of: Callable[[str], str], found: tuple[str, str], text: str, otherwise: str, between: str = ", ") -> str:
    # `or` asks for the hour before only where nothing is there now: that is the dear question.
    now, lately = (_asked(of(f"({query})")) for query in found)
    order = "version" if of is _tags else "model"
    chosen = f'or ({now}) ({lately}) | sortByLabel "{order}"'
    each = f"{{{{ range $i, $one := {chosen} }}}}{{{{ if $i }}}}{between}{{{{ end }}}}{text}"
    return f"{each}{{{{ else }}}}{otherwise}{{{{ end }}}}"


def _asked(query: str) -> str:
    return f"printf `{query}` $labels.model | query" if "%[1]q" in query else f"query `{query}`"


def _tags(found: str) -> str:
    return f"max by (model, version) {found}"


def _models(found: str) -> str:
    return f"max by (model) {found}"


def _last(metric: str) -> str:
    # What was seen last, of each model: it may have been promoted a moment before its servers went.
    seen = f"max by (model, version) (max_over_time(timestamp({metric} == 1)[1h:{LOOKED_S}s]))"
    return f"{seen} == on (model) group_left () max by (model) ({seen})"
