"""The three pictures of a model card as inline SVG: training curve, confusion matrix, reliability."""

from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT, LEFT, BOTTOM = 560, 260, 56, 36
BLUE, ORANGE, GREY = "#1f6feb", "#d1570a", "#8c959f"
MOST_CLASSES = 40  # a larger matrix cannot be read as a picture of this size


def curve(history: Sequence[dict[str, float]], best_epoch: int) -> str:
    """Return training and validation loss over epochs, the kept epoch marked."""
    train = [entry["train_loss"] for entry in history]
    validation = [entry["validation_loss"] for entry in history]
    top = max(*train, *validation, 1e-9) * 1.05
    last = max(1, len(history) - 1)
    lines = [
        _line([(_x(i / last), _y(value / top)) for i, value in enumerate(values)], colour)
        for values, colour in ((train, BLUE), (validation, ORANGE))
    ]
    mark = _x(max(0, best_epoch) / last)
    kept = f'<path d="M{mark:.1f} {_y(1):.1f} V{_y(0):.1f}" stroke="{GREY}" stroke-dasharray="4"/>'
    labels = [
        _text(_x(0), HEIGHT - 8, "epoch 0", "start"), _text(_x(1), HEIGHT - 8, str(len(history) - 1), "end"),
        _text(LEFT - 6, _y(0), "0", "end"), _text(LEFT - 6, _y(1) + 10, f"{top:.3g}", "end"),
        _text(_x(1), 14, "validation loss", "end", ORANGE),
        _text(_x(1) - 130, 14, "training loss", "end", BLUE),
        _text(mark + 4, _y(1) + 24, "kept", "start", GREY),
    ]  # fmt: skip
    return _svg("Training curve", WIDTH, HEIGHT, [_axes(), kept, *lines, *labels])


def confusion(matrix: Sequence[Sequence[int]], classes: Sequence[str]) -> str:
    """Return the confusion matrix, rows true and columns predicted, shaded by share of the row.

    Beyond MOST_CLASSES classes the picture says so and shows nothing.
    """
    if len(classes) > MOST_CLASSES:
        said = _text(4, 20, f"{len(classes)} classes: too many to draw", "start")
        return _svg("Confusion matrix", WIDTH, 30, [said])
    side, edge = max(18, min(40, 420 // len(classes))), 90
    parts = [_text(edge, 14, "predicted", "start", GREY), _text(4, edge - 6, "true", "start", GREY)]
    for row, counts in enumerate(matrix):
        y = edge + row * side
        parts.append(_text(edge - 6, y + side * 0.65, classes[row][:12], "end"))
        parts.append(_turned(edge + row * side + side * 0.65, edge - 6, classes[row][:12]))
        for column, count in enumerate(counts):
            share = count / max(1, sum(counts))
            parts.append(_cell(edge + column * side, y, side, share, BLUE if row == column else ORANGE))
            if count:
                ink = "#fff" if share > 0.5 else "#1b1f24"
                parts.append(_text(edge + (column + 0.5) * side, y + side * 0.65, str(count), "middle", ink))
    size = edge + side * len(classes) + 4
    return _svg("Confusion matrix", size, size, parts)


def reliability(bins: Sequence[dict[str, float]]) -> str:
    """Return accuracy against confidence per bin; a calibrated model lies on the diagonal."""
    rows = max(1, max((entry["rows"] for entry in bins), default=1))
    dots = [_dot(_x(b["confidence"]), _y(b["accuracy"]), (b["rows"] / rows) ** 0.5) for b in bins]
    diagonal = _line([(_x(0), _y(0)), (_x(1), _y(1))], GREY)
    labels = [
        _text(_x(0), HEIGHT - 8, "confidence 0", "start"), _text(_x(1), HEIGHT - 8, "1", "end"),
        _text(LEFT - 6, _y(0), "0", "end"), _text(LEFT - 6, _y(1) + 10, "1", "end"),
        _text(_x(0) + 6, 14, "accuracy; the area of a dot shows its rows", "start", GREY),
    ]  # fmt: skip
    return _svg("Reliability diagram", WIDTH, HEIGHT, [_axes(), diagonal, *dots, *labels])


def _x(share: float) -> float:
    return LEFT + share * (WIDTH - LEFT - 12)


def _y(share: float) -> float:
    return HEIGHT - BOTTOM - share * (HEIGHT - BOTTOM - 22)


def _svg(title: str, width: int, height: int, parts: Sequence[str]) -> str:
    head = f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img"'
    font = 'font-family="system-ui, sans-serif" font-size="12"'
    return f'{head} aria-label="{title}" {font}>{"".join(parts)}</svg>'


def _axes() -> str:
    path = f"M{_x(0):.1f} {_y(1):.1f} V{_y(0):.1f} H{_x(1):.1f}"
    return f'<path d="{path}" fill="none" stroke="{GREY}"/>'


def _line(points: Sequence[tuple[float, float]], colour: str) -> str:
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>'


def _cell(x: float, y: float, side: float, share: float, colour: str) -> str:
    box = f'x="{x}" y="{y}" width="{side}" height="{side}"'
    return f'<rect {box} fill="{colour}" fill-opacity="{share:.3f}" stroke="#d6dae0"/>'


def _dot(x: float, y: float, size: float) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{3 + 7 * size:.1f}" fill="{BLUE}" fill-opacity=".7"/>'


def _text(x: float, y: float, text: str, anchor: str, colour: str = "#1b1f24") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'


def _turned(x: float, y: float, text: str) -> str:
    return f'<text transform="translate({x:.1f} {y:.1f}) rotate(-60)" fill="#1b1f24">{escape(text)}</text>'
