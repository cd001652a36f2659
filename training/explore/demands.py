"""What training demands of its data before it starts: no row in two parts, no column that is the answer."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from registry.errors import DataError
from training.config import Config, Explore
from training.explore import duplicates, leakage
from training.explore.duplicates import Copies
from training.explore.finding import Finding, some
from training.rows import split
from training.rows.data import Table
from training.rows.places import Place
from training.rows.split import Parts


@dataclass(frozen=True)
class Demanded:
    """The parts to train with, and what was allowed or dropped on the way, as plain values for card and manifest.

    facts: rows_in_two_parts, rows_dropped, leaks (column -> score), overrides (sentences; none if all is well).
    """

    parts: Parts
    facts: dict[str, Any]


def demand(table: Table, parts: Parts, config: Config, place: Place = "row {} (from 0)".format) -> Demanded:
    """Return the parts, without the copies that are to be dropped, and what was found.

    place: row number -> where a user finds the row. The search for leaks looks at rows of training and validation only.
    Raises DataError naming the rows or columns and the key that overrides it, if rows stand in two parts
    or if a column alone gives the target away, and `config.explore` does not allow it.
    """
    copies = duplicates.find(table.key, parts)
    scores = leakage.scores(table, np.concatenate([parts.train, parts.validation]))
    findings = [*copied(copies, config.explore, place), *leaking(table, scores, config.explore)]
    if stops := [f"{f.found}. {f.why}. {f.cure}" for f in findings if f.level == "stop"]:
        raise DataError("data: " + "; also: ".join(stops))
    dropped = copies.spare if config.explore.duplicates == "drop" else np.zeros(len(table.y), dtype=bool)
    if dropped.any():
        parts = Parts(*(rows[~dropped[rows]] for rows in (parts.train, parts.validation, parts.test)))
        split.check(table, parts)
    found = {column_name(table, c): round(float(scores[c]), 4) for c in above(scores, config.explore.leak_score)}
    return Demanded(parts, {
        "rows_in_two_parts": int(copies.crossing.sum()), "rows_dropped": int(dropped.sum()), "leaks": found,
        "overrides": [finding.found for finding in findings],
    })  # fmt: skip


def copied(copies: Copies, explore: Explore, place: Place) -> list[Finding]:
    """Return the finding about rows in two parts, if there are any; what becomes of them is `explore.duplicates`."""
    rows = int(copies.spare.sum())
    if not rows:
        return []
    shown = [f"{place(a)} and {place(b)}" for a, b in duplicates.pairs(copies, 3)]
    more = f" and {rows - len(shown)} more" if rows > len(shown) else ""
    done = {"stop": "", "drop": "; they are dropped there", "allow": "; allowed by explore.duplicates"}
    return [Finding(
        "stop" if explore.duplicates == "stop" else "warn", "Duplicates",
        f"{rows} rows of training or validation stand in a later part too, value by value: {'; '.join(shown)}"
        f"{more}{done[explore.duplicates]}",
        "A model is not judged by rows that it was trained on: its score would be too good",
        'Set [explore] duplicates = "drop" to leave the training copies out, or "allow" to keep them',
    )]  # fmt: skip


def leaking(table: Table, scores: np.ndarray, explore: Explore) -> list[Finding]:
    """Return the finding about columns that give the target away, if there are any."""
    columns = above(scores, explore.leak_score)
    if not len(columns):
        return []
    measure = "balanced accuracy" if table.classes else "R2"
    shown = some([f"{column_name(table, c)} ({measure} {scores[c]:.3f})" for c in columns])
    allowed = explore.leakage == "allow"
    return [Finding(
        "warn" if allowed else "stop", "Leakage",
        f"one column alone gives the target away: {shown}; the limit is explore.leak_score {explore.leak_score:g}"
        + ("; allowed by explore.leakage" if allowed else ""),
        "Such a column was mostly written with the answer in view, and is not there when the model is asked",
        'Name it in data.drop; if it is honest, set [explore] leakage = "allow"',
    )]  # fmt: skip


def above(scores: np.ndarray, limit: float) -> np.ndarray:
    """Return the columns whose score reaches the limit, the highest first; NaN never does."""
    order = np.argsort(-np.nan_to_num(scores), kind="stable")
    found: np.ndarray = order[np.nan_to_num(scores)[order] >= limit]
    return found


def column_name(table: Table, column: int) -> str:
    """Return what a user calls the column: its name, or the place of a value in an image."""
    if table.names:
        return f"'{table.names[column]}'"
    place = np.unravel_index(leakage.column_step(table.x.shape[1:]) * column, table.x.shape[1:])
    return f"value at {tuple(int(p) for p in place)} of the image"
