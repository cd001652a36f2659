"""How often drift is told where there is none, how surely where there is some, and what it costs.

python -m benchmarks.drift [--mnist FILE] [--fashion FOLDER] [--trials N] [--peers NAME=PYTHON ...] [--resume]

The ten shift families of "Failing Loudly" on each data set that is there, see `benchmarks.pictures`. Peers are
measured on the same windows by a Python that has them: evidently, nannyml, whylogs. Prints tables, writes JSON and a
picture into benchmarks/results. What is measured is written family by family; a run that was cut off goes on with
--resume and finds the same, as every window is drawn with a seed of its own family, size and deal.
"""

import argparse
import json
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import peers, pictures, pieces, tables
from benchmarks.pictures import Pictures
from benchmarks.pieces import Kept
from benchmarks.shifts import CLEAN, FAMILIES, SHARES, Family, draw
from monitoring.shift import drift, reference, signals
from monitoring.shift.bulk import Counting, Tally
from monitoring.shift.drift import Window
from monitoring.shift.reference import ReferenceSettings
from monitoring.shift.signals import BINS
from registry.release import InputSpec

FALSE_ALARM = 0.05
CLEAN_ROWS = (50, 100, 200, 500, 1000)
SHIFT_ROWS = (10, 20, 50, 100, 200, 500, 1000)
REFERENCE_SHARE = 0.4  # of the rows that the classifier never saw
DEALS = 4
COST_RUNS = 5
RESULTS = Path(__file__).resolve().parent / "results"
PUBLISHED = (0.21, 0.31, 0.41, 0.47, 0.55, 0.66, 0.72)  # the best detector of the paper, measured before: KS on outputs
Judge = Callable[[Window], bool]


@dataclass(frozen=True)
class Deal:
    """Rows dealt into a reference and traffic, and each row of the traffic as it is counted.

    places: by look, the bin of every signal, (rows, signals). components: by look, (rows, k).
    """

    reference: reference.Reference
    labels: np.ndarray
    places: dict[str, np.ndarray]
    components: dict[str, np.ndarray]

    def window(self, kept: np.ndarray, moved: np.ndarray, look: str) -> Window:
        """Return the window of some rows as they are and others in a look."""
        parts = [self.places[CLEAN][kept], self.places[look][moved]]
        signals = parts[0].shape[1]
        counts = np.bincount(np.concatenate(parts).ravel(), minlength=signals * BINS).reshape(signals, BINS)
        sums = [self.components[CLEAN][kept], self.components[look][moved]]
        summed = np.concatenate(sums).sum(axis=0, dtype=np.float64)
        return Window(counts.astype(np.float64), summed, len(kept) + len(moved))


def deal(data: Pictures, seed: int) -> Deal:
    """Return rows dealt at random, with a reference as a release has it."""
    order = np.random.default_rng(seed).permutation(len(data.labels))
    cut = round(len(order) * REFERENCE_SHARE)
    held, traffic = order[:cut], order[cut:]
    spec = InputSpec("uint8", data.images[CLEAN].shape[1:])
    said = data.images[CLEAN][held], data.answers[CLEAN][held]
    normal = reference.build(ReferenceSettings(), reference.HeldOut(spec, *said, None, data.seen))
    counting = Counting.of(normal, spec)
    places, components = {}, {}
    for look, images in data.images.items():
        x, p = images[traffic], data.answers[look][traffic]
        places[look] = counting.binner.places(counting.meter.measure(x, p))
        components[look] = normal.embedding.components(x, p) if normal.embedding is not None else np.zeros((len(x), 0))
    return Deal(normal, data.labels[traffic], places, components)


def alarmed(dealt: Deal) -> Judge:
    """Return what says whether anything of a window moved, at FALSE_ALARM."""
    return lambda window: bool(drift.alarms(dealt.reference, window, FALSE_ALARM))


def false_alarms(dealt: Deal, rows: int, trials: int, seed: int) -> float:
    """Return the share of windows of clean rows that raise an alarm."""
    generator, judge = np.random.default_rng(seed), alarmed(dealt)
    none = np.zeros(0, dtype=np.int64)
    windows = (generator.choice(len(dealt.labels), rows, replace=False) for _ in range(trials))
    return float(np.mean([judge(dealt.window(kept, none, CLEAN)) for kept in windows]))


