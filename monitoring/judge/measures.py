"""Quality in several numbers, each with a 95 % interval, from counts that add up."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from monitoring.judge import intervals
from monitoring.judge.intervals import CONFIDENCE, Interval
from monitoring.monitor.state import Aggregate

MOST_CLASSES = 50  # with a recall of their own
FEWEST_NUMBERS = 5  # labelled rows of a regression, for an interval of the mean error
REST = "other"

Confusion = Mapping[tuple[str, str], int]  # rows by (label, predicted)


@dataclass(frozen=True)
class Recall:
    """Of the rows of one class, the share that was answered so."""

    rows: int
    share: Interval


def headline(one: Aggregate, confidence: float = CONFIDENCE) -> Interval | None:
    """Return the share of right answers; None without a label, or where it is not known what is right."""
    return intervals.share(one.right, one.judged, confidence) if one.judged else None


def others(one: Aggregate) -> dict[str, Interval]:
    """Return balanced accuracy and macro F1, or of a regression the mean absolute error (mae); {} without labels."""
    if one.confusion:
        return of_classes(one.confusion)
    if one.labelled >= FEWEST_NUMBERS and one.absolute + one.squared > 0:
        return {"mae": intervals.mean(one.absolute, one.squared, one.labelled)}
    return {}


def of_classes(confusion: Confusion) -> dict[str, Interval]:
    """Return balanced accuracy and macro F1 of the classes that occur; rows whose label is no class are left out."""
    table, _ = matrix(confusion)
    if not table.sum():
        return {}
    true = table.sum(axis=1)
    some = true > 0
    return {
        "balanced_accuracy": intervals.mean_of_shares(np.diag(table)[some], true[some]),
        "macro_f1": intervals.macro_f1(table),
    }


def recalls(confusion: Confusion, classes: Sequence[str] = ()) -> dict[str, Recall]:
    """Return the recall of each class with labelled rows.

    Of more than MOST_CLASSES the most frequent, and REST for the others together; equally frequent ones in the order
    of `classes`, and then by name.
    """
    table, names = matrix(confusion)
    true, hits = table.sum(axis=1), np.diag(table)
    order = {name: place for place, name in enumerate(classes)}
    ranked = sorted(range(len(names)), key=lambda i: (-true[i], order.get(names[i], len(order)), names[i]))
    ranked = [i for i in ranked if true[i]]
    shown = ranked if len(ranked) <= MOST_CLASSES else ranked[: MOST_CLASSES - 1]
    found = {names[i]: Recall(int(true[i]), intervals.share(hits[i], true[i])) for i in shown}
    rest = ranked[len(shown) :]
    if rest:
        found[REST] = Recall(int(true[rest].sum()), intervals.share(hits[rest].sum(), true[rest].sum()))
    return found


def matrix(confusion: Confusion) -> tuple[np.ndarray, list[str]]:
    """Return counts float64 (k, k), rows true, columns predicted, and the k class names; a label "" is no class."""
    known = {cell: count for cell, count in confusion.items() if cell[0] and count > 0}
    names = sorted({name for cell in known for name in cell})
    place = {name: i for i, name in enumerate(names)}
    table = np.zeros((len(names), len(names)))
    for (label, predicted), count in known.items():
        table[place[label], place[predicted]] += count
    return table, names
