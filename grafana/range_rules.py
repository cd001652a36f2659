"""Rows outside the range of a signal: broken values, other units. More of them than in the reference are a finding.

They have bins of their own without a share in the reference, and are not compared with the rest: a few values of 1e9
hide nothing, and a poisoned reference neither. `monitoring.shift.drift.judge` computes the same in numpy.
"""

from grafana.statement import Statement, record

RELEASE = "model, version"
SIGNAL = "model, version, signal"
OUTSIDE = " outside its range"
POINTS, FEWEST = 0.01, 5  # more of the rows than in the reference, as a share; and so many rows


def records() -> list[Statement]:
    """Return the recording rules, in the order they build on one another."""
    # p, q: shares outside in the window and the reference; n, m: their rows. Of two bins,
    # chi-square = nm/(n+m) (p-q)^2 / (r (1-r)) with r = (np + mq) / (n+m); one degree of freedom.
    every = f"sum by ({SIGNAL}, window) (model_signal_bin:drift_rows)"
    known = f"max by ({SIGNAL}) (vigil_reference_outside_share)"
    n, p = "model_signal:counted_rows", "model_signal:outside_share"
    m, q = f"on ({RELEASE}) group_left () model:reference_rows", f"on ({SIGNAL}) group_left () {known}"
    least = f"on ({RELEASE}) group_left () max by ({RELEASE}) (vigil_drift_min_rows)"
    limit = f"max by ({RELEASE}, window) (vigil_drift_z_threshold)"
    pooled = "model_signal:outside_pooled"
    return [
        record(n, f"({every} and on ({SIGNAL}) {known}) > 0"),
        record(p, f"({n} - model_signal:drift_rows) / {n}"),
        record(pooled, f"({n} * {p} + ({p} * 0 + {q}) * {m}) / ({n} + {m})"),
        record(
            "model_signal:outside_chi2",
            f"(({p} - {q}) ^ 2 / ({pooled} * (1 - {pooled}) > 0)) * {n} / (1 + {n} / {m})",
        ),
        record(
            "model_signal:left_z",
            f"(model_signal:outside_chi2 ^ (1 / 3) - (1 - 2 / 9)) / (2 / 9) ^ 0.5\n"
            f"> on ({RELEASE}, window) group_left () {limit}\n"
            f"and {p} - {q} > {POINTS}\nand {n} * {p} >= {FEWEST}\nand {n} >= {least}",
        ),
    ]
