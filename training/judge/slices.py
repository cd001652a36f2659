"""Parts of the test rows that are judged apart: who is served worse than the rest, and is that sure?"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from training.judge.intervals import CONFIDENCE, Metric, bootstrap_each, ratio, share, sums

MOST_VALUES = 20  # of a column of text; the rarer ones are judged together
FEWEST_ROWS = 20  # of a slice that may be called the weakest
OTHER = "all others"
_NUMBER = re.compile(r"-?\d+(\.\d+)?(e[-+]?\d+)?")


@dataclass(frozen=True)
class Judged:
    """What is known of each row. right: bool (n,). cost: float64 (n,), lower is better.

    share_name, cost_name: the metrics that the mean of each is called by.
    """

    right: np.ndarray
    cost: np.ndarray
    share_name: str
    cost_name: str


def measure(columns: Mapping[str, np.ndarray], judged: Judged, seed: int = 0) -> dict[str, list[dict[str, Any]]]:
    """Return the metrics of every slice of every column: text (n,) by name, cut as by `groups`.

    p: of Fisher's exact test that the slice is as often right as all other rows, adjusted for the number of slices
    (Holm 1979): with many slices one that looks weak by chance is to be expected. differs: p below 5 %.
    """
    found = {name: _measure(values, judged, seed) for name, values in columns.items()}
    every = [entry for entries in found.values() for entry in entries]
    for entry, p in zip(every, holm([entry["p"] for entry in every]), strict=True):
        entry |= {"p": p, "differs": p < 1 - CONFIDENCE}
    return found


def weakest(found: Mapping[str, Sequence[Mapping[str, Any]]], metric: str) -> tuple[str, Mapping[str, Any]] | None:
    """Return column and entry of the slice of `measure` with the lowest `metric`, among those with enough rows."""
    large = [(name, e) for name, entries in found.items() for e in entries if e["rows"] >= FEWEST_ROWS]
    return min(large, key=lambda one: one[1][metric]["value"], default=None)


def groups(values: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Return the slice of each row, int64 (n,), and the names of the slices, for text (n,).

    The most frequent MOST_VALUES values stay, the others become one slice. Names with numbers stand in the order
    of these, others by their rows.
    """
    kinds, index, counts = np.unique(values.astype(str), return_inverse=True, return_counts=True)
    frequent = np.argsort(-counts, kind="stable")
    kept = sorted(frequent[:MOST_VALUES], key=lambda kind: _place(str(kinds[kind])))
    number = np.full(len(kinds), len(kept))
    number[kept] = np.arange(len(kept))
    rest = [OTHER] if len(kinds) > len(kept) else []
    return number[index].astype(np.int64), [*(str(kinds[kind]) for kind in kept), *rest]


def holm(p: Sequence[float]) -> list[float]:
    """Return the adjusted p-values of Holm 1979, "A simple sequentially rejective multiple test procedure"."""
    order = np.argsort(p, kind="stable")
    scaled = np.asarray(p, dtype=np.float64)[order] * np.arange(len(order), 0, -1)
    adjusted = np.empty(len(order))
    adjusted[order] = np.maximum.accumulate(scaled).clip(max=1.0)
    return [float(value) for value in adjusted]


def _measure(values: np.ndarray, judged: Judged, seed: int) -> list[dict[str, Any]]:
    from scipy.stats import fisher_exact

    index, names = groups(values)
    of_slice = sums(index, len(names))
    mean: Metric = lambda w: ratio(of_slice(w * judged.cost), of_slice(w), np.nan)  # noqa: E731
    costs = bootstrap_each({"cost": mean}, len(index), seed)["cost"]
    rows = np.bincount(index, minlength=len(names))
    hits = np.bincount(index, weights=judged.right, minlength=len(names)).astype(np.int64)
    entries = []
    for i, name in enumerate(names):
        here, rest = (int(hits[i]), int(rows[i])), (int(hits.sum() - hits[i]), int(rows.sum() - rows[i]))
        p = fisher_exact([[hit, of - hit] for hit, of in (here, rest)]).pvalue if rest[1] else 1.0
        entries.append({
            "value": name, "rows": here[1], judged.share_name: share(*here), judged.cost_name: costs[i], "p": float(p),
        })  # fmt: skip
    return entries


def _place(name: str) -> tuple[float, float]:
    # "below 36", "36 to 54", "54 and more" and whatever has no number after them.
    found = _NUMBER.search(name)
    return (not name.startswith("below "), float(found.group())) if found else (2, 0)
