"""The rollout dashboard: which release is where, versions side by side, what the challenger would do."""

from grafana.boards.board import Board, servers_and_models
from grafana.boards.views import BLUE, BOTH, DRIFT, GREEN, GREY, MODEL, ORANGE, RED, UNJUDGED, WINDOW, View, named
from grafana.fleet_rules import SYNC_S

OF = "{{model}} {{version}}"
RELEASE = "model, version"


def rollout() -> Board:
    """Return the dashboard."""
    rows = {
        "Which release is where?": _places(),
        "Versions side by side": _versions(),
        "Would the challenger do better?": _challenger(),
    }
    return Board("vigil-rollout", "Vigil / Rollout", rows, servers_and_models())


def _places() -> tuple[View, ...]:
    return (*_now(), _synced(), *_over_time())


def _now() -> tuple[View, ...]:
    info = f"vigil_model_info{{{BOTH}}}"
    return (
        View(
            "Releases in the servers",
            "What each server holds: live, previous (a rollback needs no load), challenger; and where it runs.",
            "string",
            ((f"max by ({RELEASE}, stage, provider, instance) ({info})", ""),),
            kind="table",
            width=12,
            none="nothing is loaded",
            links=(DRIFT,),
        ),
        View(
            "As the aliases ask",
            "Servers that serve the version their alias asks for; red where one asks for what none serves.",
            "short",
            (
                (
                    f"count by ({RELEASE}) (vigil_model_target_info{{{BOTH}}} and on (instance, {RELEASE}) "
                    f'vigil_model_info{{stage="live",{BOTH}}}) or 0 * count by ({RELEASE}) '
                    f"(vigil_model_target_info{{{BOTH}}})",
                    OF,
                ),
            ),
            kind="stat",
            width=4,
            steps=((RED, None), (GREEN, 1.0)),
            none="no alias",
        ),
        View(
            "Since the last change",
            "Time since a promotion or rollback; what began then, began with the release.",
            "s",
            ((f"time() - max by (model) (vigil_model_promoted_timestamp_seconds{{{BOTH}}})", "{{model}}"),),
            kind="stat",
            width=4,
            steps=((BLUE, None),),
            none="never promoted",
        ),
    )


def _synced() -> View:
    ages = f"topk(3, time() - max by (instance, model) (vigil_followed_timestamp_seconds{{{BOTH}}}))"
    return View(
        "Since the last sync",
        "Time since the last good look of `vigil models sync` at the shared place, of the three servers where it "
        "is longest ago: what is promoted does not reach them. Half a century: there was none yet.",
        "s",
        ((ages, "{{model}} at {{instance}}"),),
        kind="stat",
        width=4,
        steps=((GREEN, None), (ORANGE, float(SYNC_S))),
        none="no place is followed",
    )


def _over_time() -> tuple[View, ...]:
    return (
        View(
            "Live version",
            "Versions that answer, over time; blue marks are promotions and rollbacks.",
            "none",
            ((f'max by ({RELEASE}) (vigil_model_info{{stage="live",{BOTH}}})', OF),),
            kind="state-timeline",
            width=12,
            words={"1": ("live", GREEN)},
            none="nothing is live",
        ),
        View(
            "Rows by version",
            "Rows answered per second by the version that answered.",
            "short",
            ((f"sum by ({RELEASE}) (rate(vigil_input_rows_total{{{BOTH}}}[{WINDOW}]))", OF),),
            stack=True,
            none="no rows",
        ),
        View(
            "Releases refused",
            "Releases that were refused or failed to load, by reason; what was live keeps serving.",
            "short",
            (
                (
                    f"sum by (model, reason) (increase(vigil_model_load_failures_total{{{BOTH}}}[{WINDOW}]))",
                    "{{model}} {{reason}}",
                ),
            ),
            colours={".*": RED},
            axis_to=1,
            none="none",
        ),
    )


