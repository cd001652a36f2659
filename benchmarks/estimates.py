"""How near the truth estimates without labels come, and whether the wrong ones are called invalid.

python -m benchmarks.estimates [--mnist FILE] [--trials N] [--only DATA]

The ten shift families of "Failing Loudly" on 10, 50 and 100 % of the rows, and clean windows, of MNIST if its file is
given and of scikit-learn's digits, judged by the rule and by others that were tried; then windows whose mix of classes
changed. Prints tables and writes JSON into benchmarks/results.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import believing
from benchmarks.believing import FAR, Evidence
from benchmarks.shifts import CLEAN, FAMILIES, SHARES, Classifier, Family, draw, looks
from monitoring.judge import validity
from monitoring.judge.estimates import Estimation
from monitoring.shift import drift, reference, signals
from monitoring.shift.drift import Window
from monitoring.shift.reference import Reference, ReferenceSettings
from monitoring.shift.signals import BINS, EMBEDDING, Binner
from monitoring.shift.support import Support
from registry.release import InputSpec

ROWS = {"digits": (500,), "mnist": (500, 1000)}  # of digits there are fewer than 1,000 left
DEALS = {"digits": 5, "mnist": 2}
UNCHANGED = Family(CLEAN)
CLEAN_KIND = f"{CLEAN} 100%"
TOTALS = ("far", "missed", "valid", "windows")
RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True)
class Traffic:
    """Rows that the classifier never saw, in every look: what is counted of each, and whether it was right.

    places: bin of every signal (rows, signals). components: of the embedding (rows, k). sums: of the estimation
    (rows, m). All by look.
    """

    reference: Reference
    estimation: Estimation
    labels: np.ndarray
    places: dict[str, np.ndarray]
    components: dict[str, np.ndarray]
    sums: dict[str, np.ndarray]
    right: dict[str, np.ndarray]

    def window(self, parts: Sequence[tuple[str, np.ndarray]]) -> Window:
        """Return what drift is judged by, of rows in some looks."""
        places = np.concatenate([self.places[look][rows] for look, rows in parts])
        count = places.shape[1]
        counts = np.bincount(places.ravel(), minlength=count * BINS).reshape(count, BINS).astype(np.float64)
        sums = sum(self.components[look][rows].sum(axis=0, dtype=np.float64) for look, rows in parts)
        return Window(counts, np.asarray(sums), len(places))

    def estimated(self, parts: Sequence[tuple[str, np.ndarray]]) -> np.ndarray:
        """Return the sums of the estimation."""
        return np.asarray(sum(self.sums[look][rows].sum(axis=0) for look, rows in parts))

    def truth(self, parts: Sequence[tuple[str, np.ndarray]]) -> float:
        """Return the accuracy."""
        return float(np.concatenate([self.right[look][rows] for look, rows in parts]).mean())


@dataclass
class Seen:
    """What came of the windows of one kind. far: |estimate - truth| > FAR; missed: of these, those called valid."""

    windows: int = 0
    valid: int = 0
    far: int = 0
    missed: int = 0
    errors: list[float] = field(default_factory=list)
    covered: int = 0

    def add(self, one: Evidence) -> None:
        """Count one window."""
        valid = believing.valid(one)
        self.windows += 1
        self.valid += valid
        self.far += one.error > FAR
        self.missed += valid and one.error > FAR
        if valid:
            self.errors.append(one.error)
            self.covered += one.covered

    def summary(self) -> dict[str, Any]:
        """Return the figures."""
        errors = self.errors or [float("nan")]
        return {
            "windows": self.windows, "valid": self.valid, "far": self.far, "missed": self.missed,
            "largest_valid_error": max(errors), "mean_valid_error": float(np.mean(errors)), "covered": self.covered,
        }  # fmt: skip


def traffic(images: np.ndarray, labels: np.ndarray, learnt: int, held_out: int, seed: int = 0) -> Traffic:
    """Return traffic: a classifier learns from the first rows of a deal, the next make the reference."""
    order = np.random.default_rng(seed).permutation(len(labels))
    train, known, rest = np.split(order, [learnt, learnt + held_out])
    classes = int(labels.max()) + 1
    classifier = Classifier(classes, seed=seed).fit(images[train], labels[train])
    spec, seen = InputSpec(str(images.dtype), images.shape[1:]), Support.of(images[train])
    outputs = classifier.probabilities(images[known])
    built = reference.build(ReferenceSettings(), reference.HeldOut(spec, images[known], outputs, seen=seen))
    estimation = Estimation.fit(outputs, labels[known])
    if estimation is None or built.embedding is None:
        raise ValueError("too few rows")
    made = Traffic(replace(built, estimation=estimation), estimation, labels[rest], {}, {}, {}, {})
    for name, x in looks(images[rest], labels[rest], classifier, seed).items():
        answers = classifier.probabilities(x)
        values = signals.compute(spec, x, answers, None, seen)
        made.places[name] = places_of(built, values)
        made.components[name] = built.embedding.components(x, answers)
        made.sums[name] = estimation.sums_of_runs(answers, np.arange(len(answers)))
        made.right[name] = answers.argmax(axis=1) == labels[rest]
    return made


def places_of(built: Reference, values: np.ndarray) -> np.ndarray:
    """Return for every value (rows, signals) the number of its bin among the bins of all signals."""
    cells = Binner(built.bins).cells(values)
    columns = [np.searchsorted(b.cuts, cells[:, s], side="right") + s * BINS for s, b in enumerate(built.bins)]
    return np.column_stack(columns)


def looked(deals: Sequence[Traffic], trials: int, rows: int, seed: int = 1) -> dict[str, list[Evidence]]:
    """Return by family and share what is known of windows of `rows` rows; trials: of each deal."""
    generator = np.random.default_rng(seed)
    result: dict[str, list[Evidence]] = {}
    for family in (UNCHANGED, *FAMILIES):
        for share in SHARES if family is not UNCHANGED else (1.0,):
            seen = result.setdefault(f"{family.name} {share:.0%}", [])
            for found in deals:
                for _ in range(trials):
                    kept, moved = draw(family, share, found.labels, rows, generator)
                    seen.append(judged(found, [(CLEAN, kept), (family.look, moved)], rows))
    return result


def measured(found: dict[str, list[Evidence]]) -> dict[str, dict[str, Any]]:
    """Return the figures of each family and share."""
    result = {}
    for kind, windows in found.items():
        seen = Seen()
        for one in windows:
            seen.add(one)
        result[kind] = seen.summary()
    return result


def judged(found: Traffic, parts: Sequence[tuple[str, np.ndarray]], rows: int) -> Evidence:
    """Return what is known of the estimate of a window."""
    estimate, window = found.estimation.estimate(found.estimated(parts), rows), found.window(parts)
    truth, cbpe = found.truth(parts), estimate.cbpe
    sizes = drift.stability(found.reference, window)
    return Evidence(
        error=abs(cbpe.value - truth),
        covered=cbpe.holds(truth),
        half=max(cbpe.upper - cbpe.value, cbpe.value - cbpe.lower),
        apart=abs(estimate.atc.value - cbpe.value),
        drifted=frozenset(one.signal for one in drift.alarms(found.reference, window, validity.FALSE_ALARM)),
        distance=sizes.pop(EMBEDDING),
        psi=max(sizes.values()),
    )


def mixes(deals: Sequence[Traffic], trials: int, rows: int, seed: int = 2) -> dict[str, Any]:
    """Return the sum of the errors of the label shares, as answered and by BBSE, where only the mix changed.

    knock_out: class 0 is gone. mild, strong: mixes from a Dirichlet distribution of 10 and of 1.
    """
    generator = np.random.default_rng(seed)
    result = {}
    for kind in ("knock_out", "mild", "strong"):
        windows = [mixed(found, kind, rows, generator) for found in deals for _ in range(trials)]
        answered, bbse, valid = (float(figure) for figure in np.mean(windows, axis=0))
        result[kind] = {"answered": answered, "bbse": bbse, "valid": valid}
    return result


def mixed(found: Traffic, kind: str, rows: int, generator: np.random.Generator) -> tuple[float, float, bool]:
    """Return the errors of the shares as answered and by BBSE of one window, and whether it calls itself valid.

    Where the release cannot tell the classes apart, both are those of the answers.
    """
    labels, classes = found.labels, int(found.labels.max()) + 1
    mix = np.append(0.0, np.ones(classes - 1))
    if kind != "knock_out":
        mix = generator.dirichlet(np.full(classes, 10.0 if kind == "mild" else 1.0))
    weight = (mix / np.bincount(labels, minlength=classes))[labels]
    chosen = generator.choice(len(labels), rows, p=weight / weight.sum())
    sums = found.estimated([(CLEAN, chosen)])
    truth = np.bincount(labels[chosen], minlength=classes) / rows
    shares = found.estimation.estimate(sums, rows).label_shares
    answered = sums[-classes:] / rows
    told = answered if shares is None else np.array([one.value for one in shares.shares])
    before, after = (float(np.abs(one - truth).sum()) for one in (answered, told))
    return before, after, shares is not None and not shares.reason


def data_sets(mnist: Path | None, only: str = "") -> dict[str, list[Traffic]]:
    """Return the deals of each data set that is there, or of one alone."""
    from sklearn.datasets import load_digits

    found = {}
    if only != "mnist":
        digits = load_digits()
        images, labels = digits.images.astype(np.uint8), digits.target
        found["digits"] = [traffic(images, labels, 500, 600, seed) for seed in range(DEALS["digits"])]
    if mnist is not None and only != "digits":
        with np.load(mnist, allow_pickle=False) as said:
            images = np.concatenate([said["x_train"], said["x_test"]])
            labels = np.concatenate([said["y_train"], said["y_test"]]).astype(np.int64)
        parts = np.split(np.random.default_rng(0).permutation(len(labels)), DEALS["mnist"])
        found["mnist"] = [traffic(images[part], labels[part], 15_000, 5000, seed) for seed, part in enumerate(parts)]
    return found


def report(name: str, rows: int, figures: dict[str, dict[str, Any]]) -> None:
    """Print one table."""
    print(f"\n{name}, windows of {rows} rows")
    print(f"{'':34} valid   far  missed  largest  mean  covered")
    for kind, one in figures.items():
        share = one["valid"] / one["windows"]
        covered = one["covered"] / one["valid"] if one["valid"] else float("nan")
        print(
            f"{kind:34} {share:5.0%} {one['far']:5d} {one['missed']:7d}  {one['largest_valid_error']:7.3f}"
            f"  {one['mean_valid_error']:.3f}  {covered:6.0%}"
        )
    all_of_it, clean = totals(figures), totals({CLEAN_KIND: figures[CLEAN_KIND]})
    print(f"of {all_of_it['far']} windows with an error above {FAR}, {all_of_it['missed']} were called valid")
    near, refused = (all_of_it[key] - clean[key] for key in ("near", "refused"))
    print(f"of {near} shifted windows with a smaller one, {refused} were called invalid ({refused / max(near, 1):.0%})")
    print(f"of {clean['near']} clean windows with a smaller one, {clean['refused']} were")


def totals(figures: dict[str, dict[str, Any]]) -> dict[str, int]:
    """Return how many estimates were far from the truth and near it, and how many of each were misjudged."""
    far, missed, valid, windows = (sum(one[key] for one in figures.values()) for key in TOTALS)
    return {"far": far, "missed": missed, "near": windows - far, "refused": windows - far - (valid - missed)}


def main(words: list[str]) -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mnist", type=Path)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--only", choices=tuple(ROWS), default="", help="one data set alone")
    asked = parser.parse_args(words)
    result: dict[str, Any] = {"trials": asked.trials, "false_alarm": validity.FALSE_ALARM}
    for name, deals in data_sets(asked.mnist, asked.only).items():
        accuracy = [float(found.right[CLEAN].mean()) for found in deals]
        result[name] = {"held_out": deals[0].estimation.rows, "accuracy": accuracy}
        for rows in ROWS[name]:
            windows = looked(deals, asked.trials, rows)
            figures = measured(windows)
            report(name, rows, figures)
            rules = believing.compare([(kind == CLEAN_KIND, one) for kind, some in windows.items() for one in some])
            print(believing.as_text(rules))
            found = {"windows": figures, "rules": rules, "mixes": mixes(deals, asked.trials, rows)}
            result[name][str(rows)] = found | {"totals": totals(figures)}
            print("label shares, sum of errors:", json.dumps(result[name][str(rows)]["mixes"]))
    place = RESULTS / f"estimates-{datetime.now(UTC):%Y-%m-%d}.json"
    place.write_text(json.dumps(result, indent=1) + "\n")
    print(f"written: {place}", file=sys.stderr)


if __name__ == "__main__":
    main(sys.argv[1:])
