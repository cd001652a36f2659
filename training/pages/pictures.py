"""The pictures of a model card as inline SVG."""

from collections.abc import Sequence

import numpy as np

from training.pages import svg
from training.pages.svg import GREY, INK, PALE

WIDTH, HEIGHT, LEFT, RIGHT, BOTTOM, TOP = 620, 280, 72, 60, 40, 24
BLUE, ORANGE, GREEN, _ = svg.COLOURS
MOST_CLASSES = 40  # a larger matrix cannot be read as a picture of this size
MOST_DOTS = 1500
RESIDUAL_BINS = 40


def curve(history: Sequence[dict[str, float]], best_epoch: int) -> str:
    """Return training and validation loss over epochs with the learning rate behind them, the kept epoch marked."""
    columns = [[entry.get(key, 0.0) for entry in history] for key in ("train_loss", "validation_loss", "rate")]
    low = min(0.0, *columns[0], *columns[1])
    top = max(*columns[0], *columns[1], low + 1e-9) * 1.05
    peak, last = max(*columns[2], 1e-12), max(1, len(history) - 1)
    lines = [
        svg.steps([(_x(i / last), _y((value - low) / (high - low))) for i, value in enumerate(values)], colour)
        for values, colour, low, high in ((columns[2], GREEN, 0, peak), (columns[0], BLUE, low, top),
                                          (columns[1], ORANGE, low, top))
    ]  # fmt: skip
    mark = _x(max(0, best_epoch) / last)
    labels = [
        svg.text(_x(0), HEIGHT - 8, "epoch 0"), svg.text(_x(1), HEIGHT - 8, str(len(history) - 1), "end"),
        svg.text(LEFT - 6, _y(0), f"{low:.3g}", "end"), svg.text(LEFT - 6, _y(1) + 10, f"{top:.3g}", "end"),
        svg.text(_x(1) + 6, _y(1) + 10, f"{peak:.2g}", "start", GREEN), svg.text(_x(1) + 6, _y(0), "0", "start", GREEN),
        svg.text(LEFT, 14, "training loss", "start", BLUE),
        svg.text(LEFT + 110, 14, "validation loss", "start", ORANGE),
        svg.text(_x(1), 14, "learning rate", "end", GREEN),
        svg.dashes(mark, _y(1), mark, _y(0)), svg.text(*_beside(mark, best_epoch / last), colour=GREY),
    ]  # fmt: skip
    return svg.drawing("Training curve", WIDTH, HEIGHT, [_axes(), *lines, *labels])