def _versions() -> tuple[View, ...]:
    stage = f'sum by ({RELEASE}, le) (rate(vigil_stage_seconds_bucket{{stage="infer",{BOTH}}}[{WINDOW}]))'
    answers = f"rate(vigil_predictions_total{{{BOTH}}}[{WINDOW}])"
    return (
        View(
            "Inference by version, p95",
            "Seconds that one run of the model takes; a slower release shows here first.",
            "s",
            ((f"histogram_quantile(0.95, {stage})", OF),),
            none="no requests",
        ),
        View(
            "Predicted classes by version",
            "Share of each class among the answers of a version. A regression has none.",
            "percentunit",
            (
                (
                    f"sum by ({RELEASE}, class) ({answers}) / on ({RELEASE}) group_left () "
                    f"(sum by ({RELEASE}) ({answers}) > 0)",
                    OF + " {{class}}",
                ),
            ),
            none="no rows",
        ),
        View(
            "Measured quality by version",
            "Quality on labelled traffic with its 95 % interval; dashed is the floor.",
            "percentunit",
            tuple(
                (f"max by ({RELEASE}, metric) (vigil_quality_{what}{{{MODEL}}})", f"{OF} {{{{metric}}}}{end}")
                for what, end in (("lower", " lower"), ("upper", " upper"), ("value", ""), ("floor", " floor"))
            ),
            width=12,
            colours={".*(lower|upper)": GREY, ".*floor": RED},
            dashed=".*floor",
            none="no labels yet",
            links=(DRIFT,),
        ),
    )


def _challenger() -> tuple[View, ...]:
    return (*_shadow(), *_verdict())


def _of_rows(metric: str) -> str:
    rows = f'sum by ({RELEASE}) (rate(vigil_shadow_rows_total{{outcome="run",{BOTH}}}[{WINDOW}]))'
    return f"sum by ({RELEASE}) (rate({metric}{{{BOTH}}}[{WINDOW}])) / ({rows} > 0)"


def _shadow() -> tuple[View, ...]:
    slow = f"sum by ({RELEASE}, le) (rate(vigil_shadow_row_seconds_bucket{{{BOTH}}}[{WINDOW}]))"
    return (
        View(
            "Rows of the challenger",
            "Rows that the challenger answered in the shadow, dropped for want of time, or failed on.",
            "short",
            ((f"sum by (outcome) (rate(vigil_shadow_rows_total{{{BOTH}}}[{WINDOW}]))", "{{outcome}}"),),
            colours={"failed": RED},
            stack=True,
            none="no challenger",
        ),
        View(
            "Agreement",
            "Share of the rows on which challenger and champion say the same; who is right, labels tell.",
            "percentunit",
            ((_of_rows("vigil_shadow_agreements_total"), OF),),
            highest=1,
            none="no challenger",
        ),
        View(
            "Mean difference",
            "Of the answers of both: total variation distance of probabilities, absolute difference of numbers.",
            "none",
            ((_of_rows("vigil_shadow_difference_total"), OF),),
            none="no challenger",
        ),
        View(
            "Seconds per row of the challenger, p95",
            "In the runs of the challenger, which share the machine with the champion's.",
            "s",
            ((f"histogram_quantile(0.95, {slow})", OF),),
            none="no challenger",
        ),
    )


def _verdict() -> tuple[View, ...]:
    verdict = f"max by ({RELEASE}, verdict) (vigil_challenge_verdict{{{MODEL}}} == 1)"
    return (
        View(
            "Verdict of the labels",
            "Promote, hold or reject; right however often it is asked. `vigil verdict` says the numbers.",
            "string",
            ((named(verdict, "verdict", "no challenger"), "{{verdict}}"),),
            kind="stat",
            steps=((UNJUDGED, None), (BLUE, 1.0)),
            width=8,
            none="no challenger",
        ),
        View(
            "Labelled rows behind the verdict",
            "Rows that both answered and that have a label.",
            "short",
            ((f"max by ({RELEASE}) (vigil_challenge_rows{{{MODEL}}})", OF),),
            width=8,
            none="no challenger",
        ),
        View(
            "Rows of the challenger in the log",
            "Rows per second whose answer of the challenger was recorded: only these can be judged.",
            "short",
            ((f"sum by (model) (rate(vigil_shadow_records_total{{{BOTH}}}[{WINDOW}]))", "{{model}}"),),
            width=8,
            none="no challenger",
        ),
    )
