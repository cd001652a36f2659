"""The images on the page of the data report: examples, near copies, doubtful labels."""

import numpy as np

from training.explore import pictures as draw
from training.explore import small
from training.explore.duplicates import part_of
from training.explore.report import Look
from training.pages import svg
from training.pages.document import Block, Picture, Table

MOST_CLASSES = 40
PER_CLASS = 10
SIDE = 64  # of an image on the page; a larger one is averaged
_STEPS = 24


def examples(look: Look, facts: dict[str, object]) -> tuple[Block, ...]:
    """Return a line of training images per class (or per quarter of the target), and their brightness and contrast."""
    lines = [(name, [(address(look, row), look.place(row)) for row in rows]) for name, rows in _chosen(look)]
    listed = Table(("class", "shown"), tuple((name, ", ".join(said for _, said in images)) for name, images in lines))
    size = f"{facts['height']} x {facts['width']} pixels, {facts['channels']} channels"
    quartiles = ("minimum", "quartile_1", "median", "quartile_3", "maximum")
    rows = tuple((name, *(f"{facts[name][key]:.6g}" for key in quartiles)) for name in ("brightness", "contrast"))  # type: ignore[index]
    table = Table(("", *(key.replace("_", " ") for key in quartiles)), rows)
    caption = f"Training rows by class, chosen by hash; {size}."
    said = "Brightness (mean of the pixels, left) and contrast (their standard deviation, right), per part."
    return Picture(draw.sheet(lines), caption, listed), Picture(_light(look), said, table), table


def hints(look: Look) -> list[tuple[str, str, str]]:
    """Return the doubtful rows: address, what is said of the label, and where the row is."""
    return [(address(look, h.row), f"{h.label} → {h.said}?", look.place(h.row)) for h in look.hints.listed]


def near(look: Look, most: int) -> list[tuple[str, str, str]]:
    """Return the near copies: address of the test image and of the other one, and their correlation."""
    shown = look.near[:most]
    return [
        (address(look, p.test_row), address(look, p.other_row),
         f"{p.correlation:.4f}: {look.place(p.test_row)}, {look.place(p.other_row)}")
        for p in shown
    ]  # fmt: skip


def score_map(look: Look, low: float, high: float) -> str:
    """Return the scores of all pixels as one image; the highest of the channels counts."""
    scores = np.nan_to_num(look.scores).reshape(1, *look.table.x.shape[1:])
    best = small.pixels(scores)[0].max(axis=2, keepdims=True)
    height, width = best.shape[:2]
    side = 240 / max(height, width)
    drawn = svg.image(
        0, 0, width * side, height * side, small.uri(small.shown(best, low, high)), "scores of the pixels"
    )
    return svg.drawing("Scores of the pixels", width * side, height * side, [drawn])


def address(look: Look, row: int) -> str:
    """Return the image of a row as an address that holds its bytes, averaged to SIDE pixels if it is larger."""
    image = small.averaged(look.table.x[row : row + 1], SIDE)[0]
    low, high = _range(look)
    return small.uri(small.shown(image, low, high))


def _range(look: Look) -> tuple[float, float]:
    """Return what is drawn black and white: 0 and 255 for bytes that use them, else what some rows hold."""
    x = look.table.x
    some = x[:: max(1, len(x) // 200)]
    low, high = float(some.min()), float(some.max())
    return (0.0, 255.0) if x.dtype == np.uint8 and high > 64 else (min(low, 0.0), high)


def _chosen(look: Look) -> list[tuple[str, np.ndarray]]:
    """Return the rows to be shown per class; in a regression per quarter of the target."""
    table, rows = look.table, look.parts.train
    rows = rows[np.argsort(table.key[rows], kind="stable")]
    if table.classes:
        names, group = table.classes[:MOST_CLASSES], table.y[rows]
    else:
        cuts = np.quantile(table.y, [0, 0.25, 0.5, 0.75, 1])
        names = tuple(f"{a:.4g} to {b:.4g}" for a, b in zip(cuts[:-1], cuts[1:], strict=True))
        group = np.clip(np.searchsorted(cuts, table.y[rows], side="right") - 1, 0, 3)
    return [(name, rows[group == number][:PER_CLASS]) for number, name in enumerate(names)]


def _light(look: Look) -> str:
    """Return the distributions of brightness and contrast per part, side by side."""
    measured, drawn = look.signals, []
    part = part_of(len(look.table.y), look.parts)[measured.rows]
    for place in range(len(("brightness", "contrast"))):
        values = measured.values[:, place]
        low, high = float(values.min()), float(values.max())
        counts = [np.histogram(values[part == p], _STEPS, (low, high or low + 1))[0].tolist() for p in range(3)]
        drawn.append(draw.outline(list(zip(("train", "validation", "test"), counts, strict=True)), low, high))
    return "".join(drawn)
