"""The rows of the on-call dashboard below the service itself: time, traffic, quality, monitoring."""

from grafana.boards.views import BLUE, BOTH, GREY, MODEL, RED, REPORT, WINDOW, View


def stages() -> tuple[View, ...]:
    """Return the row that says which stage of a request takes the time."""
    stage = f"rate(vigil_stage_seconds_bucket{{{BOTH}}}[{WINDOW}])"
    rows = f"rate(vigil_batch_rows_sum{{{BOTH}}}[{WINDOW}])"
    runs = f"rate(vigil_batch_rows_count{{{BOTH}}}[{WINDOW}])"
    nobody = f'label_replace(0 * sum by (model) (vigil_inflight_rows{{{BOTH}}}), "reason", "none", "", "")'
    return (
        View(
            "Stages, p95",
            "Decode, queue, inference, encode. A long queue beside short inference: too few servers.",
            "s",
            ((f"histogram_quantile(0.95, sum by (stage, le) ({stage}))", "{{stage}}"),),
            none="no requests",
        ),
        View(
            "Rows in flight",
            "Rows accepted and not yet answered; dashed is the limit above which requests are turned away.",
            "short",
            (
                (f"sum by (model) (vigil_inflight_rows{{{BOTH}}})", "{{model}}"),
                (f"sum by (model) (vigil_inflight_rows_limit{{{BOTH}}})", "{{model}} limit"),
            ),
            dashed=".*limit",
            none="no model",
        ),
        View(
            "Turned away",
            "Requests per second that were refused for want of capacity.",
            "reqps",
            ((f"model_reason:rejected:rate{{{MODEL}}} or {nobody}", "{{model}} {{reason}}"),),
            axis_to=1,
            stack=True,
            none="none",
        ),
        View(
            "Rows per run",
            "Mean rows that one run of the model takes; 1 under load means batching does not work.",
            "short",
            ((f"sum by (model) ({rows}) / (sum by (model) ({runs}) > 0)", "{{model}}"),),
            none="no runs",
        ),
    )


def drift() -> tuple[View, ...]:
    """Return the row on the traffic: drift, predicted classes, refused rows."""
    short = f'window="short",{MODEL}'
    parts = "{{model}} {{signal}}"

    # Of the live release, under one name: a new release goes on with the lines of the one before.
    def worst(score: str) -> str:
        return f"topk(10, max by (model, signal) (model_signal:drift_{score}{{{short}}}))"

    def asked(limit: str, chosen: str = MODEL) -> str:
        live = f'on (model, version) vigil_model_info{{stage="live",{MODEL}}}'
        return f"max by (model) (vigil_drift_{limit}{{{chosen}}} and {live})"

    return (
        View(
            "Drift z against its limit",
            "Distance of the ten most unlike signals from the reference, short window; about 0 to 3 when "
            "nothing moved. A ticket needs z and PSI over their limits, and enough rows.",
            "none",
            ((worst("z"), parts), (asked("z_threshold", short), "{{model}} limit")),
            width=8,
            dashed=".*limit",
            none="not judged yet",
            links=(REPORT,),
        ),
        View(
            "PSI against its limit",
            "Size of the shift of the ten most unlike signals, short window; it does not grow with the rows.",
            "none",
            ((worst("psi"), parts), (asked("psi_threshold"), "{{model}} limit")),
            width=8,
            dashed=".*limit",
            none="not judged yet",
            links=(REPORT,),
        ),
        View(
            "Rows judged",
            "Rows in each window; dashed is the fewest that drift is judged on.",
            "short",
            (
                (f"max by (model, window) (model_signal:drift_rows{{{MODEL}}})", "{{model}} {{window}}"),
                (asked("min_rows"), "{{model}} fewest"),
            ),
            width=8,
            dashed=".*fewest",
            none="not judged yet",
        ),
        *_traffic(),
    )


def _traffic() -> tuple[View, ...]:
    answers = f"rate(vigil_predictions_total{{{BOTH}}}[{WINDOW}])"
    return (
        View(
            "Predicted classes",
            "Share of each class among the answers. A regression has none: see its signal `prediction` above.",
            "percentunit",
            (
                (
                    f"sum by (model, class) ({answers}) / on (model) group_left () (sum by (model) ({answers}) > 0)",
                    "{{model}} {{class}}",
                ),
            ),
            width=12,
            stack=True,
            none="no rows",
        ),
        View(
            "Rows refused as invalid",
            "Share of the rows that were refused; 5 % is a ticket, 50 % pages.",
            "percentunit",
            ((f"model:input_invalid:ratio{{{MODEL}}}", "{{model}}"),),
            width=12,
            axis_to=0.05,
            none="no rows",
        ),
    )


