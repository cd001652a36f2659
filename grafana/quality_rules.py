"""Alerts on what the monitor measures, and on the monitor itself."""

from grafana.profile import Profile, duration
from grafana.statement import Alert, Statement, record

MEASURED = "model, version, metric"
RELEASE = "model, version"
SLICE = "model, version, slice"
ENOUGH = "on (model) group_left () max by (model) (vigil_quality_min_rows)"
LIVE = '(vigil_model_info{stage="live"} == 1)'


def records(profile: Profile) -> list[Statement]:
    """Return the ages that alerts and panels share."""
    return [
        record("job:monitor_age:seconds", "time() - max by (job) (vigil_monitor_last_success_timestamp_seconds)"),
        record("model:labels_age:seconds", "time() - max by (model) (vigil_labels_latest_timestamp_seconds > 0)"),
    ]


def alerts(profile: Profile) -> list[Alert]:
    """Return the alerts, the most urgent first."""
    return [
        _under_floor(profile), _slice_under_floor(profile), _declined(profile), _estimate_under_floor(profile),
        _labels_late(profile), *_monitor(profile), _watchdog(),
    ]  # fmt: skip


def _under_floor(profile: Profile) -> Alert:
    upper, floor, rows = (f"max by ({MEASURED}) (vigil_quality_{what})" for what in ("upper", "floor", "rows"))
    return Alert(
        name="VigilQualityUnderFloor",
        severity="critical",
        component="quality",
        summary="The measured {{ $labels.metric }} of {{ $labels.model }} is under its floor.",
        description=(
            "Even the upper end of the 95 % interval of the {{ $labels.metric }} of {{ $labels.model }} "
            '{{ $labels.version }}, {{ printf "%.3f" $value }}, is under the floor it was released with.'
        ),
        expr=(f"{upper} < {floor}\nand on ({MEASURED}) {rows} >= {ENOUGH}\nand on (model, version) {LIVE}"),
        for_s=profile.urgent_s,
    )


def _slice_under_floor(profile: Profile) -> Alert:
    upper = f'max by ({SLICE}) (vigil_quality_slice{{bound="upper"}})'
    floor, rows = (f"max by ({SLICE}) (vigil_quality_slice_{what})" for what in ("floor", "rows"))
    return Alert(
        name="VigilQualitySliceUnderFloor",
        severity="warning",
        component="quality",
        summary="{{ $labels.model }} is under its floor where {{ $labels.slice }}.",
        description=(
            "Even the upper end of the interval of the quality of {{ $labels.model }} {{ $labels.version }} where "
            '{{ $labels.slice }}, {{ printf "%.3f" $value }}, is under the floor of that slice. '
            "The intervals of all slices hold together with 95 %."
        ),
        expr=f"{upper} < {floor}\nand on ({SLICE}) {rows} >= {ENOUGH}\nand on ({RELEASE}) {LIVE}",
        for_s=profile.urgent_s,
    )


def _declined(profile: Profile) -> Alert:
    evidence = f"max by ({RELEASE}) (vigil_quality_decline_evidence)"
    return Alert(
        name="VigilQualityDeclined",
        severity="warning",
        component="quality",
        summary="{{ $labels.model }} is less often right than when it was released.",
        description=(
            'Since its quality fell, {{ printf "%.3f" $value }} of the labelled answers of {{ $labels.model }} '
            "{{ $labels.version }} were right; at its release it was better by more than the tolerance."
        ),
        expr=(
            f"max by ({RELEASE}) (vigil_quality_decline_value)\n"
            f"and on ({RELEASE}) {evidence} >= on () group_left () max(vigil_quality_decline_limit)\n"
            f"and on ({RELEASE}) {LIVE}"
        ),
        for_s=profile.urgent_s,
    )


def _estimate_under_floor(profile: Profile) -> Alert:
    # Both ways of estimating must agree, and labels, where there are enough, say more than any estimate.
    return Alert(
        name="VigilQualityEstimateUnderFloor",
        severity="warning",
        component="quality",
        summary="Without labels, the accuracy of {{ $labels.model }} is estimated to be under its floor.",
        description=(
            "Even the upper ends of both estimates of the accuracy of {{ $labels.model }} {{ $labels.version }}, up to "
            '{{ printf "%.3f" $value }}, are under the floor, and nothing speaks against the estimates.'
        ),
        expr=(
            f'max by ({RELEASE}) (vigil_quality_estimate{{bound="upper"}})'
            f' < max by ({RELEASE}) (vigil_quality_floor{{metric="accuracy"}})\n'
            f"and on ({RELEASE}) max by ({RELEASE}) (vigil_quality_estimate_valid) == 1\n"
            f"unless on ({RELEASE}) max by ({RELEASE}) (vigil_quality_rows) >= {ENOUGH}\n"
            f"and on ({RELEASE}) {LIVE}"
        ),
        for_s=profile.patient_s,
    )


def _labels_late(profile: Profile) -> Alert:
    # No label is late while nothing is asked.
    delay = "(max by (model) (vigil_label_delay_seconds) or 0 * model:labels_age:seconds)"
    asked = f"sum by (model) (increase(vigil_input_rows_total[{duration(profile.labels_late_s)}]))"
    return Alert(
        name="VigilLabelsLate",
        severity="warning",
        component="quality",
        summary="Labels of {{ $labels.model }} stopped arriving.",
        description="The newest label of {{ $labels.model }} is {{ $value | humanizeDuration }} old.",
        expr=f"model:labels_age:seconds > {profile.labels_late_s} + 3 * {delay}\nand on (model) {asked} > 0",
        for_s=profile.patient_s,
    )


def _monitor(profile: Profile) -> list[Alert]:
    return [
        Alert(
            name="VigilMonitorStale",
            severity="warning",
            component="monitor",
            summary="The monitor stopped finishing its runs.",
            description="The last good run of {{ $labels.job }} was {{ $value | humanizeDuration }} ago.",
            expr="job:monitor_age:seconds > on (job) 3 * max by (job) (vigil_monitor_interval_seconds)",
            for_s=profile.patient_s,
        ),
        Alert(
            name="VigilMonitorBehind",
            severity="warning",
            component="monitor",
            summary="The monitor does not keep up with the log.",
            description="What {{ $labels.job }} has not read goes back {{ $value | humanizeDuration }}.",
            expr=(
                "max by (job) (vigil_monitor_lag_seconds) > on (job) 3 * max by (job) (vigil_monitor_interval_seconds)"
            ),
            for_s=profile.patient_s,
        ),
        Alert(
            name="VigilMonitorAbsent",
            severity="warning",
            component="monitor",
            summary="Models are served, but nothing watches their quality.",
            description="No monitor is scraped: quality and label alerts cannot fire, drift alerts can.",
            expr=("absent(max(vigil_monitor_last_success_timestamp_seconds))\nand on () count(vigil_model_info) > 0"),
            for_s=profile.patient_s,
        ),
    ]


def _watchdog() -> Alert:
    return Alert(
        name="Watchdog",
        severity="none",
        component="monitor",
        summary="This alert always fires.",
        description="It proves that alerts are delivered: page when it stops arriving.",
        expr="vector(1)",
    )
