"""What is seen, as plain values: the JSON of `vigil explore`. The page is written from the same values."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from training.explore import column_facts, demands, drift, duplicates, label_hints, leakage, near_copies, small
from training.explore.drift import Drift
from training.explore.finding import Finding
from training.explore.report import Look

MOST_LISTED = 30
MOST_PIXELS = 10
PARTS = ("train", "validation", "test")


def facts(look: Look, findings: Sequence[Finding]) -> dict[str, Any]:
    """Return everything that was seen, ready for JSON; numbers have five digits."""
    config, table = look.config, look.table
    return {
        "name": config.name, "task": table.task, "source": config.data.path or config.data.source,
        "digest": table.digest, "rows": len(table.y), "dtype": table.x.dtype.name, "shape": list(table.x.shape[1:]),
        "parts": look.parts.counts(), "given_test": table.given_test is not None, "skipped": list(table.skipped),
        "findings": [asdict(finding) for finding in findings],
        "target": _target(look), "columns": [_column(column) for column in look.columns],
        "images": _images(look) if look.is_image else None,
        "duplicates": _duplicates(look), "leakage": _leakage(look), "labels": _labels(look),
        "drift": {"parts": _drift(look.apart), look.ordered_by: _drift(look.along)},
        "looked_at": _looked_at(look),
    }  # fmt: skip


def number(value: float) -> float:
    """Return a number of five digits."""
    return float(f"{value:.5g}")


def _target(look: Look) -> dict[str, Any]:
    parts = dict(zip(PARTS, vars(look.parts).values(), strict=True))
    names, counts = column_facts.balance(look.table, parts)
    return {"names": list(names), "rows": {part: list(found) for part, found in counts.items()}}


def _column(column: column_facts.Column) -> dict[str, Any]:
    numbers = ("minimum", "quartile_1", "median", "quartile_3", "maximum", "mean", "zeros", "top_share")
    plain = asdict(column) | {key: number(getattr(column, key)) for key in numbers}
    plain["values"] = [list(pair) for pair in column.values[:MOST_LISTED]]
    return plain | {"bars": [list(bars) for bars in column.bars]}


def _images(look: Look) -> dict[str, Any]:
    height, width, channels = small.pixels(look.table.x[:1]).shape[1:]
    found: dict[str, Any] = {"height": height, "width": width, "channels": channels}
    for place, name in enumerate(("brightness", "contrast")):
        cuts = np.quantile(look.signals.values[:, place], [0, 0.25, 0.5, 0.75, 1])
        found[name] = dict(
            zip(("minimum", "quartile_1", "median", "quartile_3", "maximum"), map(number, cuts), strict=True)
        )
    return found


def _duplicates(look: Look) -> dict[str, Any]:
    copies, place = look.copies, look.place
    differing = duplicates.contradictions(copies, look.table.y) if look.table.classes else np.zeros(0, dtype=int)
    return {
        "repeated_rows": int(copies.repeated.sum()), "rows_in_two_parts": int(copies.crossing.sum()),
        "pairs": [[place(a), place(b)] for a, b in duplicates.pairs(copies, MOST_LISTED)],
        "contradicting_rows": len(differing), "contradicting": [place(int(row)) for row in differing[:MOST_LISTED]],
        "near_copies": len(look.near),
        "nearest": [
            {"test": place(p.test_row), "other": place(p.other_row), "correlation": p.correlation}
            for p in look.near[:MOST_LISTED]
        ],
    }  # fmt: skip


def _leakage(look: Look) -> dict[str, Any]:
    listed = MOST_PIXELS if look.is_image else MOST_LISTED
    order = np.argsort(-np.nan_to_num(look.scores), kind="stable")[:listed]
    return {
        "measure": "balanced accuracy" if look.table.classes else "R2", "limit": look.config.explore.leak_score,
        "scores": [
            {"column": demands.column_name(look.table, int(c)), "score": number(look.scores[c])}
            for c in order if not np.isnan(look.scores[c])
        ],
        "order": {name: number(score) for name, score in look.by_order.items()},
    }  # fmt: skip


def _labels(look: Look) -> dict[str, Any]:
    hints = look.hints
    listed = [
        {"row": look.place(h.row), "label": h.label, "said": h.said, "sureness": h.sureness} for h in hints.listed
    ]
    return {
        "model": hints.model, "rows": hints.rows, "folds": label_hints.FOLDS, "score": number(hints.score),
        "judged": hints.judged, "count": hints.count, "listed": listed,
    }  # fmt: skip


def _drift(found: Drift | None) -> dict[str, Any] | None:
    if found is None:
        return None
    order = np.argsort(-found.gap.max(axis=0), kind="stable")[:MOST_LISTED]
    return {
        "windows": list(found.windows), "rows": list(found.rows), "compared": found.gap.size,
        "signals": [
            {
                "name": found.names[s], "gaps": [number(gap) for gap in found.gap[:, s]],
                "means": [number(mean) for mean in found.mean[:, s]], "p": number(found.p[:, s].min()),
                "sure": [found.windows[w] for w in np.flatnonzero(found.sure[:, s])],
            }
            for s in order
        ],
    }  # fmt: skip


def _looked_at(look: Look) -> dict[str, int]:
    rows = len(look.table.y)
    found = {
        "label hints": look.hints.rows, "drift": len(look.signals.rows),
        "leakage": len(leakage.sample(look.table, np.concatenate([look.parts.train, look.parts.validation]))),
    }  # fmt: skip
    if look.is_image:
        others = len(look.parts.train) + len(look.parts.validation)
        found["near copies, test images"] = min(len(look.parts.test), near_copies.MOST_TEST_ROWS)
        found["near copies, other images"] = min(others, near_copies.MOST_OTHER_ROWS)
        found["leakage, values of an image"] = len(look.scores)
    else:
        found |= {"columns, rows": min(rows, column_facts.MOST_ROWS), "columns": len(look.columns)}
        found["drift, columns"] = min(len(look.table.names), drift.MOST_SIGNALS)
    return found
