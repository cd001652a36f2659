"""A class that is answered less often than it should be, and which: what is left when one kind of row no longer comes.

A chi-square over all classes spreads its attention over every change there could be; the loss of one class is looked
for alone, by its likelihood ratio. `monitoring.shift.missing.each` computes the same in numpy.
"""

from grafana.statement import Statement, record

RELEASE = "model, version"
BIN = "model, version, signal, bin"
CLASS = 'signal="predicted_class"'
GONE = " missing"
LEAST_LOSS = 0.3  # as in monitoring.shift.missing


def records() -> list[Statement]:
    """Return the recording rules, in the order they build on one another."""
    # p, q: shares in the window, half a row more for continuity, and in the reference; n, m: their rows; C: classes.
    # 2 nm/(n+m) (p ln(p/q) + (1-p) ln((1-p)/(1-q))) - 2 ln C, of the classes that lost much of their share.
    q = f"model_signal_bin:reference_share{{{CLASS}}}"
    some = f"((({q}) > 0) < 1)"
    n = f"model_signal:drift_rows{{{CLASS}}}"
    m = f"on ({RELEASE}) group_left () model:reference_rows"
    now, fallen = f"model_signal_bin:drift_share{{{CLASS}}}", "model_signal_bin:fallen_share"
    each, both = f"on ({BIN}) group_left ()", f"on ({RELEASE}, signal, window) group_left ()"
    distance, score = "model_signal_bin:fallen_distance", "model_signal_bin:missing_z"
    enough = f"on ({RELEASE}) group_left () max by ({RELEASE}) (vigil_drift_min_rows)"
    held = f"max by ({BIN}, class) (vigil_signal_bin_info{{{CLASS}}})"
    return [
        record(fallen, f"({now} <= {each} ({1 - LEAST_LOSS} * {some})) + {both} (0.5 / {n})"),
        record(
            distance,
            f"{fallen} * ln({fallen} / {each} {q})\n+ (1 - {fallen}) * ln((1 - {fallen}) / {each} (1 - {q}))\n"
            f"and ({fallen} < {each} {q})",
        ),
        record(
            score,
            f"sqrt(({distance} * {both} (2 * {n} / (1 + {n} / {m}))\n"
            f"- on ({RELEASE}) group_left () (2 * ln(count by ({RELEASE}) ({q} > 0)))) > 0)",
        ),
        record("model_signal:missing_limit", f"max by ({RELEASE}, window) (vigil_missing_class_z_threshold)"),
        record("model_signal:missing_limit_restless", _restless()),
        record(
            "model_signal:missing_z",
            "label_replace(\n  sum by (model, version, class, window) (\n"
            f"    ({score} > on ({RELEASE}, window) group_left () model_signal:missing_limit_restless)\n"
            f"    * on ({BIN}) group_left (class) {held}\n"
            f"    and on ({RELEASE}, signal, window) ({n} >= {enough})\n  ),\n"
            f'  "signal", "class $1{GONE}", "class", "(.+)"\n)',
        ),
    ]


def _restless() -> str:
    # Rows that come in runs lift this limit as they do that of the predicted class.
    limit, lift = "model_signal:missing_limit", f"on ({RELEASE}) group_left ()"
    scale, level = (f"max by ({RELEASE}) (model_signal:unrest_{name}{{{CLASS}}})" for name in ("scale", "level"))
    return f"({limit} * {lift} {scale} + {lift} {level}) or {limit}"
