"""The part of a model card that tells how good the model is: tables and pictures of its metrics."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from monitoring.judge import slices as live
from monitoring.judge.intervals import wilson
from registry.release import Draft
from training.judge import calibration, evaluate, regression, slices, threshold
from training.judge.verdict import Answered
from training.pages import pictures
from training.pages.document import Block, Picture, Section, Table, Text

MOST_LINES = 20  # of a table of classes; with more classes the weakest are shown
MOST_PAIRS = 10


def sections(draft: Draft, answered: Answered) -> list[Section]:
    """Return the sections that this kind of model has."""
    said = (
        f"On {draft.metrics['rows']} test rows, with 95 % intervals (Wilson for shares of right answers and for "
        "classes, DeLong for the area under the ROC curve, else from 1,000 bootstrap resamples). Every number was "
        "measured on the exported file."
    )
    results = _turned(table(draft.metrics, draft.baselines))
    made = [Section("Results", (Text(said), results, Text(_beaten(draft))))]
    if draft.task == "regression":
        made.append(Section("Errors", _errors(draft, answered)))
    else:
        made.append(Section("Classes", _classes(draft)))
        made.append(Section("Calibration", _calibration(draft, answered)))
    if "threshold" in draft.metrics:
        made.append(Section("Threshold", _threshold(draft, answered)))
    if "slices" in draft.metrics:
        made.append(Section("Slices", _slices(draft)))
    if draft.quality.get("slices"):
        made.append(Section("Slices of live traffic", _live_slices(draft)))
    return made


def table(metrics: Mapping[str, Any], baselines: Mapping[str, Any]) -> Table:
    """Return the model and every baseline in one table, each number with its 95 % interval."""
    names = headlines("regression" if "mae" in metrics else "classification")
    rows = [("model", metrics), *baselines.items()]
    lines = [(name, *(interval(found.get(metric)) for metric in names)) for name, found in rows]
    return Table(("", *(metric.replace("_", " ") for metric in names)), tuple(lines))


def variants(tried: list[dict[str, Any]]) -> Table:
    """Return what each precision costs and gains, one row each; see `variants.Made`."""
    metric = next((row["metric"] for row in tried if "metric" in row), "accuracy")
    header = (
        "precision", metric.replace("r2", "R2"), "lost (at most)", "largest difference", "top class differs",
        "ms, 1 row", "ms, 64 rows", "MB", "verdict",
    )  # fmt: skip
    return Table(header, tuple(_variant(row) for row in tried))


def refusals(tried: list[dict[str, Any]]) -> list[str]:
    """Return why precisions were refused, a sentence each."""
    return [f"{row['precision']} was refused: {row['reason']}." for row in tried if not row["accepted"]]


def interval(found: Mapping[str, float] | None) -> str:
    """Return "0.971 (0.947-0.985)", or "-" where nothing was measured."""
    if not found:
        return "-"
    values = [found[key] for key in ("value", "lower", "upper")]
    value, lower, upper = (number(one, max(map(abs, values))) for one in values)
    return f"{value} ({lower}{' to ' if '-' in lower + upper else '-'}{upper})"


def number(value: float, scale: float | None = None) -> str:
    """Return three decimals, more for small numbers, none for large ones; very small or large ones get four digits.

    scale: the largest of the numbers that it stands among, so that all have the same digits.
    """
    size = abs(value) if scale is None else scale
    if 1e-6 <= size < 100:
        return f"{value:.{3 if size >= 0.01 else 2 - math.floor(math.log10(size))}f}"
    return f"{value:.0f}" if 1000 <= size < 1e7 or not value else f"{value:.4g}"


def headlines(task: str) -> tuple[str, ...]:
    """Return the metrics that a model of this kind is compared by."""
    return evaluate.HEADLINES if task == "classification" else regression.HEADLINES


def weakest_class(metrics: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """Return name and metrics of the class with the lowest F1."""
    found: tuple[str, Mapping[str, Any]] = min(metrics["per_class"].items(), key=lambda one: one[1]["f1"]["value"])
    return found


def share_name(task: str) -> str:
    """Return the metric that counts right answers."""
    return "accuracy" if task == "classification" else "within_tolerance"


def _turned(table: Table) -> Table:
    header, *rows = zip(table.header, *table.rows, strict=True)
    return Table(header, tuple(rows))


def _beaten(draft: Draft) -> str:
    words = []
    for name, gains in draft.gate["gain_over"].items():
        for metric, gain in gains.items():
            sure = "surely better" if gain["lower"] > 0 else "surely worse" if gain["upper"] < 0 else "not told apart"
            words.append(f"{name}, {metric.replace('_', ' ')}: {number(gain['value'])} ({sure})")
    holds = "It holds" if draft.gate["beats_baselines"] else "It does not hold"
    confidence = f"{draft.gate['confidence']:.0%}"
    return f"{holds} against the baselines. Gain on the same rows, at {confidence}: {'; '.join(words)}."


def _classes(draft: Draft) -> tuple[Block, ...]:
    found = draft.metrics["per_class"]
    shown = sorted(found.items(), key=lambda one: one[1]["f1"]["value"])[:MOST_LINES]
    said = f"The {MOST_LINES} weakest of {len(found)} classes; all of them stand in the manifest."
    lines = shown if len(found) > MOST_LINES else list(found.items())
    rows = [(name, *(interval(e[key]) for key in ("precision", "recall", "f1")), str(e["rows"])) for name, e in lines]
    classes = Table(("class", "precision", "recall", "F1", "test rows"), tuple(rows))
    return *((Text(said),) if len(found) > MOST_LINES else ()), classes, *_confusion(draft)


def _confusion(draft: Draft) -> tuple[Block, ...]:
    names, matrix = draft.classes, draft.metrics.get("confusion")
    pairs = draft.metrics.get("confused") or _pairs(matrix or [])
    lines = [(names[true], names[said], str(rows)) for true, said, rows in pairs[:MOST_PAIRS]]
    often = Table(("true", "predicted", "test rows"), tuple(lines))
    if matrix is None or len(names) > pictures.MOST_CLASSES:
        return Text("The pairs that were confused most often."), often
    whole = Table(
        ("true \\ predicted", *names), tuple((name, *map(str, row)) for name, row in zip(names, matrix, strict=True))
    )
    drawn = Picture(pictures.confusion(matrix, names), "Test rows: true class by predicted class.", whole)
    return (drawn, Text("Confused most often:"), often) if lines else (drawn,)


def _pairs(matrix: list[list[int]]) -> list[tuple[int, int, int]]:
    cells = [(t, p, rows) for t, line in enumerate(matrix) for p, rows in enumerate(line) if rows and t != p]
    return sorted(cells, key=lambda cell: -cell[2])


def _calibration(draft: Draft, answered: Answered) -> tuple[Block, ...]:
    found = draft.metrics["calibration"]
    said = (
        f"Logits are divided by the temperature {found['temperature']:.3f}, fitted on the validation rows, inside the "
        "exported graph. What that changes on the test rows:"
    )
    keys = {"log_loss": "log loss", "brier": "Brier score", "ece": "expected calibration error"}
    lines = [(word, *(interval(found[name][key]) for name in ("before", "after"))) for key, word in keys.items()]
    bins = calibration.reliability(answered.y, answered.model)
    rows = [
        (f"{b['confidence']:.3f}", f"{b['accuracy']:.3f} ({b['lower']:.3f}-{b['upper']:.3f})", str(b["rows"]))
        for b in bins
    ]
    return (
        Text(said), Table(("", "before", "after"), tuple(lines)),
        Picture(
            pictures.reliability(bins, 1 / calibration.BINS),
            "Accuracy per bin of confidence, after the temperature. A calibrated model lies on the dashed line.",
            Table(("mean confidence", "accuracy", "rows"), tuple(rows)),
        ),
    )  # fmt: skip


def _threshold(draft: Draft, answered: Answered) -> tuple[Block, ...]:
    found, positive = draft.metrics["threshold"], draft.classes[1]
    rule = {"f1": "the highest F1", "youden": "the highest recall + specificity"}[found["rule"]]
    said = (
        f"A row is {positive} from a probability of {found['value']:.4f} on: {rule} on the validation rows. "
        "The test rows, at one half and at this threshold:"
    )
    keys = ("accuracy", "precision", "recall", "specificity", "f1")
    rows = [(name, *(interval(found[at][key]) for key in keys)) for name, at in _CUTS]
    points, precise = threshold.curve(answered.y, answered.model), found["rule"] == "f1"
    marks = [_mark(name if at == "at_half" else f"{found['value']:.3f}", found[at], precise) for name, at in _CUTS]
    shown = points[:: max(1, len(points) // MOST_LINES)]
    lines = [tuple(f"{p[key]:.3f}" for key in ("threshold", "recall", "precision", "false_alarms")) for p in shown]
    caption = (
        f"{'Precision by recall' if precise else 'Recall by false alarm rate'} of {positive}, as the threshold falls."
    )
    picture = Picture(
        pictures.operating_points(points, marks, precise), caption,
        Table(("threshold", "recall", "precision", "false alarm rate"), tuple(lines)),
    )  # fmt: skip
    return Text(said), Table(("", *keys), tuple(rows)), picture


_CUTS = (("0.5", "at_half"), ("threshold", "at_threshold"))


def _mark(name: str, found: Mapping[str, Any], precise: bool) -> tuple[str, float, float]:
    recall = found["recall"]["value"]
    return (name, recall, found["precision"]["value"]) if precise else (name, 1 - found["specificity"]["value"], recall)


def _errors(draft: Draft, answered: Answered) -> tuple[Block, ...]:
    error, tolerance = regression.errors(answered.y, answered.model), draft.quality["tolerance"]
    shares = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
    spread = Table(
        ("share of rows with a smaller error", *(f"{share:.0%}" for share in shares)),
        (("predicted - true", *(number(float(value)) for value in np.quantile(error, shares))),
         ("distance", *(number(float(value)) for value in np.quantile(np.abs(error), shares)))),
    )  # fmt: skip
    said = (
        f"An answer counts as right within {number(tolerance)} of the truth. Mean error: {number(float(error.mean()))}."
    )
    return (
        Text(said),
        Picture(pictures.predicted(answered.y, answered.model.reshape(-1)), "Predicted by true value.", spread),
        Picture(pictures.residuals(error, tolerance), "Errors; the dashed lines are the tolerance.", None),
    )


def _slices(draft: Draft) -> tuple[Block, ...]:
    share, cost = share_name(draft.task), "log_loss" if draft.task == "classification" else "mae"
    blocks: list[Block] = [Text(
        "Differs: in the share of right answers from all other rows, by Fisher's exact test at 5 % after Holm's "
        "adjustment for the number of slices on this card."
    )]  # fmt: skip
    for column, entries in draft.metrics["slices"].items():
        rows = [
            (e["value"], str(e["rows"]), interval(e[share]), interval(e[cost]), f"{e['p']:.3g}", _yes(e["differs"]))
            for e in entries
        ]
        header = (column, "test rows", share.replace("_", " "), cost.replace("_", " "), "p, adjusted", "differs")
        drawn = pictures.intervals(
            [(e["value"], e[share], e["differs"]) for e in entries],
            draft.metrics[share]["value"],
            share.replace("_", " "),
        )
        blocks += [
            Picture(drawn, f"By {column}; orange: differs.", None),
            Table(header, tuple(rows)),
        ]
    return tuple(blocks)


def _live_slices(draft: Draft) -> tuple[Block, ...]:
    found = live.parse(draft.quality)
    sure = live.confidence(sum(len(one.names) for one in found))
    rows = [
        (name, str(count), _share(right, count, sure), number(floor) if floor else "never")
        for one in found
        for name, floor, count, right in zip(one.names, one.floors, one.rows, one.right, strict=True)
    ]
    said = (
        "By these the monitor measures traffic in parts. It warns of a slice whose labels say, with the upper end of "
        "the interval, that it is below the last column: the floor of the model, or what was sure of the slice here "
        f"where that is less. The intervals hold together with 95 %, each with {sure:.2%}."
    )
    header = ("slice", "test rows", share_name(draft.task).replace("_", " "), "warns below")
    return Text(said), Table(header, tuple(rows))


def _share(right: int, rows: int, sure: float) -> str:
    if not rows:
        return "-"
    lower, upper = wilson(right, rows, sure)
    return interval({"value": right / rows, "lower": lower, "upper": upper})


def weakest_slice(draft: Draft) -> str:
    """Return a sentence about the slice with the lowest share of right answers, "" without slices."""
    share = share_name(draft.task)
    found = slices.weakest(draft.metrics.get("slices", {}), share)
    if found is None:
        return ""
    column, entry = found
    sure = "differs from the other rows" if entry["differs"] else "cannot be told from the other rows"
    return (
        f"The weakest slice is {column} {entry['value']}: {share.replace('_', ' ')} {interval(entry[share])} on "
        f"{entry['rows']} rows; it {sure} (p {entry['p']:.2g}, adjusted for all slices)."
    )


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _variant(row: Mapping[str, Any]) -> tuple[str, ...]:
    def shown(key: str, form: str) -> str:
        return "-" if row.get(key) is None else format(row[key], form)

    lost = f"{row['lost']['value']:z.4f} ({row['lost']['upper']:z.4f})" if "lost" in row else "-"
    times = [
        shown(f"ms_batch_{size}", ".3g") + (f" ({gain:.2f} x)" if (gain := row.get(f"speedup_batch_{size}")) else "")
        for size in (1, 64)
    ]
    verdict = "accepted" if row["accepted"] else "refused"
    return (
        row["precision"], shown("value", ".4f"), lost, shown("max_difference", ".2g"), shown("top_class_share", ".2%"),
        *times, shown("size_mb", ".3g"), verdict,
    )  # fmt: skip
