"""The pictures of the data report, as inline SVG: counts, small multiples, contact sheets, a map of drift."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from training.pages.svg import COLOURS, GREY, INK, PALE, box, dashes, drawing, frame, image, short, steps, text, turned

WIDTH = 860
MOST_CLASSES = 40
MOST_DRAWN = 48


def counts(target: dict[str, Any]) -> str:
    """Return rows per class, or per step of the target, as one bar divided into the parts."""
    names, rows = target["names"][:MOST_CLASSES], target["rows"]
    most = max(sum(rows[part][i] for part in rows) for i in range(len(names)))
    left, room, parts = 170, WIDTH - 170 - 110, []
    for place, part in enumerate(rows):
        parts += [box(left + place * 110, 4, 12, 12, COLOURS[place]), text(left + 18 + place * 110, 14, part)]
    for i, name in enumerate(names):
        y, x, total = 28 + i * 20, float(left), sum(rows[part][i] for part in rows)
        parts.append(text(left - 8, y + 12, short(name, 24), "end"))
        for place, part in enumerate(rows):
            width = rows[part][i] / most * room
            parts.append(box(x, y, width, 16, COLOURS[place], 0.85, f"{name}, {part}: {rows[part][i]} rows"))
            x += width
        parts.append(text(x + 6, y + 12, str(total), colour=GREY))
    return drawing("Rows per class and part", WIDTH, 34 + len(names) * 20, parts)


def multiples(columns: Sequence[dict[str, Any]], classes: Sequence[str]) -> str:
    """Return the distribution of each column, four in a line; with few classes one curve for each."""
    several = any(len(column["bars"]) > 1 for column in columns)
    wide, high, top = WIDTH / 4, 104, 26 if several else 4
    parts = []
    for place, name in enumerate(classes if several else ()):
        parts += [box(place * 160, 6, 12, 12, COLOURS[place]), text(place * 160 + 18, 16, short(name, 18))]
    for number, column in enumerate(columns[:MOST_DRAWN]):
        x, y = number % 4 * wide, top + number // 4 * high
        parts.append(text(x, y + 14, short(column["name"], 28), size=12))
        parts += (
            _curves(column["bars"], x, y + 20, wide - 22, 56) if several else _bars(column, x, y + 20, wide - 22, 56)
        )
        parts += [text(x, y + 90, f"{column['minimum']:.4g}", colour=GREY, size=10)]
        parts += [text(x + wide - 22, y + 90, f"{column['maximum']:.4g}", "end", GREY, 10)]
    lines = -(-min(len(columns), MOST_DRAWN) // 4)
    return drawing("Distribution of each column", WIDTH, top + lines * high, parts)


def _bars(column: dict[str, Any], x: float, y: float, width: float, height: float) -> list[str]:
    (bars,) = column["bars"]
    most, each = max(bars) or 1, width / len(bars)
    drawn = [
        box(x + i * each, y + height * (1 - n / most), each - 1, height * n / most, COLOURS[0], 0.8, f"{n} rows")
        for i, n in enumerate(bars) if n
    ]  # fmt: skip
    return [*drawn, box(x, y + height, width, 1, PALE)]


def _curves(bars: Sequence[Sequence[int]], x: float, y: float, width: float, height: float) -> list[str]:
    """Draw each class as a share of its own rows, so that a rare class is as tall as a frequent one."""
    shares = [np.array(one) / max(1, sum(one)) for one in bars]
    most = max(float(share.max()) for share in shares) or 1.0
    drawn = [box(x, y + height, width, 1, PALE)]
    for place, share in enumerate(shares):
        points = []
        for i, value in enumerate(share):
            level = y + height * (1 - value / most)
            points += [(x + i * width / len(share), level), (x + (i + 1) * width / len(share), level)]
        drawn.append(steps(points, COLOURS[place], ", ".join(map(str, bars[place]))))
    return drawn


def sheet(lines: Sequence[tuple[str, Sequence[tuple[str, str]]]]) -> str:
    """Return lines of images: per line its name, and per image its address and what is said about it."""
    left, parts = 150, []
    side = (WIDTH - left) / max(max(len(images) for _, images in lines), 1)
    side = min(side, 72.0)
    for number, (name, images) in enumerate(lines):
        y = number * side
        parts.append(text(left - 10, y + side / 2 + 4, short(name, 20), "end"))
        parts += [image(left + i * side, y + 2, side - 4, side - 4, uri, said) for i, (uri, said) in enumerate(images)]
    return drawing("Example images", WIDTH, len(lines) * side + 2, parts)


def tiles(images: Sequence[tuple[str, str, str]], across: int = 8) -> str:
    """Return images with two lines of text below each: address, first line, second line."""
    wide, high, parts = WIDTH / across, 126, []
    for number, (uri, first, second) in enumerate(images):
        x, y = number % across * wide, number // across * high
        parts += [image(x, y + 2, 84, 84, uri, f"{first}; {second}"), text(x, y + 100, short(first, 16), size=11)]
        parts.append(text(x, y + 115, short(second, 18), colour=GREY, size=10))
    return drawing("Images", WIDTH, -(-len(images) // across) * high, parts)


def pairs(images: Sequence[tuple[str, str, str]]) -> str:
    """Return pairs of images side by side: two addresses and what is said below them."""
    wide, high, parts = WIDTH / 4, 124, []
    for number, (one, two, said) in enumerate(images):
        x, y = number % 4 * wide, number // 4 * high
        parts += [image(x, y + 2, 84, 84, one, said), image(x + 90, y + 2, 84, 84, two, said)]
        parts.append(text(x, y + 102, short(said, 34), size=11))
    return drawing("Pairs of images", WIDTH, -(-len(images) // 4) * high, parts)


def ranking(scores: Sequence[dict[str, Any]], limit: float, chance: float) -> str:
    """Return the score of each column as a bar, with the limit and chance as lines."""
    left, room, parts = 240, WIDTH - 240 - 70, []
    for i, entry in enumerate(scores):
        y, leak = 26 + i * 18, entry["score"] >= limit
        parts.append(text(left - 8, y + 11, short(entry["column"], 34), "end"))
        parts.append(box(left, y, max(entry["score"], 0) * room, 13, COLOURS[1] if leak else COLOURS[0], 0.85))
        parts.append(
            text(left + max(entry["score"], 0) * room + 5, y + 11, f"{entry['score']:.3f}", colour=GREY, size=11)
        )
    bottom = 28 + len(scores) * 18
    for value, name, anchor in ((chance, f"chance {chance:.2g}", "start"), (limit, f"limit {limit:g}", "end")):
        parts += [
            dashes(left + value * room, 18, left + value * room, bottom),
            text(left + value * room, 13, name, anchor, GREY),
        ]
    return drawing("Score of each column alone", WIDTH, bottom + 4, parts)


def drift_map(found: dict[str, Any], much: float) -> str:
    """Return the gap of each signal (line) in each window (column); sure differences are framed."""
    windows, listed = found["windows"], found["signals"]
    left, top = 190, 66
    wide = min(66.0, (WIDTH - left - 40) / len(windows))
    parts = [turned(left + (w + 0.3) * wide, top - 8, name) for w, name in enumerate(windows)]
    for line, entry in enumerate(listed):
        y = top + line * 22
        parts.append(text(left - 8, y + 15, short(entry["name"], 26), "end"))
        for w, gap in enumerate(entry["gaps"]):
            x, strength = left + w * wide, min(1.0, gap / (3 * much))
            said = f"{entry['name']}, {windows[w]}: gap {gap:.3f}, mean {entry['means'][w]:.4g}"
            parts.append(box(x, y, wide - 2, 20, COLOURS[1], 0.06 + 0.8 * strength, said))
            parts.append(text(x + wide / 2 - 1, y + 14, f"{gap:.2f}", "middle", "#fff" if strength > 0.7 else INK, 11))
            if windows[w] in entry["sure"]:
                parts.append(frame(x + 1, y + 1, wide - 4, 18, INK))
    return drawing("Drift", WIDTH, top + len(listed) * 22 + 4, parts)


def outline(series: Sequence[tuple[str, Sequence[int]]], low: float, high: float) -> str:
    """Return distributions over the same steps as shares, one line each; for up to four."""
    parts, room, height = [], WIDTH / 2 - 40, 110
    shares = [np.array(counts) / max(1, sum(counts)) for _, counts in series]
    most = max(float(share.max()) for share in shares) or 1.0
    for place, ((name, counted), share) in enumerate(zip(series, shares, strict=True)):
        points = [(10 + (i + 0.5) * room / len(share), 30 + height * (1 - v / most)) for i, v in enumerate(share)]
        parts += [steps(points, COLOURS[place], ", ".join(map(str, counted)))]
        parts += [box(10 + place * 100, 6, 12, 12, COLOURS[place]), text(28 + place * 100, 16, name)]
    parts += [box(10, 30 + height, room, 1, PALE), text(10, 46 + height, f"{low:.4g}", colour=GREY, size=11)]
    parts.append(text(10 + room, 46 + height, f"{high:.4g}", "end", GREY, 11))
    return drawing("Distribution", WIDTH / 2, height + 52, parts)
