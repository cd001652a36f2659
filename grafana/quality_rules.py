"""Alerts on what the monitors measure, and on the monitors themselves.

Each replica may have a monitor of its own, which sees the part of the rows that its server answered. So each part is
judged by itself and the verdicts are joined last: an interval of three labels says nothing, and must not outvote the
narrow one of another part.
"""

from grafana.profile import Profile, duration
from grafana.statement import Alert, Statement, record

MEASURED = "model, version, metric"
RELEASE = "model, version"
SLICE = "model, version, slice"
PART = "job, instance"
ENOUGH = f"on ({PART}, model) group_left () vigil_quality_min_rows"
LIVE = '(vigil_model_info{stage="live"} == 1)'


def records(profile: Profile) -> list[Statement]:
    """Return the ages that alerts and panels share."""
    return [
        record(
            "instance:monitor_age:seconds", f"time() - max by ({PART}) (vigil_monitor_last_success_timestamp_seconds)"
        ),
        record("model:labels_age:seconds", "time() - max by (model) (vigil_labels_latest_timestamp_seconds > 0)"),
    ]


def alerts(profile: Profile) -> list[Alert]:
    """Return the alerts, the most urgent first."""
    return [
        _under_floor(profile), _slice_under_floor(profile), _declined(profile), _estimate_under_floor(profile),
        _labels_late(profile), *_monitor(profile), _watchdog(),
    ]  # fmt: skip


def _under_floor(profile: Profile) -> Alert:
    own = f"on ({PART}, {MEASURED})"
    under = f"vigil_quality_upper < {own} vigil_quality_floor\n  and {own} vigil_quality_rows >= {ENOUGH}"
    return Alert(
        name="VigilQualityUnderFloor",
        severity="critical",
        component="quality",
        summary="The measured {{ $labels.metric }} of {{ $labels.model }} is under its floor.",
        description=(
            "Even the upper end of the 95 % interval of the {{ $labels.metric }} of {{ $labels.model }} "
            '{{ $labels.version }}, {{ printf "%.3f" $value }}, is under the floor it was released with: '
            f'{_looked_up("value")}, between {_looked_up("lower")} and {{{{ printf "%.3f" $value }}}}, where '
            f"{_looked_up('floor')} is the floor."
        ),
        expr=f"max by ({MEASURED}) (\n  {under}\n)\nand on ({RELEASE}) {LIVE}",
        for_s=profile.urgent_s,
    )


def _looked_up(what: str) -> str:
    # A number of the monitor whose upper end `$value` is, as a Go template.
    of = "{model=%[1]q,version=%[2]q,metric=%[3]q}"
    asked = f"max(vigil_quality_{what}{of} and on ({PART}) vigil_quality_upper{of} == %[4]v)"
    found = f"printf `{asked}` $labels.model $labels.version $labels.metric $value | query"
    return f'{{{{ range {found} }}}}{{{{ printf "%.3f" .Value }}}}{{{{ else }}}}not known{{{{ end }}}}'


def _slice_under_floor(profile: Profile) -> Alert:
    own = f"on ({PART}, {SLICE})"
    under = f'vigil_quality_slice{{bound="upper"}} < {own} vigil_quality_slice_floor'
    enough = f"and {own} vigil_quality_slice_rows >= {ENOUGH}"
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
        expr=f"max by ({SLICE}) (\n  {under}\n  {enough}\n)\nand on ({RELEASE}) {LIVE}",
        for_s=profile.urgent_s,
    )


def _declined(profile: Profile) -> Alert:
    enough = f"on ({PART}) group_left () vigil_quality_decline_limit"
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
            f"max by ({RELEASE}) (\n  vigil_quality_decline_value\n"
            f"  and on ({PART}, {RELEASE}) vigil_quality_decline_evidence >= {enough}\n)\n"
            f"and on ({RELEASE}) {LIVE}"
        ),
        for_s=profile.urgent_s,
    )


def _estimate_under_floor(profile: Profile) -> Alert:
    # Both ways of estimating must agree, and labels, where there are enough, say more than any estimate.
    own = f"on ({PART}, {RELEASE})"
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
            f"max by ({RELEASE}) (\n"
            f'  max by ({PART}, {RELEASE}) (vigil_quality_estimate{{bound="upper"}})'
            f' < {own} vigil_quality_floor{{metric="accuracy"}}\n'
            f"  and {own} vigil_quality_estimate_valid == 1\n"
            f"  unless {own} vigil_quality_rows >= {ENOUGH}\n)\n"
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
    interval = f"3 * max by ({PART}) (vigil_monitor_interval_seconds)"
    runs = "vigil_monitor_last_success_timestamp_seconds"
    return [
        Alert(
            name="VigilMonitorStale",
            severity="warning",
            component="monitor",
            summary="The monitor stopped finishing its runs.",
            description="The last good run of {{ $labels.instance }} was {{ $value | humanizeDuration }} ago.",
            expr=f"instance:monitor_age:seconds > on ({PART}) {interval}",
            for_s=profile.patient_s,
        ),
        Alert(
            name="VigilMonitorBehind",
            severity="warning",
            component="monitor",
            summary="The monitor does not keep up with the log.",
            description="What {{ $labels.instance }} has not read goes back {{ $value | humanizeDuration }}.",
            expr=f"max by ({PART}) (vigil_monitor_lag_seconds) > on ({PART}) {interval}",
            for_s=profile.patient_s,
        ),
        Alert(
            name="VigilMonitorAbsent",
            severity="warning",
            component="monitor",
            summary="Models are served, but nothing watches their quality.",
            description=(
                "{{ with $labels.instance }}The monitor at {{ . }} is not scraped, others are: of its part{{ else }}"
                "No monitor is scraped:{{ end }} quality and label alerts cannot fire, drift alerts can."
            ),
            # All of them, or one of several. `count` of nothing is nothing: no model served, or no monitor left.
            expr=(
                f"absent(max({runs}))\nand on () count(vigil_model_info)\n"
                f'or max by ({PART}) (up{{job="vigil-monitor"}}) == 0 and on () count({runs})'
            ),
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
