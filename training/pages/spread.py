"""How far numbers lie apart: the scores of folds beside each other, and what the value of a setting did to the loss."""

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from training.pages import svg
from training.pages.svg import COLOURS, GREY, PALE

BLUE, ORANGE = COLOURS[:2]
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 620, 220, 110, 40, 24, 40
ROW = 30
FAR = 20.0  # times as much: from there on the scale is one of ratios

Value = str | int | float | bool
Axis = Callable[[float], float]


def folds(metric: str, scores: Mapping[str, Sequence[float]]) -> str:
    """Return a row of dots for each name, one dot a fold, over their mean and one standard deviation to each side."""
    middle = {name: (float(np.mean(found)), float(np.std(found, ddof=1))) for name, found in scores.items()}
    edges = [edge for mean, deviation in middle.values() for edge in (mean - deviation, mean + deviation)]
    values = [*edges, *(value for found in scores.values() for value in found)]
    x, floor = _axis(values, LEFT, WIDTH - RIGHT, ratios=False), TOP + ROW * len(scores)
    parts = [_rule(x(min(values)), x(max(values)), floor, min(values), max(values))]
    for number, (name, found) in enumerate(scores.items()):
        y, colour, (mean, deviation) = TOP + ROW * (number + 0.5), BLUE if name == "model" else GREY, middle[name]
        parts += [
            svg.text(LEFT - 16, y + 4, svg.short(name, 14), "end"),
            svg.box(x(mean - deviation), y - 6, x(mean + deviation) - x(mean - deviation), 12, colour, 0.2,
                    f"{name}: mean {mean:.4g}, standard deviation {deviation:.2g}"),
            svg.box(x(mean) - 1, y - 9, 2, 18, colour),
            *(svg.dot(x(value), y, 3.5, colour, 0.8, f"{name}, fold {fold}: {value:.4g}")
              for fold, value in enumerate(found, 1)),
        ]  # fmt: skip
    return svg.drawing(f"{metric} of each fold", WIDTH, floor + 28, parts)


def trials(key: str, tried: Sequence[tuple[int, Value, float | None]]) -> str:
    """Return the loss of each trial over the value that `key` had; ended early ones in grey at the upper edge.

    tried: number, value and loss of each trial; one loss at least is known. The lowest one is marked.
    """
    known = [loss for _, _, loss in tried if loss is not None]
    best, floor = min(known), HEIGHT - BOTTOM
    place, ends = _places([value for _, value, _ in tried])
    y = _axis(known, floor - 12, TOP + 20)
    parts = [
        svg.steps([(LEFT - 6, TOP), (LEFT - 6, floor), (WIDTH - RIGHT + 6, floor)], PALE),
        svg.text(LEFT - 12, y(best) + 4, f"{best:.4g}", "end"), svg.text(LEFT, 12, "validation loss", "start", GREY),
        *([svg.text(LEFT - 12, y(max(known)) + 4, f"{max(known):.4g}", "end")] if max(known) > best else []),
        *(svg.text(x, floor + 16, words, "middle") for x, words in ends),
    ]  # fmt: skip
    for number, value, loss in tried:
        said = f"trial {number}, {key} {value}: " + ("ended early" if loss is None else f"loss {loss:.6g}")
        colour = GREY if loss is None else ORANGE if loss == best else BLUE
        parts.append(
            svg.dot(place(value), TOP if loss is None else y(loss), 6 if loss == best else 4, colour, 0.8, said)
        )
    return svg.drawing(f"validation loss over {key}", WIDTH, HEIGHT, parts)


def _places(values: Sequence[Value]) -> tuple[Callable[[Value], float], list[tuple[float, str]]]:
    # Where each value stands from left to right, and what is written below.
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        numbers = [float(value) for value in values]
        x = _axis(numbers, LEFT + 12, WIDTH - RIGHT)
        return lambda value: x(float(value)), [(x(end), f"{end:.4g}") for end in sorted({min(numbers), max(numbers)})]
    names = sorted(map(str, set(values)))
    step = (WIDTH - RIGHT - LEFT) / len(names)
    centres = {name: LEFT + step * (number + 0.5) for number, name in enumerate(names)}
    return lambda value: centres[str(value)], [(x, svg.short(name, 20)) for name, x in centres.items()]


def _axis(values: Sequence[float], begin: float, end: float, ratios: bool = True) -> Axis:
    # The lowest value at `begin`, the highest at `end`; all that are equal in the middle.
    low, high = min(values), max(values)
    turn: Axis = math.log if ratios and low > 0 and high > FAR * low else float
    span = turn(high) - turn(low)
    return lambda value: begin + (end - begin) * ((turn(value) - turn(low)) / span if span else 0.5)


def _rule(begin: float, end: float, y: float, low: float, high: float) -> str:
    words = svg.text(begin, y + 18, f"{low:.4g}", "start") + svg.text(end, y + 18, f"{high:.4g}", "end")
    return svg.steps([(begin, y), (end, y)], PALE) + (words if high > low else svg.text(begin, y + 18, f"{low:.4g}"))
