"""The last rows of the drift and quality dashboard: what the monitor reads, and the log it reads."""

from grafana.boards.views import BLUE, BOTH, MODEL, RED, REPORT, WINDOW, View


def watching() -> tuple[View, ...]:
    """Return what the monitor and the prediction log do."""
    return (*_monitor(), *_log(), *_kept())


def _monitor() -> tuple[View, ...]:
    return (
        View(
            "Behind the log by",
            "Age of the oldest row or label that the monitor has not read, and the interval of its runs.",
            "s",
            (
                ("max by (job, instance) (vigil_monitor_lag_seconds)", "{{instance}}"),
                ("max(vigil_monitor_interval_seconds)", "interval"),
            ),
            dashed=".*interval",
            none="no monitor",
        ),
        View(
            "Age of each part",
            "Seconds since each part of the monitor last ended well; one that grows is failing.",
            "s",
            (("time() - max by (part) (vigil_monitor_part_last_success_timestamp_seconds)", "{{part}}"),),
            none="no monitor",
        ),
        View(
            "Failures and new starts",
            "Runs or parts that failed, and states that were made anew from the log.",
            "short",
            (
                (f"sum by (reason) (increase(vigil_monitor_failures_total[{WINDOW}]))", "failed {{reason}}"),
                (f"sum by (reason) (increase(vigil_monitor_rebuilds_total[{WINDOW}]))", "anew {{reason}}"),
            ),
            none="none",
        ),
        View(
            "Reports",
            "Reports written or refused, by what asked for them.",
            "short",
            (
                (
                    f"sum by (model, kind, outcome) (increase(vigil_reports_total{{{MODEL}}}[{WINDOW}]))",
                    "{{model}} {{kind}} {{outcome}}",
                ),
            ),
            none="none was due",
            links=(REPORT,),
        ),
    )


def _log() -> tuple[View, ...]:
    def of(metric: str) -> str:
        return f"sum by (model) (rate({metric}{{{BOTH}}}[{WINDOW}]))"

    dropped = f"sum by (model, reason) (rate(vigil_records_dropped_total{{{BOTH}}}[{WINDOW}]))"
    return (
        View(
            "Rows recorded",
            "Rows per second that were written to the log, left out by sampling, or dropped.",
            "short",
            (
                (of("vigil_records_total"), "{{model}} written"),
                (of("vigil_records_sampled_out_total"), "{{model}} sampled out"),
                (dropped, "{{model}} dropped {{reason}}"),
            ),
            colours={".*dropped.*": RED},
            none="nothing recorded",
        ),
        View(
            "Labels accepted",
            "Labels per second that the service wrote to the log.",
            "short",
            ((of("vigil_labels_accepted_total"), "{{model}}"),),
            none="no labels yet",
        ),
    )


def _kept() -> tuple[View, ...]:
    return (
        View(
            "Size of the log",
            "On disk, and of that what rows and labels take.",
            "bytes",
            (("max(vigil_log_size_bytes)", "on disk"), ("max(vigil_log_used_bytes)", "rows and labels")),
            none="not known yet",
        ),
        View(
            "Oldest row",
            "Age of the oldest row in the log: how far back a report can look.",
            "s",
            (("time() - max(vigil_log_oldest_timestamp_seconds)", "oldest"),),
            kind="stat",
            steps=((BLUE, None),),
            none="the log is empty",
        ),
        View(
            "Deleted by the limits of the log",
            "Rows and labels deleted per second, and rows that went before the monitor read them.",
            "short",
            (
                (f"sum by (what, reason) (rate(vigil_log_deleted_total[{WINDOW}]))", "{{what}} {{reason}}"),
                ("max(vigil_monitor_missed_rows)", "missed by the monitor"),
            ),
            width=12,
            none="none",
        ),
        View(
            "Read by the monitor",
            "Rows and labels of the log that the monitor holds in its state.",
            "short",
            (
                ("max(vigil_monitor_log_rows)", "rows"),
                ("max(vigil_monitor_labels_read)", "labels"),
            ),
            width=12,
            none="no monitor",
        ),
    )
