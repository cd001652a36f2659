"""What the serving benchmark found, as text and as a picture."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("bentoml", "onnxruntime", "numpy", "uvicorn")
DRAWN = (
    "vigil-fast",
    "vigil-asgi",
    "triton",
    "triton-2",
    "triton-python",
    "mlserver",
    "litserve",
    "bentoml",
    "fastapi",
)
OURS, OTHERS = "#1b6ca8", "#b8bec4"


def text(model: str, found: dict[str, Any], reference: str) -> str:
    """Return the tables of one model: rows per second with the multiple of `reference`, then the rest."""
    cells = found["closed_loop"]
    lanes = list(dict.fromkeys(lane for lanes in cells.values() for lane in lanes))
    lines = [f"\n{model}: rows/s (times {reference}), connections x rows per request", _row("", *cells)]
    for lane in lanes:
        lines.append(_row(lane, *(_cell(cells[cell], lane, reference) for cell in cells)))
    for cores, rates in found["onnxruntime_rows_per_s"].items():
        lines.append(f"ONNX Runtime in process, {cores}: " + ", ".join(f"{b}: {_short(r)}" for b, r in rates.items()))
    lines += [f"cost of signals, metrics and log at {c}: {v:.1%}" for c, v in _cost(cells).items()]
    for share, by_lane in found.get("open_loop", {}).items():
        told = (f"{lane} {f['p99_us'] / 1e3:.2f}" for lane, f in by_lane.items())
        lines.append(f"p99 in ms at {share} of capacity: {', '.join(told)}")
    failed = {f"{lane} {cell}": f["failures"] for cell, by in cells.items() for lane, f in by.items() if f["failed"]}
    lines += [f"failed requests: {failed}"] if failed else []
    lines += [f"{what}: {said}" for what, said in found.get("behaviour", {}).items()]
    return "\n".join(lines)


def ratio(lanes: dict[str, Any], over: str, under: str) -> float | None:
    """Return how many times the rate of one lane is that of another, None if one is missing."""
    if over not in lanes or under not in lanes or not lanes[under]["rows_per_s"]:
        return None
    return round(float(lanes[over]["rows_per_s"] / lanes[under]["rows_per_s"]), 2)


def machine() -> dict[str, Any]:
    """Return what the figures depend on."""
    return {
        "processor": platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in PACKAGES},
    }


def draw(found: dict[str, Any], reference: str, file: Path) -> None:
    """Draw rows per second at 32 connections, one row per request, a panel per model."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "serving"
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(
        1, len(found), figsize=(4.2 * len(found), 3.4), squeeze=False, layout="constrained"
    )
    for panel, (model, said) in zip(panels[0], found.items(), strict=True):
        lanes = said["closed_loop"].get("32 x 1") or next(iter(said["closed_loop"].values()))
        best = _best_by_server(lanes)
        shown = sorted(best, key=lambda lane: lanes[lane]["rows_per_s"])
        rates = [lanes[lane]["rows_per_s"] for lane in shown]
        bars = panel.barh(shown, rates, color=[OURS if lane.startswith("vigil") else OTHERS for lane in shown])
        panel.bar_label(bars, [_cell(lanes, lane, reference) for lane in shown], fontsize=7, padding=2)
        panel.set_title(f"{model}: rows/s (times {reference})", fontsize=9)
        panel.tick_params(labelsize=7)
        panel.margins(x=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)


def _best_by_server(lanes: dict[str, Any]) -> list[str]:
    best: dict[str, str] = {}
    for lane, found in lanes.items():
        server = lane.split()[0]
        if server in DRAWN and found["rows_per_s"] > lanes.get(best.get(server, ""), {}).get("rows_per_s", -1):
            best[server] = lane
    return list(best.values())


def _cost(cells: dict[str, Any]) -> dict[str, float]:
    costs = {}
    for cell, lanes in cells.items():
        for wire in ("raw", "v2", "json"):
            share = ratio(lanes, f"vigil-fast {wire}", f"vigil-off {wire}")
            if share is not None:
                costs[f"{cell} {wire}"] = 1 - share
    return costs


def _cell(lanes: dict[str, Any], lane: str, reference: str) -> str:
    if lane not in lanes:
        return "-"
    times = ratio(lanes, lane, reference)
    return _short(lanes[lane]["rows_per_s"]) + (f" ({times:.2g})" if times is not None else "")


def _short(rate: float) -> str:
    if rate >= 1e6:
        return f"{rate / 1e6:.2f}M"
    return f"{rate / 1e3:.3g}k" if rate >= 1e3 else f"{rate:.0f}"


def _row(lane: str, *cells: str) -> str:
    return f"{lane:22}" + "".join(f"{cell:>16}" for cell in cells)