def power(dealt: Deal, family: Family, rows: int, trials: int, seed: int) -> dict[float, float]:
    """Return the share of shifted windows that raise an alarm, by the share of rows that shift."""
    generator, judge = np.random.default_rng(seed), alarmed(dealt)
    found = {}
    for share in SHARES:
        windows = (draw(family, share, dealt.labels, rows, generator) for _ in range(trials))
        found[share] = float(np.mean([judge(dealt.window(*drawn, family.look)) for drawn in windows]))
    return found


def measure_data(data: Pictures, trials: int, deals: int = DEALS, kept: Kept | None = None) -> dict[str, Any]:
    """Return false alarms and power on one data set; trials: windows of each kind and deal."""
    kept, dealt = kept or Kept(), []
    for seed in range(deals):
        pieces.progress(f"{data.name}: dealing, {seed + 1} of {deals}")
        dealt.append(deal(data, seed))
    most = len(dealt[0].labels)
    families = {family.name: _family(dealt, family, trials, kept) for family in FAMILIES}
    pieces.progress(f"{data.name}: clean windows")
    clean = {
        rows: round(float(np.mean([false_alarms(d, rows, 10 * trials, s) for s, d in enumerate(dealt)])), 4)
        for rows in CLEAN_ROWS
        if rows <= most // 2
    }
    return {
        "accuracy": data.accuracy, "reference_rows": dealt[0].reference.rows,
        "signals": [bins.name for bins in dealt[0].reference.bins],
        "clean_windows": 10 * trials * deals, "shifted_windows": trials * deals,
        "false_alarms": clean, "power": _over_families(families), "families": families,
    }  # fmt: skip


def _family(dealt: Sequence[Deal], family: Family, trials: int, kept: Kept) -> dict[int, dict[float, float]]:
    # As it is kept, or measured now and kept.
    if family.name not in kept.pieces:
        pieces.progress(family.name)
        found = {
            rows: _mean([power(d, family, rows, trials, s) for s, d in enumerate(dealt)])
            for rows in SHIFT_ROWS
            if rows <= len(dealt[0].labels) // 2
        }
        kept.put(family.name, found)
    return {int(rows): {float(share): told for share, told in by_share.items()}
            for rows, by_share in kept.pieces[family.name].items()}  # fmt: skip


