"""The lower half of the drift and quality dashboard: labels, estimates, and who reads them."""

from grafana.boards.views import BLUE, GREEN, GREY, MODEL, RED, REPORT, UNJUDGED, View, named

RELEASE = "model, version"
OF = "{{model}} {{version}}"


def labelled() -> tuple[View, ...]:
    """Return what quality was measured on labelled rows, whole and in parts."""
    return (*_quality(), *_parts(), *_labels())


def _bounds(metric: str, by: str, legend: str) -> tuple[tuple[str, str], ...]:
    return tuple(
        (f'max by ({RELEASE}, {by}) ({metric}{{bound="{bound}",{MODEL}}})', f"{OF} {{{{{legend}}}}}{end}")
        for bound, end in (("lower", " lower"), ("upper", " upper"), ("value", ""))
    )


def _quality() -> tuple[View, ...]:
    ends = (("lower", " lower"), ("upper", " upper"), ("value", ""), ("floor", " floor"))
    evidence = f"max by ({RELEASE}) (vigil_quality_decline_evidence{{{MODEL}}})"
    return (
        View(
            "Quality and its floor",
            "Quality on labelled traffic with its 95 % interval. A page needs the upper end under the dashed floor.",
            "percentunit",
            tuple(
                (f"max by ({RELEASE}, metric) (vigil_quality_{what}{{{MODEL}}})", f"{OF} {{{{metric}}}}{end}")
                for what, end in ends
            ),
            width=12,
            colours={".*(lower|upper)": GREY, ".*floor": RED},
            dashed=".*floor",
            none="no labels yet",
            links=(REPORT,),
        ),
        View(
            "Evidence of a decline",
            "Wealth of who bets that quality fell since the release; from the dashed line on that is sure.",
            "short",
            ((evidence, OF), ("max(vigil_quality_decline_limit)", "limit")),
            dashed=".*limit",
            none="no labels yet",
        ),
        View(
            "Quality since the decline began",
            "Quality since the moment from which the evidence is strongest, and the level it must not fall under.",
            "percentunit",
            (
                (f"max by ({RELEASE}) (vigil_quality_decline_value{{{MODEL}}})", OF),
                (f"max by ({RELEASE}) (vigil_quality_decline_level{{{MODEL}}})", f"{OF} level"),
            ),
            dashed=".*level",
            none="no labels yet",
        ),
    )


def _parts() -> tuple[View, ...]:
    upper = f'max by ({RELEASE}, slice) (vigil_quality_slice{{bound="upper",{MODEL}}})'
    floor = f"max by ({RELEASE}, slice) (vigil_quality_slice_floor{{{MODEL}}})"
    return (
        View(
            "Other measures",
            "Precision, recall and what else the task has, each with its 95 % interval.",
            "none",
            _bounds("vigil_quality_measure", "metric", "metric"),
            colours={".*(lower|upper)": GREY},
            none="no labels yet",
        ),
        View(
            "Recall by class",
            "Share of each true class that was found, with its 95 % interval.",
            "percentunit",
            _bounds("vigil_quality_class_recall", "class", "class"),
            colours={".*(lower|upper)": GREY},
            highest=1,
            none="no labels yet",
        ),
        View(
            "Slices: room to their floor",
            "The twenty worst: upper end of the quality of a part of the traffic less its floor; below 0 is a ticket.",
            "percentunit",
            ((f"sort(bottomk(20, {upper} - {floor}))", ""),),
            kind="table",
            width=12,
            steps=((RED, None), (GREEN, 0.0)),
            none="no slices",
            links=(REPORT,),
            value="room",
            cells="room",
        ),
    )


def _labels() -> tuple[View, ...]:
    rows = f"max by ({RELEASE}, metric) (vigil_quality_rows{{{MODEL}}})"
    return (
        View(
            "Labelled rows",
            "Rows that quality is measured on, and the fewest it is judged on.",
            "short",
            ((rows, OF), (f"max by (model) (vigil_quality_min_rows{{{MODEL}}})", "{{model}} fewest")),
            dashed=".*fewest",
            none="no labels yet",
        ),
        View(
            "Label coverage",
            "Share of the rows in the window that have a label.",
            "percentunit",
            ((f"max by ({RELEASE}) (vigil_label_coverage_ratio{{{MODEL}}})", OF),),
            highest=1,
            none="no labels yet",
        ),
        View(
            "Label delay",
            "From answer to label: the median, what 5 % exceed, and the age of the newest label.",
            "s",
            (
                (f"max by (model) (vigil_label_delay_seconds{{{MODEL}}})", "{{model}} median"),
                (f"max by (model) (vigil_label_delay_high_seconds{{{MODEL}}})", "{{model}} 95 %"),
                (f"model:labels_age:seconds{{{MODEL}}}", "{{model}} newest"),
            ),
            none="no labels yet",
        ),
        View(
            "Labels that do not fit",
            "Labels of rows that are not in the log, repeated, corrected, or later than a day.",
            "short",
            (
                ("max(vigil_labels_unknown)", "no such row"),
                ("max(vigil_labels_duplicate)", "repeated"),
                ("max(vigil_labels_conflict)", "corrected"),
                ("max(vigil_labels_overdue)", "over a day late"),
            ),
            none="no labels yet",
        ),
    )


def estimated() -> tuple[View, ...]:
    """Return what can be said before labels come, and whether to believe it."""
    doubts = f"max by ({RELEASE}, reason) (vigil_quality_estimate_doubt{{{MODEL}}} == 1)"
    valid = f"max by ({RELEASE}) (vigil_quality_estimate_valid{{{MODEL}}} == 1)"
    none = f'label_replace({valid}, "reason", "none: believe it", "", "")'
    return (
        View(
            "Estimated accuracy",
            "By CBPE and ATC with its 95 % interval; shown whether or not it is to be believed.",
            "percentunit",
            _bounds("vigil_quality_estimate", "method", "method"),
            colours={".*(lower|upper)": GREY},
            none="no estimate: a regression, or too few rows",
        ),
        View(
            "To be believed?",
            "Reasons not to believe the estimate now; the page of the release says what each means.",
            "string",
            ((named(f"{doubts} or {none}", "reason", "no estimate"), "{{reason}}"),),
            kind="stat",
            steps=((UNJUDGED, None), (BLUE, 1.0)),
            none="no estimate",
        ),
        View(
            "How good it was",
            "Mean distance of valid estimates from what labels said later, over 30 days.",
            "percentunit",
            ((f"max by ({RELEASE}, method) (vigil_quality_estimate_error{{{MODEL}}})", OF + " {{method}}"),),
            none="none was compared yet",
        ),
        View(
            "Classes, estimated",
            "Share of each true class among the rows, estimated from the answers.",
            "percentunit",
            (
                (
                    f'max by ({RELEASE}, class) (vigil_label_share_estimate{{bound="value",{MODEL}}})',
                    OF + " {{class}}",
                ),
            ),
            none="no estimate",
        ),
    )
