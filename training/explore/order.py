"""What the place in the file, the id, the time and the group of a row say about its target, the row unseen."""

import numpy as np

from training.explore import leakage
from training.rows import split
from training.rows.data import Table


def scores(table: Table, ids: np.ndarray | None = None) -> dict[str, float]:
    """Return the score of each: balanced accuracy or R2 on rows it was not taken from; see `leakage`.

    "file": the number of the row; "id": `ids`, numbers (n,); "time"; "group": the answer of other rows of
    the same group, over the largest groups. A key is absent where there is no id, no time, no group of two
    rows, or where there are too few rows to say.
    """
    rows = leakage.sample(table, np.arange(len(table.y)))
    half = split.folds(table.key[rows], 2, seed=2)
    asked = {"file": rows.astype(np.float64)}
    if ids is not None:
        asked["id"] = ids[rows]
    if table.time is not None:
        asked["time"] = table.time[rows]
    found = leakage.of_columns(np.column_stack(list(asked.values())), table.y[rows], half, len(table.classes))
    named = dict(zip(asked, found.tolist(), strict=True)) | {"group": _of_group(table, rows, half)}
    return {name: score for name, score in named.items() if not np.isnan(score)}


def _of_group(table: Table, rows: np.ndarray, half: np.ndarray) -> float:
    _, group, size = np.unique(table.unit[rows], return_inverse=True, return_counts=True)
    if np.array_equal(table.unit, table.key) or size.max() < 2:
        return float("nan")
    kept = np.isin(group, np.argsort(-size, kind="stable")[: leakage.STEPS])  # each of them has a step of its own
    column = group[kept, None].astype(np.float64)
    return float(leakage.of_columns(column, table.y[rows][kept], half[kept], len(table.classes))[0])


def told(table: Table, score: float) -> bool:
    """Return whether a score is at least half way from chance to certainty."""
    chance = 1 / len(table.classes) if table.classes else 0.0
    return score >= (1 + chance) / 2