def quality() -> tuple[View, ...]:
    """Return the row on measured quality and the labels behind it."""

    def measured(what: str) -> str:
        return f"max by (model, version, metric) (vigil_quality_{what}{{{MODEL}}})"

    of = "{{model}} {{version}} {{metric}}"
    return (
        View(
            "Measured quality and its floor",
            "Quality on labelled traffic with its 95 % interval; dashed is the floor. A page needs the upper "
            "end under the floor.",
            "percentunit",
            (
                (measured("lower"), f"{of} lower"),
                (measured("upper"), f"{of} upper"),
                (measured("value"), of),  # drawn over them
                (measured("floor"), f"{of} floor"),
            ),
            width=12,
            colours={".*(lower|upper)": GREY, ".*floor": RED},
            dashed=".*floor",
            none="no labels yet",
            links=(REPORT,),
        ),
        View(
            "Labelled rows",
            "Rows that quality is measured on; dashed is the fewest it is judged on.",
            "short",
            (
                (measured("rows"), of),
                (f"max by (model) (vigil_quality_min_rows{{{MODEL}}})", "{{model}} fewest"),
            ),
            dashed=".*fewest",
            none="no labels yet",
        ),
        View(
            "Label coverage",
            "Share of the rows in the window that have a label.",
            "percentunit",
            ((f"max by (model, version) (vigil_label_coverage_ratio{{{MODEL}}})", "{{model}} {{version}}"),),
            highest=1,
            none="no labels yet",
        ),
        *_beyond_the_whole(),
    )


def _beyond_the_whole() -> tuple[View, ...]:
    release = "{{model}} {{version}}"
    evidence = f"max by (model, version) (vigil_quality_decline_evidence{{{MODEL}}})"
    return (
        View(
            "Estimated without labels",
            "Accuracy by CBPE and ATC, shown only while nothing speaks against it.",
            "percentunit",
            (
                (
                    f'max by (model, version, method) (vigil_quality_estimate{{bound="value",{MODEL}}})'
                    f" and on (model, version) (vigil_quality_estimate_valid{{{MODEL}}} == 1)",
                    release + " {{method}}",
                ),
            ),
            width=12,
            none="not to be believed",
        ),
        View(
            "Evidence of a decline",
            "Wealth of who bets that quality fell since the release; from the dashed line on that is sure.",
            "short",
            ((evidence, release), ("max(vigil_quality_decline_limit)", "limit")),
            width=12,
            dashed=".*limit",
            none="no labels yet",
        ),
    )


def monitoring() -> tuple[View, ...]:
    """Return the row that says whether to believe the rows above."""
    return (
        View(
            "Age of the last good run",
            "Seconds since the monitor finished a run; above the dashed line, three intervals, it is stale.",
            "s",
            (
                ("instance:monitor_age:seconds", "{{instance}}"),
                ("max(3 * vigil_monitor_interval_seconds)", "limit"),
            ),
            dashed=".*limit",
            none="no monitor",
        ),
        View(
            "Records lost",
            "Share of the answered rows that never reached the prediction log.",
            "percentunit",
            ((f"model:records_lost:ratio{{{MODEL}}}", "{{model}}"),),
            axis_to=0.01,
            none="nothing recorded",
        ),
        View(
            "Age of the newest label",
            "Seconds since the newest label.",
            "s",
            ((f"model:labels_age:seconds{{{MODEL}}}", "{{model}}"),),
            colours={".*": BLUE},
            none="no labels yet",
        ),
        View(
            "Rules and deliveries that failed",
            "Rule evaluations and notifications that failed, per second: above 0 nobody may be told.",
            "short",
            (
                (f"sum(rate(prometheus_rule_evaluation_failures_total[{WINDOW}]))", "rules"),
                (f"sum(rate(alertmanager_notifications_failed_total[{WINDOW}]))", "notifications"),
            ),
            axis_to=1,
            none="not scraped",
        ),
    )