def confusion(matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> str:
    """Return the confusion matrix, rows true and columns predicted, shaded by share of the row.

    Beyond MOST_CLASSES classes the picture says so and shows nothing.
    """
    if len(classes) > MOST_CLASSES:
        said = svg.text(4, 20, f"{len(classes)} classes: too many to draw")
        return svg.drawing("Confusion matrix", WIDTH, 30, [said])
    side, names = max(18, min(44, 440 // len(classes))), [svg.short(name, 14) for name in classes]
    edge = 26 + 7 * max(map(len, names))
    size = edge + side * len(classes)
    parts = [
        svg.text(edge + side * len(classes) / 2, 12, "predicted", "middle", GREY),
        svg.text(4, 12, "true", "start", GREY),
    ]  # fmt: skip
    for row, counts in enumerate(matrix):
        y = edge + row * side
        parts.append(svg.text(edge - 6, y + side * 0.62, names[row], "end"))
        parts.append(svg.turned(edge + (row + 0.4) * side, edge - 6, names[row]))
        for column, count in enumerate(counts):
            share, x = count / max(1, sum(counts)), edge + column * side
            said = f"true {classes[row]}, predicted {classes[column]}: {count} rows, {share:.1%}"
            parts.append(svg.box(x, y, side - 1, side - 1, PALE, 0.35))
            parts.append(svg.box(x, y, side - 1, side - 1, BLUE if row == column else ORANGE, share, said))
            if count:
                ink = "#fff" if share > 0.5 else INK
                parts.append(svg.text(x + side / 2, y + side * 0.62, str(count), "middle", ink, 12 if side > 24 else 9))
    return svg.drawing("Confusion matrix", size + 60, size + 4, parts)


def reliability(bins: Sequence[dict[str, float]], width: float) -> str:
    """Return accuracy with its 95 % interval against confidence per bin, and below it how many rows a bin holds.

    A calibrated model lies on the diagonal. bins: see `calibration.reliability`; width: of a bin.
    """
    deep, floor = 64, HEIGHT + 84
    most = max((entry["rows"] for entry in bins), default=1)
    parts = [_axes(), svg.dashes(_x(0), _y(0), _x(1), _y(1))]
    for entry in bins:
        x = _x(entry["confidence"])
        said = f"{entry['rows']} rows, confidence {entry['confidence']:.3f}, accuracy {entry['accuracy']:.3f}"
        parts += [
            svg.steps([(x, _y(entry["lower"])), (x, _y(entry["upper"]))], BLUE, said),
            svg.dot(x, _y(entry["accuracy"]), 4, BLUE, said=said),
        ]
        left, right, tall = _x(entry["bin"] * width), _x((entry["bin"] + 1) * width), deep * entry["rows"] / most
        parts.append(svg.box(left, floor - tall, right - left - 1, tall, GREY, 0.7, said))
    parts += [
        *_ends("confidence", "0", "1", floor + 16), svg.text(LEFT - 6, _y(0), "0", "end"),
        svg.text(LEFT - 6, _y(1) + 10, "1", "end"),
        svg.text(_x(0), 14, "accuracy with its 95 % interval", "start", BLUE),
        svg.text(_x(0) + 4, floor - deep - 8, f"rows per bin, at most {most}", "start", GREY),
        svg.steps([(_x(0), floor), (_x(1), floor)], GREY),
    ]  # fmt: skip
    return svg.drawing("Reliability diagram", WIDTH, floor + 26, parts)


def operating_points(points: Sequence[dict[str, float]], marks: Sequence[tuple[str, float, float]], pr: bool) -> str:
    """Return the precision-recall curve if `pr`, else the ROC curve, with named points (name, x, y) on it."""
    keys = ("recall", "precision") if pr else ("false_alarms", "recall")
    names = [key.replace("_", " ") for key in keys]
    path = [(_x(point[keys[0]]), _y(point[keys[1]])) for point in points]
    start = [] if pr else [(_x(0), _y(0))]
    parts = [_axes(), svg.steps([*start, *path], BLUE), *_ends(names[0], "0", "1", HEIGHT - 10)]
    if not pr:
        parts.append(svg.dashes(_x(0), _y(0), _x(1), _y(1)))
    for number, (name, x, y) in enumerate(marks):
        left = x > 0.6
        parts += [
            svg.dot(_x(x), _y(y), 5, ORANGE, said=name),
            svg.text(_x(x) + (-9 if left else 9), _y(y) + 4 + 16 * number, name, "end" if left else "start", ORANGE),
        ]
    parts += [svg.text(LEFT - 6, _y(0), "0", "end"), svg.text(LEFT - 6, _y(1) + 10, "1", "end")]
    parts.append(svg.text(_x(0), 14, names[1], "start", BLUE))
    return svg.drawing("Precision and recall" if pr else "ROC curve", WIDTH, HEIGHT, parts)


def predicted(y: np.ndarray, prediction: np.ndarray) -> str:
    """Return predicted against true values as dots, at most MOST_DOTS of them; the dashed line is a perfect answer."""
    kept = np.unique(np.linspace(0, len(y) - 1, MOST_DOTS).round().astype(np.int64))
    low, high = (float(end) for end in (min(y.min(), prediction.min()), max(y.max(), prediction.max())))
    span = max(high - low, 1e-300)
    dots = [svg.dot(_x((y[i] - low) / span), _y((prediction[i] - low) / span), 2.5, BLUE, 0.35) for i in kept]
    labels = [
        *_ends("true", _said(low), _said(high), HEIGHT - 10), svg.text(LEFT - 6, _y(0), _said(low), "end"),
        svg.text(LEFT - 6, _y(1) + 10, _said(high), "end"), svg.text(_x(0), 14, "predicted", "start", BLUE),
    ]  # fmt: skip
    return svg.drawing("Predicted against true", WIDTH, HEIGHT, [
        _axes(), svg.dashes(_x(0), _y(0), _x(1), _y(1)), *dots, *labels
    ])  # fmt: skip


def residuals(error: np.ndarray, tolerance: float) -> str:
    """Return the histogram of the errors, the tolerance marked; the 1 % farthest are counted in the end bins."""
    reach = float(max(np.quantile(np.abs(error), 0.99), tolerance, 1e-300)) * 1.02
    counts, _ = np.histogram(error.clip(-reach, reach), bins=RESIDUAL_BINS, range=(-reach, reach))
    wide = (_x(1) - _x(0)) / RESIDUAL_BINS
    bars = []
    for i, count in enumerate(counts):
        low, high = (reach * (2 * edge / RESIDUAL_BINS - 1) for edge in (i, i + 1))
        top, said = _y(count / counts.max()), f"{low:.4g} to {high:.4g}: {count} rows"
        bars.append(svg.box(_x(0) + i * wide, top, wide - 1, _y(0) - top, BLUE, 0.75, said))
    marks = [_x((side * tolerance / reach + 1) / 2) for side in (-1, 1)]
    lines = [svg.dashes(mark, _y(1), mark, _y(0), ORANGE) for mark in marks]
    labels = [
        *_ends("predicted - true", _said(-reach), _said(reach), HEIGHT - 10), svg.text(LEFT - 6, _y(0), "0", "end"),
        svg.text(LEFT - 6, _y(1) + 10, str(counts.max()), "end"), svg.text(_x(0), 14, "rows", "start", BLUE),
        svg.text(_x(1), 14, f"tolerance {_said(tolerance)}", "end", ORANGE),
    ]  # fmt: skip
    return svg.drawing("Residuals", WIDTH, HEIGHT, [_axes(), *bars, *lines, *labels])


def intervals(rows: Sequence[tuple[str, dict[str, float], bool]], whole: float, name: str) -> str:
    """Return a row per (name, interval, marked): value with its 95 % interval; `whole` as a dashed line for all."""
    side, left = 22, 14 + 7 * max((len(svg.short(row[0], 28)) for row in rows), default=1)
    low, high = (min(0.0, whole), max(whole, *(row[1]["upper"] for row in rows))) if rows else (0.0, 1.0)
    low = max(low, min(whole, *(row[1]["lower"] for row in rows)) * 0.98) if rows else low
    span = max(high - low, 1e-300)

    def at(value: float) -> float:
        return left + (value - low) / span * (WIDTH - left - 20)

    floor = 26 + side * len(rows)
    anchor = "end" if at(whole) > WIDTH / 2 else "start"
    parts = [svg.dashes(at(whole), 22, at(whole), floor), svg.text(at(whole), 14, f"{name} of all rows", anchor, GREY)]
    for number, (label, found, marked) in enumerate(rows):
        y, colour = 26 + side * (number + 0.5), ORANGE if marked else BLUE
        said = f"{label}: {found['value']:.4g} ({found['lower']:.4g} to {found['upper']:.4g})"
        parts += [
            svg.text(left - 8, y + 4, svg.short(label, 28), "end"),
            svg.steps([(at(found["lower"]), y), (at(found["upper"]), y)], colour, said),
            svg.dot(at(found["value"]), y, 4, colour, said=said),
        ]
    ends = [svg.text(left, floor + 16, f"{low:.3g}"), svg.text(WIDTH - 20, floor + 16, f"{high:.3g}", "end")]
    return svg.drawing(f"{name} by slice", WIDTH, floor + 24, [*parts, *ends])


def _x(share: float) -> float:
    return LEFT + share * (WIDTH - LEFT - RIGHT)


def _y(share: float) -> float:
    return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - TOP)


def _axes() -> str:
    return svg.steps([(_x(0), _y(1)), (_x(0), _y(0)), (_x(1), _y(0))], GREY)


def _ends(name: str, low: str, high: str, y: float) -> list[str]:
    return [
        svg.text(_x(0), y, low), svg.text(_x(0.5), y, name, "middle", GREY), svg.text(_x(1), y, high, "end"),
    ]  # fmt: skip


def _beside(x: float, share: float) -> tuple[float, float, str, str]:
    right = share < 0.8
    return x + (4 if right else -4), _y(1) + 12, "kept", "start" if right else "end"


def _said(value: float) -> str:
    return f"{value:.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.4g}"