def cost(rows: int = 1_000_000, columns: int = 16, classes: int = 10) -> dict[str, Any]:
    """Return CPU seconds, of each run, and memory to count and judge rows of 20 signals, 1,000 in a request."""
    generator = np.random.default_rng(0)
    spec = InputSpec("float32", (columns,), tuple(f"c{k}" for k in range(columns)))
    x = generator.standard_normal((50_000, columns)).astype(np.float32)
    p = generator.dirichlet(np.ones(classes), len(x)).astype(np.float32)
    normal = reference.build(ReferenceSettings(), reference.HeldOut(spec, x[:5000], p[:5000]))
    tally = Tally(Counting.of(normal, spec))
    tally.add(x[:1000], p[:1000])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    took = []
    for _ in range(COST_RUNS):
        begun = time.process_time()
        for start in range(0, rows, 1000):
            at = start % len(x)
            tally.add(x[at : at + 1000], p[at : at + 1000])
        took.append(time.process_time() - begun)
    *sums, embedded = tally.sums()
    counted = COST_RUNS * rows + 1000
    window = Window(tally.counts(), np.array(sums) * counted / embedded, counted)
    begun = time.process_time()
    drift.alarms(normal, window, FALSE_ALARM)
    judged_s = time.process_time() - begun
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return {
        "rows": rows, "signals": len(normal.bins), "count_cpu_s": [round(s, 3) for s in sorted(took)],
        "judge_cpu_s": round(judged_s, 5), "memory_grown_mb": round(grown / 1024, 1),
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and write; what else was measured on this day stays."""
    options = _options(arguments)
    file = RESULTS / f"drift-{datetime.now(UTC):%Y-%m-%d}.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"data": {}}
    save = partial(pieces.write, found, file)
    found |= {"date": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", "machine": tables.machine()}
    found |= {"stated_false_alarm": FALSE_ALARM, "cost": cost()}
    save()
    for data in pictures.found(options.mnist, options.fashion):
        if options.trials and not (options.resume and _measured(found, data.name, options.trials)):
            kept = Kept(pieces.begun(found, data.name, options.trials, options.resume), save)
            found["data"][data.name] = pieces.as_json(measure_data(data, options.trials, kept=kept))
            pieces.done(found, data.name)
            save()
        for name, python in (pair.split("=", 1) for pair in options.peers):
            pieces.progress(f"{data.name}: {name}")
            found.setdefault("peers", {}).setdefault(data.name, {})[name] = _peer(data, name, python)
            save()
    found["mean_power"] = _mean([said["power"] for said in found["data"].values()])
    save()
    _draw(found, file.with_suffix(".svg"))
    print(text(found))


def text(found: dict[str, Any]) -> str:
    """Return the tables."""
    lines = []
    for name, said in found["data"].items():
        lines += [f"\n{name}: classifier {said['accuracy']:.1%}, {said['reference_rows']} reference rows"]
        lines += [_row("rows in a window", said["power"], "s"), _row("mean power", said["power"].values(), ".2f")]
        for family, by_rows in said["families"].items():
            lines.append(_row(f"  {family}", [np.mean(list(cell.values())) for cell in by_rows.values()], ".2f"))
        lines += [_row("clean rows", said["false_alarms"], "s"), _row("alarms", said["false_alarms"].values(), ".3f")]
    lines += ["", _row("mean of the data sets", found["mean_power"].values(), ".2f")]
    lines += [_row("published best", PUBLISHED, ".2f"), "", f"cost: {found['cost']}"]
    for data, by_name in found.get("peers", {}).items():
        lines += [f"{data}, {name}: {said}" for name, said in by_name.items()]
    return "\n".join(lines)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--mnist", type=Path, default=pictures.MNIST, help="an NPZ with x_train, y_train, x_test, y_test"
    )
    parser.add_argument("--fashion", type=Path, default=pictures.FASHION, help="the folder of the four IDX files")
    parser.add_argument("--trials", type=int, default=25, help="windows of each shift, size and deal; 0: none")
    parser.add_argument("--peers", nargs="*", default=[], metavar="NAME=PYTHON", help="a Python that has the peer")
    parser.add_argument("--resume", action="store_true", help="go on with what a run of this day left")
    return parser.parse_args(arguments)


def _measured(found: dict[str, Any], name: str, trials: int) -> bool:
    # As often as is asked for.
    whole = name not in found.get("parts", {})
    return whole and bool(found["data"].get(name, {}).get("shifted_windows") == trials * DEALS)


def _peer(data: Pictures, name: str, python: str) -> dict[str, Any]:
    # The columns that both sides can have: image statistics, what is known of the answer, probabilities.
    order = np.random.default_rng(0).permutation(len(data.labels))
    cut = round(len(order) * REFERENCE_SHARE)
    images, answers = data.images[CLEAN][order], data.answers[CLEAN][order]
    values = signals.compute(InputSpec("uint8", images.shape[1:]), images, answers)
    table = np.concatenate([values[:, :-1], answers], axis=1)[:, :25]
    return peers.ask(name, python, table[:cut], table[cut:])


def _over_families(families: dict[str, dict[int, dict[float, float]]]) -> dict[int, float]:
    sizes = next(iter(families.values()))
    return {rows: round(float(np.mean([list(f[rows].values()) for f in families.values()])), 4) for rows in sizes}


def _mean(found: Sequence[dict[Any, float]]) -> dict[Any, float]:
    common = [key for key in found[0] if all(key in one for one in found)]
    return {key: round(float(np.mean([one[key] for one in found])), 4) for key in common}


def _row(name: str, values: Any, how: str) -> str:
    return f"{name:26}" + "".join(f"{value:>8{how}}" for value in values)


def _draw(found: dict[str, Any], file: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "drift"
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(8.4, 3.4), layout="constrained")
    for name, said in found["data"].items():
        for panel, curve in ((left, said["power"]), (right, said["false_alarms"])):
            panel.plot([int(rows) for rows in curve], list(curve.values()), marker="o", label=name)
        for peer, told in found.get("peers", {}).get(name, {}).items():
            if curve := told.get("false_alarms"):
                right.plot([int(rows) for rows in curve], list(curve.values()), "--", label=f"{peer}, {name}")
    left.plot(SHIFT_ROWS, PUBLISHED, color=tables.OTHERS, marker="s", label="published best")
    right.axhline(FALSE_ALARM, color=tables.OTHERS, linewidth=1)
    for panel, title in ((left, "shifted windows that are told"), (right, "clean windows that are told")):
        panel.set(xscale="log", ylim=(0, 1.02), xlabel="rows in a window", title=title)
        panel.legend(fontsize=7)
    figure.savefig(file, metadata={"Date": None})
    pyplot.close(figure)


if __name__ == "__main__":
    main()
