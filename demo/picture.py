"""Draw one run of the demo from its run.json: drift, quality and what happened.

python -m demo.picture demo/out/run.json docs/demo.png
"""

import io
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, MUTED, BAD, GOOD, LIMIT = "#1f2933", "#9aa5b1", "#c0392b", "#1f7a5c", "#8a6d00"
CLOSE_S = 4.0
SHOWN = 3  # signals drawn in colour; all others are grey
Series = dict[str, list[tuple[float, float]]]


def draw(run: dict[str, Any]) -> bytes:
    """Return a PNG of a run, as `demo.page` wrote it to run.json."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, (drift, quality) = pyplot.subplots(2, 1, figsize=(11, 6.4), sharex=True, constrained_layout=True)
    try:
        _drift(drift, run["series"])
        _quality(quality, run["series"])
        for axes in (drift, quality):
            _marks(axes, run["marks"])
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(colors=INK)
        for at, text in _apart(run["marks"]):
            drift.annotate(
                text, (at, 1.0), xycoords=("data", "axes fraction"), rotation=30, ha="left", va="bottom",
                fontsize=8, color=INK,
            )  # fmt: skip
        quality.set_xlabel("seconds since `make demo` began")
        stream = io.BytesIO()
        figure.savefig(stream, dpi=110)
        return stream.getvalue()
    finally:
        pyplot.close(figure)


def confusion(matrix: dict[tuple[str, str], int], classes: Iterable[str], title: str) -> bytes:
    """Return a PNG of counts by (truth, prediction)."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    names = list(classes)
    counts = [[matrix.get((truth, said), 0) for said in names] for truth in names]
    figure, axes = pyplot.subplots(figsize=(4.6, 4.3), constrained_layout=True)
    try:
        axes.imshow(counts, cmap="Blues")
        for i, row in enumerate(counts):
            for j, count in enumerate(row):
                if count:
                    colour = "white" if count > max(map(max, counts)) / 2 else INK
                    axes.text(j, i, str(count), ha="center", va="center", color=colour, fontsize=8)
        axes.set_xticks(range(len(names)), names)
        axes.set_yticks(range(len(names)), names)
        axes.set(title=title, xlabel="predicted", ylabel="true")
        stream = io.BytesIO()
        figure.savefig(stream, dpi=90)
        return stream.getvalue()
    finally:
        pyplot.close(figure)


def _drift(axes: "Axes", series: dict[str, Series]) -> None:
    signals = series["drift_z"]
    peak = {name: max((z for _, z in points), default=0.0) for name, points in signals.items()}
    loud = sorted(peak, key=lambda name: -peak[name])[:SHOWN]
    for name, points in signals.items():
        colour = None if name in loud else MUTED
        width, label = (1.8, name) if name in loud else (0.7, None)
        axes.plot(*_columns(points), color=colour, lw=width, label=label, alpha=1 if name in loud else 0.6)
    for points in series["drift_limit"].values():
        axes.plot(*_columns(points), color=LIMIT, ls="--", lw=1.4, label="calibrated limit")
    axes.set_ylabel("drift z, short window")
    axes.set_ylim(-2, 1.35 * max([6.0, *peak.values()]))
    axes.legend(loc="upper left", frameon=False, fontsize=8, ncols=SHOWN + 1)


def _quality(axes: "Axes", series: dict[str, Series]) -> None:
    colours = dict(zip(series["quality"], (GOOD, BAD), strict=False))
    for version, points in series["quality"].items():
        x, value = _columns(points)
        lower, upper = (dict(series[f"quality_{end}"].get(version, [])) for end in ("lower", "upper"))
        band = [(at, lower[at], upper[at]) for at in x if at in lower and at in upper]
        colour = colours.get(version, INK)
        axes.plot(x, value, color=colour, lw=1.8, label=f"accuracy of {version}")
        if band:
            at, low, high = zip(*band, strict=True)
            axes.fill_between(at, low, high, color=colour, alpha=0.15, lw=0)
    for points in list(series["floor"].values())[:1]:
        axes.plot(*_columns(points), color=LIMIT, ls="--", lw=1.4, label="floor")
    axes.set_ylabel("accuracy on labelled rows")
    axes.set_ylim(0, 1.02)
    axes.legend(loc="lower left", frameon=False, fontsize=8)


def _marks(axes: "Axes", marks: list[tuple[float, str]]) -> None:
    for at, _ in marks:
        axes.axvline(at, color=INK, lw=0.8, ls=":")


def _apart(marks: list[tuple[float, str]]) -> list[tuple[float, str]]:
    # Marks that stand too close to be read apart share one text.
    shown: list[tuple[float, str]] = []
    for at, text in marks:
        if shown and at - shown[-1][0] < CLOSE_S:
            shown[-1] = (shown[-1][0], f"{shown[-1][1]}, {text}")
        else:
            shown.append((at, text))
    return shown


def _columns(points: list[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [at for at, _ in points], [value for _, value in points]


if __name__ == "__main__":
    source, target = map(Path, sys.argv[1:])
    target.write_bytes(draw(json.loads(source.read_text())))
