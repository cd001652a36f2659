"""How high may the learning rate be: a range test, its picture, and a peak to start from.

The rate rises from step to step by the same factor while the loss is watched: it falls, stays, and in the
end explodes. Source: Smith 2017, "Cyclical learning rates for training neural networks", section 3.3.
"""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from registry import durable
from registry.errors import DataError
from training.fit import loop, step
from training.fit.batches import Feed
from training.fit.distributed import World
from training.learn import network
from training.pages import svg
from training.task import Order, Progress, Task, prepare

LOWEST, HIGHEST = 1e-6, 10.0
STEPS = 200
EXPLODED = 4.0  # times the lowest loss
MEMORY = 0.9  # of the moving average that smooths the loss
BELOW_LOWEST = 10.0  # the lowest loss is at the edge of what works; a tenth of its rate is well inside
PICTURE, NUMBERS = "find_rate.svg", "find_rate.json"
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 640, 320, 64, 16, 30, 44


@dataclass(frozen=True)
class Found:
    """The rates that were tried, the loss at each as it was and smoothed, and the peak that they suggest."""

    rates: list[float]
    losses: list[float]
    smoothed: list[float]
    peak: float
    lowest_at: float


def find(order: Order, say: Progress) -> tuple[Found, Path]:
    """Return what the range test of an order found and where its picture is; nothing is trained for good.

    Writes find_rate.svg and find_rate.json into the run folder. Raises a UserError if settings or data are
    refused, and DataError if the loss is never finite.
    """
    task = prepare(order)
    say(f"range test: {STEPS} steps, learning rate {LOWEST:g} to {HIGHEST:g}")
    found = range_test(task)
    order.folder.mkdir(parents=True, exist_ok=True)
    durable.write_atomically(order.folder / NUMBERS, as_json(found).encode() + b"\n")
    durable.write_atomically(order.folder / PICTURE, picture(found).encode())
    return found, order.folder / PICTURE


def range_test(task: Task) -> Found:
    """Return the losses of STEPS steps of an untrained network whose rate rises by a constant factor."""
    config, table, parts = task.config, task.table, task.parts
    rows = loop.Rows(table.x[parts.train], task.labels)
    rates, losses = np.geomspace(LOWEST, HIGHEST, STEPS).tolist(), list[float]()
    with torch.random.fork_rng(devices=[]), loop.reproducible(config.loop.threads):
        model = loop.working_copy(config, network(task, rows), World())
        stepper = step.Stepper(config, model, World())
        feed = Feed(config, rows, model.encoder.augmentable(), World(), stepper.device)
        for rate, pieces in zip(rates, feed.ahead(0, STEPS), strict=True):
            loss, _ = stepper.step(pieces, rate)
            if not math.isfinite(loss):
                break
            losses.append(loss)
            smoothed = smooth(losses)
            if smoothed[-1] > EXPLODED * min(smoothed):
                break
    if not losses:
        raise DataError("training: the loss is not finite at the first step; scale columns with extreme values")
    return judge(rates[: len(losses)], losses)


def judge(rates: list[float], losses: list[float]) -> Found:
    """Return the suggestion: a tenth of the rate at which the smoothed loss is lowest."""
    smoothed = smooth(losses)
    lowest = rates[int(np.argmin(smoothed))]
    return Found(rates, losses, smoothed, float(f"{lowest / BELOW_LOWEST:.2g}"), lowest)


def smooth(losses: list[float]) -> list[float]:
    """Return the moving average of the losses up to each one, without the pull of its start at 0."""
    mean, found = 0.0, []
    for number, loss in enumerate(losses, start=1):
        mean = MEMORY * mean + (1 - MEMORY) * loss
        found.append(mean / (1 - MEMORY**number))
    return found


def as_text(found: Found, path: Path) -> str:
    """Return what to write into the TOML file, and where to look."""
    return "\n".join([
        f"the loss is lowest at a learning rate of {found.lowest_at:.2g} ({len(found.rates)} rates tried)",
        f"suggested: [schedule] peak = {found.peak:g}",
        f"the curve is {path}: the peak should lie where it still falls steeply",
    ])  # fmt: skip


def as_json(found: Found) -> str:
    """Return what was found as one JSON object on one line."""
    return json.dumps(asdict(found), allow_nan=False)


def picture(found: Found) -> str:
    """Return the curve as one SVG file: loss against the rate on a logarithmic scale, the suggestion marked."""
    low, top = min(found.smoothed), np.quantile(found.losses, 0.98)
    high = max(float(top), low + 1e-9)

    def place(rate: float, loss: float) -> tuple[float, float]:
        share = math.log(rate / LOWEST) / math.log(HIGHEST / LOWEST)
        height = min(1.0, (high - loss) / (high - low) * 0.92)
        return LEFT + share * (WIDTH - LEFT - RIGHT), TOP + max(0.0, height) * (HEIGHT - TOP - BOTTOM)

    floor = HEIGHT - BOTTOM
    mark, _ = place(max(found.peak, LOWEST), low)
    raw, curve = (
        svg.steps([place(*pair) for pair in zip(found.rates, values, strict=True)], colour)
        for values, colour in ((found.losses, svg.PALE), (found.smoothed, svg.COLOURS[0]))
    )
    ticks = [
        svg.text(place(10.0**power, low)[0], floor + 18, f"1e{power}", "middle", svg.GREY)
        for power in range(round(math.log10(LOWEST)), round(math.log10(HIGHEST)) + 1)
    ]
    parts = [
        svg.dashes(LEFT, floor, WIDTH - RIGHT, floor), raw, curve, svg.dashes(mark, TOP, mark, floor), *ticks,
        svg.text(mark + 6, TOP + 12, f"suggested peak {found.peak:g}", "start", svg.COLOURS[1]),
        svg.text(LEFT, 16, "training loss, smoothed (grey: each step)", "start", svg.COLOURS[0]),
        svg.text(WIDTH - RIGHT, HEIGHT - 8, "learning rate", "end", svg.GREY),
        svg.text(LEFT - 8, place(LOWEST, high)[1] + 4, f"{high:.3g}", "end"),
        svg.text(LEFT - 8, place(LOWEST, low)[1] + 4, f"{low:.3g}", "end"),
    ]  # fmt: skip
    drawn = svg.drawing("Range test of the learning rate", WIDTH, HEIGHT, parts)
    return drawn.replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
