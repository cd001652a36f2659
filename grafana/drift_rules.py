"""Drift, computed by Prometheus from the bin counters of the live release.

Two-sample chi-square of the window against the reference, made a z score by Wilson & Hilferty (1931),
and the population stability index (PSI). `monitoring.shift.reference.z_scores` computes the same z in numpy.
A window of few rows, and traffic whose rows depend on one another, must be over more than the threshold.
Counts add up over replicas; the reference is the same on each, hence `max`.
"""

from grafana import joint_rules, missing_rules, range_rules, restless_rules
from grafana.joint_rules import LIVE, RELEASE
from grafana.profile import Profile, duration
from grafana.statement import Alert, Statement, record

SIGNAL = "model, version, signal"
BIN = "model, version, signal, bin"
SHARE = "model_signal_bin:drift_share"
REFERENCE = "model_signal_bin:reference_share"
SMOOTHING = "1e-4"  # keeps the logarithm finite for a bin that is empty on one side
MIN_ROWS = f"on ({RELEASE}) group_left () max by ({RELEASE}) (vigil_drift_min_rows)"


def records(profile: Profile) -> list[Statement]:
    """Return the recording rules, in the order they build on one another."""
    return [
        *_reference(), *_rows(profile), *_scores(), *joint_rules.records(profile),
        *restless_rules.records(profile), *range_rules.records(), *missing_rules.records(), *_drifted(),
    ]  # fmt: skip


def alerts(profile: Profile) -> list[Alert]:
    """Return the alerts on the traffic of the live release."""
    return [_data_drift(), _collapsed(profile)]


def _reference() -> list[Statement]:
    return [
        record(REFERENCE, f"max by ({BIN}) (vigil_reference_share) and on ({RELEASE}) {LIVE}"),
        record("model:reference_rows", f"max by ({RELEASE}) (vigil_reference_rows) and on ({RELEASE}) {LIVE}"),
        record(
            "model_signal_bin:reference_rows",
            f"{REFERENCE} * on ({RELEASE}) group_left () model:reference_rows",
        ),
    ]


def _rows(profile: Profile) -> list[Statement]:
    windows = [
        record(
            "model_signal_bin:drift_rows",
            f"sum by ({BIN}) (increase(vigil_signal_bin_total[{duration(seconds)}]))\nand on ({RELEASE}) {LIVE}",
            window=window,
        )
        for window, seconds in profile.drift.items()
    ]
    # Bins outside the range of a signal have no share in the reference and are not compared: see range_rules.
    rows = record(
        "model_signal:drift_rows", f"sum by ({SIGNAL}, window) (model_signal_bin:drift_rows and on ({BIN}) {REFERENCE})"
    )
    share = record(
        SHARE,
        f"model_signal_bin:drift_rows / on ({SIGNAL}, window) group_left () (model_signal:drift_rows > 0)",
    )
    return [*windows, rows, share]


def _scores() -> list[Statement]:
    # p, q: shares of a bin in the window and in the reference; o, r: its rows; n, m: their sums.
    # chi-square = nm/(n+m) sum (p-q)^2 / ((o+r)/(n+m)) = nm sum (p-q)^2 / (o+r), over bins with o + r > 0.
    bin_rows = f"(model_signal_bin:drift_rows + on ({BIN}) group_left () model_signal_bin:reference_rows > 0)"
    gap = f"({SHARE} - on ({BIN}) group_left () {REFERENCE})"
    ratio = f"({SHARE} + {SMOOTHING}) / on ({BIN}) group_left () ({REFERENCE} + {SMOOTHING})"
    spread = "(2 / (9 * model_signal:drift_df))"
    return [
        record("model_signal:drift_psi", f"sum by ({SIGNAL}, window) ({gap} * ln({ratio}))"),
        record(
            "model_signal:drift_chi2",
            f"model_signal:drift_rows * on ({RELEASE}) group_left () model:reference_rows\n"
            f"* sum by ({SIGNAL}, window) ({gap} ^ 2 / {bin_rows})",
        ),
        record("model_signal:drift_df", f"count by ({SIGNAL}, window) ({bin_rows}) - 1 > 0"),
        record(
            "model_signal:drift_z",
            # The embedding's chi-square is of the evaluation before, and its z is computed in another way.
            f'((model_signal:drift_chi2{{signal!="embedding"}} / model_signal:drift_df) ^ (1 / 3) - (1 - {spread}))\n'
            f"/ sqrt({spread})",
        ),
    ]


def _drifted() -> list[Statement]:
    # Both keys, and enough rows. Few rows, and rows that depend on one another, raise the limit.
    base = f"max by ({RELEASE}, window) (vigil_drift_z_threshold)"
    slope = f"max by ({SIGNAL}) (vigil_drift_z_slope)"
    limit = "model_signal:drift_limit"
    floor = f"max by ({RELEASE}) (vigil_drift_psi_threshold)"
    lift = f"on ({SIGNAL}) group_left ()"
    return [
        record(
            limit,
            # There is a limit where there is a z to hold to it: not of a window without rows.
            f"{slope} * on ({SIGNAL}) group_right () (1 / model_signal:drift_rows)\n"
            f"+ on ({RELEASE}, window) group_left () {base}\nand model_signal:drift_z",
        ),
        record(
            "model_signal:drift_limit_restless",
            f"({limit} * {lift} model_signal:unrest_scale + {lift} model_signal:unrest_level) or {limit}",
        ),
        record(
            "model_signal:drifted_z",
            "(\n  model_signal:drift_z > model_signal:drift_limit_restless\n"
            f"  and model_signal:drift_psi > on ({RELEASE}) group_left () {floor}\n"
            f"  and model_signal:drift_rows >= {MIN_ROWS}\n)\n"
            f'or label_replace(model_signal:left_z, "signal", "$1{range_rules.OUTSIDE}", "signal", "(.+)")\n'
            f"or sum by ({SIGNAL}, window) (model_signal:missing_z)",
        ),
    ]


def _data_drift() -> Alert:
    top = "topk(3, max by (signal) (model_signal:drifted_z{model=%q,version=%q}))"
    return Alert(
        name="VigilDataDrift",
        severity="warning",
        component="drift",
        summary="The traffic of {{ $labels.model }} no longer looks like its reference.",
        description=(
            "{{ $value }} signals of {{ $labels.model }} {{ $labels.version }} moved, surely and by much:"
            f"{{{{ range query (printf `{top}` $labels.model $labels.version) }}}}"
            ' {{ .Labels.signal }} (z {{ printf "%.1f" .Value }}){{ end }}.'
        ),
        # No `for`: the limits already count every look.
        expr=f"count by ({RELEASE}) (count by ({SIGNAL}) (model_signal:drifted_z))",
    )


def _collapsed(profile: Profile) -> Alert:
    chosen = 'signal="predicted_class"'
    return Alert(
        name="VigilPredictionsCollapsed",
        severity="critical",
        component="drift",
        summary="{{ $labels.model }} gives nearly every row the same class.",
        description=(
            "One class gets {{ $value | humanizePercentage }} of the predictions of {{ $labels.model }} "
            "{{ $labels.version }}; in the reference no class gets more than 80%."
        ),
        expr=(
            f'max by ({RELEASE}) (model_signal_bin:drift_share{{{chosen},window="short"}}) > 0.95\n'
            f"and on ({RELEASE}) max by ({RELEASE}) (model_signal_bin:reference_share{{{chosen}}}) < 0.8\n"
            f'and on ({RELEASE}) model_signal:drift_rows{{{chosen},window="short"}} >= {MIN_ROWS}'
        ),
        for_s=profile.urgent_s,
    )
