"""Drift in what single signals do not show: the embedding, whose components are looked at together.

The squared gap between the means of a window and of the reference is Hotelling's T2; as an F, with one degree of
freedom a component and the rest of the reference's rows, it is made a z score by Paulson (1942).
`monitoring.shift.embedding.Embedding.z` computes the same in numpy.
"""

from grafana.profile import Profile, duration
from grafana.statement import Statement, record

RELEASE = "model, version"
LIVE = f'(max by ({RELEASE}) (vigil_model_info{{stage="live"}}) == 1)'
COMPONENT = "model, version, component"
GAP = "model_component:embedding_gap"
EMBEDDING = "embedding"  # the signal that its score goes by
JUDGED = 0.75  # `monitoring.shift.embedding.JUDGED`
ROWS = "model:embedding_reference_rows"


def records(profile: Profile) -> list[Statement]:
    """Return the recording rules, in the order they build on one another."""
    windows = [statement for window, s in profile.drift.items() for statement in _window(window, duration(s))]
    return [*windows, record(ROWS, f"model:reference_rows * {JUDGED}"), *_scores()]


def _window(window: str, length: str) -> list[Statement]:
    rows = f"sum by ({RELEASE}) (increase(vigil_embedding_rows_total[{length}]))"
    return [
        record("model_signal:drift_rows", f"{rows}\nand on ({RELEASE}) {LIVE}", signal=EMBEDDING, window=window),
        record(
            GAP,
            f"sum by ({COMPONENT}) (increase(vigil_embedding_sum_total[{length}]))\n"
            f"/ on ({RELEASE}) group_left () ({rows} > 0)\n"
            f"- on ({COMPONENT}) max by ({COMPONENT}) (vigil_embedding_reference_mean)\n"
            f"and on ({RELEASE}) {LIVE}",
            window=window,
        ),
    ]


def _scores() -> list[Statement]:
    # n, m: rows of the window and of the reference; k: components. T2 = nm/(n+m) sum gap^2 and
    # F = T2 (m-k) / (k (m-1)).
    n, k, left = (f'model_signal:{name}{{signal="{EMBEDDING}"}}' for name in ("drift_rows", "drift_df", "left_rows"))
    squares = f"sum by ({RELEASE}, window) ({GAP} ^ 2)"
    m = f"on ({RELEASE}) group_left () {ROWS}"
    root = f'model_signal:f_root{{signal="{EMBEDDING}"}}'
    both = f"on ({RELEASE}, window)"
    return [
        record("model_signal:drift_df", f"count by ({RELEASE}, window) ({GAP})", signal=EMBEDDING),
        record("model_signal:left_rows", f"-({k}) + {m}", signal=EMBEDDING),
        record("model_signal:drift_chi2", f"({n} / (1 + {n} / {m})) * {both} {squares}", signal=EMBEDDING),
        record(
            "model_signal:drift_psi",
            f"{squares} - {both} ({k} / {n} + {k} / {m})",
            signal=EMBEDDING,
        ),
        record(
            "model_signal:f_root",
            f'(model_signal:drift_chi2{{signal="{EMBEDDING}"}} / {k} * {left}\n'
            f"/ on ({RELEASE}) group_left () ({ROWS} - 1)) ^ (1 / 3)",
            signal=EMBEDDING,
        ),
        record(
            "model_signal:drift_z",
            f"({root} * (1 - 2 / (9 * {left})) - (1 - 2 / (9 * {k})))\n"
            f"/ sqrt(2 / (9 * {k}) + {root} ^ 2 * 2 / (9 * {left}))",
            signal=EMBEDDING,
        ),
    ]
