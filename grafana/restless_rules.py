"""How unlike two short windows of traffic are that follow one another: of independent rows no more than chance.

Rows that come in runs (one shop, one writer, one sensor at a time) make every window unlike the reference. The median
and the ninth decile of z between neighbours say by how much, and raise the limits. A change that comes once is in few
of the comparisons and moves neither. `monitoring.shift.drift.unrest` computes the same in numpy.
"""

from grafana.joint_rules import GAP
from grafana.profile import Profile, duration
from grafana.statement import Statement, record

RELEASE = "model, version"
SIGNAL = "model, version, signal"
BIN = "model, version, signal, bin"
SHORT = '{window="short"}'
ROWS = "model_signal_bin:drift_rows"
REFERENCE = "model_signal_bin:reference_share"
HISTORY_WINDOWS = 168  # short ones, that are looked back over
FEWEST_WINDOWS = 48  # a change is in the comparisons of two: fewer, and it would move the ninth decile
CALM_LEVEL, CALM_SCALE, TAIL = 0.5, 1.25, 1.25  # as in monitoring.shift.drift
NINTH_DECILE = 1.2815515655446004  # of the normal distribution


def records(profile: Profile) -> list[Statement]:
    """Return the recording rules, in the order they build on one another."""
    short = profile.drift.short_s
    enough = FEWEST_WINDOWS * short // profile.drift_evaluation_s
    return [*_z(duration(short)), *_levels(duration(HISTORY_WINDOWS * short), enough)]


def _z(short: str) -> list[Statement]:
    # p, q: shares in the two windows; n, m: their rows. chi-square = nm sum (p-q)^2 / (np + mq).
    both = f"(({ROWS}{SHORT} + {ROWS}{SHORT} offset {short} > 0) and on ({BIN}) {REFERENCE})"
    gap = f"(model_signal_bin:drift_share{SHORT} - model_signal_bin:drift_share{SHORT} offset {short})"
    rows = f"(model_signal:drift_rows{SHORT} * model_signal:drift_rows{SHORT} offset {short})"
    joint = 'model_signal:drift_rows{signal="embedding",window="short"}'
    together = f"({joint} + {joint} offset {short} > 0)"
    squares = f"sum by ({RELEASE}) (({GAP}{SHORT} - {GAP}{SHORT} offset {short}) ^ 2)"
    spread = "(2 / (9 * model_signal:unrest_df))"
    return [
        record("model_signal:unrest_df", f"count by ({SIGNAL}) ({both}) - 1 > 0"),
        record("model_signal:unrest_df", f"count by ({RELEASE}) ({GAP}{SHORT})", signal="embedding"),
        record(
            "model_signal:unrest_chi2",
            f"max by ({SIGNAL}) ({rows}) * sum by ({SIGNAL}) ({gap} ^ 2 / {both})",
        ),
        record(
            "model_signal:unrest_chi2",
            f"max by ({RELEASE}) ({joint} * {joint} offset {short} / {together})\n* {squares}",
            signal="embedding",
        ),
        record(
            "model_signal:unrest_z",
            f"((model_signal:unrest_chi2 / model_signal:unrest_df) ^ (1 / 3) - (1 - {spread}))\n/ sqrt({spread})",
        ),
    ]


def _levels(history: str, enough: int) -> list[Statement]:
    seen = f"model_signal:unrest_z[{history}]"
    level = f"(quantile_over_time(0.5, {seen}) and count_over_time({seen}) >= {enough})"
    scale = f"(quantile_over_time(0.9, {seen}) - {level}) / {NINTH_DECILE}"
    return [
        record("model_signal:unrest_level", f"({level} > {CALM_LEVEL}) or 0 * {level}"),
        record("model_signal:unrest_scale", f"(({scale}) > {CALM_SCALE}) * {TAIL} or 1 + 0 * {level}"),
    ]
