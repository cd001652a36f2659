"""The model card: what a release is for, how it was made, how good it is and where that ends."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monitoring.shift import reference
from registry.release import REFERENCE, Draft
from training import outcome
from training.fit.loop import Fit
from training.judge.verdict import Answered
from training.pages import document, pictures, results
from training.pages.document import Block, Code, Picture, Section, Table, Text
from training.pages.results import interval, number

MOST_CURVE_ROWS = 12
FEW_ROWS = 20  # of a class: below, its metrics say little
MOST_NAMES = 12
WINDOWS = {"short": "1 h", "medium": "24 h", "long": "7 d"}
TYPICAL_ROWS_PER_H = 500
LEAST_OUTSIDE = 0.0005  # of the test rows, as a share


@dataclass(frozen=True)
class Facts:
    """What the card says beyond the manifest; answered: on the test rows; files: the folder of the release."""

    draft: Draft
    answered: Answered
    architecture: str
    parameters: int
    fit: Fit
    files: Path


def sections(facts: Facts) -> list[Section]:
    """Return the content of the card."""
    draft = facts.draft
    return [
        Section("Purpose", (Text(draft.purpose or "None was stated: set `purpose` in the TOML file."), _glance(facts))),
        Section("Limits", tuple(Text(limit) for limit in limits(draft))),
        Section("Data", _data(draft)),
        *results.sections(draft, facts.answered),
        Section("Training", _training(facts.fit)),
        Section("Architecture", (Text(f"{facts.parameters:,} trained parameters."), Code(facts.architecture))),
        Section("Hyper-parameters", (_settings(draft.config),)),
        Section("Parity certificate", _parity(draft)),
        Section("Drift reference", _reference(facts.files)),
        Section("Reproduce", _reproduce(draft)),
    ]


def markdown(facts: Facts) -> str:
    """Return the card as Markdown."""
    return document.markdown(f"Model card: {facts.draft.name}", sections(facts))


def html(facts: Facts) -> str:
    """Return the card as one HTML file with its pictures inside."""
    return document.html(f"Model card: {facts.draft.name}", sections(facts))


def limits(draft: Draft) -> list[str]:
    """Return where the numbers of this card end, each as a sentence."""
    rows, share = draft.metrics["rows"], results.share_name(draft.task)
    found = [
        f"Measured on {rows} rows held out of the same source: {share.replace('_', ' ')} "
        f"{interval(draft.metrics[share])}; traffic from elsewhere (other people, devices, seasons) can score lower.",
        *(_of_classes(draft) if draft.classes else _of_numbers(draft)),
        *([said] if (said := results.weakest_slice(draft)) else []),
        *(
            f"Found in the data and allowed: {override}."
            for override in draft.data.get("explore", {}).get("overrides", ())
        ),
    ]
    if skipped := draft.data.get("skipped"):
        found.append(f"Left out of the data: {_some(skipped, 3)}; nothing is known about this kind.")
    if draft.data["label_noise"]:
        found.append(f"{draft.data['label_noise']:.0%} of the training labels were replaced at random, on purpose.")
    if not draft.gate["beats_baselines"]:
        found.append("It does not hold against the baselines; promotion refuses it.")
    return found


def _of_classes(draft: Draft) -> list[str]:
    weakest, score = results.weakest_class(draft.metrics)
    few = [name for name, entry in draft.metrics["per_class"].items() if entry["rows"] < FEW_ROWS]
    found = [
        f"The weakest class is {weakest}: F1 {interval(score['f1'])} on {score['rows']} rows.",
        f"It knows {len(draft.classes)} classes and answers one of them for any row, also for a row of none.",
    ]
    if few:
        found.append(f"Fewer than {FEW_ROWS} test rows: {_some(few)}; their metrics say little.")
    return found


def _of_numbers(draft: Draft) -> list[str]:
    return [
        f"An answer is called right within {number(draft.quality['tolerance'])} of the truth; how far off the others "
        "are stands under Errors.",
        "It answers a number for any row, also for a row unlike all that it learnt from.",
    ]


def _glance(facts: Facts) -> Table:
    draft, share = facts.draft, results.share_name(facts.draft.task)
    tolerance = draft.quality.get("tolerance")
    margin = f"{draft.gate['margin']:g}" if draft.classes else f"{draft.gate['margin']:.1%} of its mean absolute error"
    promoted = "holds against the baselines" if draft.gate["beats_baselines"] else "does not hold against the baselines"
    rows = [
        ("model", draft.name), ("created", draft.created), ("task", draft.task),
        (share.replace("_", " "), f"{interval(draft.metrics[share])} on {draft.metrics['rows']} test rows"),
        *((f"the same, {name} baseline", interval(found[share])) for name, found in draft.baselines.items()),
        *([] if draft.threshold is None else [(f"says {draft.classes[1]}", f"from {draft.threshold:.4f} on")]),
        ("verdict", promoted),
        ("promotion", f"refused if worse than the champion by more than {margin} at "
                      f"{draft.gate['confidence']:.0%} confidence"),
        *([] if tolerance is None else [("a right answer", f"one within {number(tolerance)} of the truth")]),
        ("someone is paged below", f"{number(draft.quality['floor'])} ({draft.quality['source']})"),
        ("ONNX against PyTorch", f"within {draft.parity['max_difference']:.2g}"),
    ]  # fmt: skip
    return Table(("", ""), tuple(rows))


def _data(draft: Draft) -> tuple[Block, ...]:
    data, spec = draft.data, draft.input
    splits = ", ".join(f"{name} {count}" for name, count in data["splits"].items())
    rows = [
        ("source", data["source"]), ("rows", str(data["rows"])), ("SHA-256", data["digest"]),
        ("splits, by hash of the row", splits),
        ("one row", f"{spec.dtype}, {' x '.join(map(str, spec.shape))}"),
    ]  # fmt: skip
    if spec.columns:
        rows.append(("columns", _some(spec.columns, 40)))
    for column, values in spec.categories.items():
        rows.append((f"values of {column}", _some(values)))
    if spec.fills:
        told = {name: spec.categories[name][int(v)] if name in spec.categories else number(v)
                for name, v in spec.fills.items()}  # fmt: skip
        rows.append(("put into empty cells", ", ".join(f"{name}: {value}" for name, value in told.items())))
    if draft.classes:
        rows.append(("classes", _some(draft.classes, 40)))
        rows.append(("labels replaced at random", f"{data['label_noise']:.0%}"))
    skipped = data.get("skipped", ())
    rows.append(("left out", _some(skipped) or "nothing"))
    return Table(("", ""), tuple(rows)), *_explored(data.get("explore"))


def _explored(found: dict[str, Any] | None) -> tuple[Block, ...]:
    if found is None:
        return ()
    leaks = ", ".join(f"{column} ({score:.3f})" for column, score in found["leaks"].items()) or "none"
    rows = (
        ("rows in two parts", str(found["rows_in_two_parts"])), ("of these dropped", str(found["rows_dropped"])),
        ("columns above the limit", leaks), ("overrides", "; ".join(found["overrides"]) or "none"),
    )  # fmt: skip
    said = "Before training the data was searched for rows in two parts and for columns that tell the answer."
    return Text(said), Table(("", ""), rows)


def _training(fit: Fit) -> tuple[Block, ...]:
    every = -(-len(fit.history) // MOST_CURVE_ROWS)
    shown = [e for e in fit.history if e["epoch"] % every == 0 or e["epoch"] == fit.best_epoch]
    keys = [key for key in fit.history[0] if key.startswith(("train_", "validation_"))]
    rows = [(str(e["epoch"]), f"{e['rate']:.3g}", *(f"{e[key]:.4f}" for key in keys)) for e in shown]
    table = Table(("epoch", "learning rate", *(key.replace("_", " ") for key in keys)), tuple(rows))
    kept = f"the weights of epoch {fit.best_epoch}, with the lowest validation loss, were kept"
    curve = Picture(pictures.curve(fit.history, fit.best_epoch), "Loss and learning rate per epoch.", table)
    said = [Text(f"{outcome.pace(fit.timing)}.")] if fit.timing else []
    return Text(f"{len(fit.history)} epochs, {fit.steps} steps; {kept}."), *said, curve


def _settings(config: dict[str, Any]) -> Table:
    rows = []
    for section, found in config.items():
        inner = found.items() if isinstance(found, dict) else [("", found)]
        rows += [(f"{section}.{key}".rstrip("."), _value(value)) for key, value in inner]
    return Table(("key", "value"), tuple(rows))


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value)) or "none"
    return "none" if value == "" else str(value)


def _parity(draft: Draft) -> tuple[Block, ...]:
    parity = draft.parity
    entries = parity.get("by_provider", [parity])
    lines = [_certificate(entry) for entry in entries]
    header = ("provider, precision", "rows", "batch sizes", "largest difference", "mean", "top class changes")
    versions = [f"{e['provider']}: {_versions(e['versions'])}." for e in entries if "versions" in e]
    return (
        Text("The ONNX file answers what the PyTorch model answered, on rows it was not trained on."),
        *([Text(f"It computes in {draft.precision} and was made from {draft.parent}.")] if draft.parent else []),
        Table(header, tuple(lines)), *(Text(said) for said in versions), *_variants(parity.get("variants")),
    )  # fmt: skip


def _variants(tried: list[dict[str, Any]] | None) -> tuple[Block, ...]:
    if not tried:
        return ()
    said = "What other precisions cost and gain, on the test rows, timed in turns with one thread (medians):"
    return Text(said), results.variants(tried), *(Text(line) for line in results.refusals(tried))


def _certificate(entry: dict[str, Any]) -> tuple[str, ...]:
    name = f"{entry['provider']}, {entry['precision']}"
    if "skipped" in entry:
        return name, f"not run: {entry['skipped']}", "", "", "", ""
    changes = entry["top_class_changes"]
    largest = f"{entry['max_difference']:.3g} (limit {entry['limit']:.3g})"
    return (
        name, str(entry["rows"]), ", ".join(map(str, entry["batch_rows"])), largest,
        f"{entry['mean_difference']:.3g}", "-" if changes is None else str(changes),
    )  # fmt: skip


def _reference(files: Path) -> tuple[Block, ...]:
    found = reference.parse((files / REFERENCE).read_bytes())
    names = [bins.name for bins in found.bins]
    windows = ", ".join(f"{window} {limit:.2f}" for window, limit in found.z_thresholds.items())
    outside = [
        f"{name} {share:.1%}" for name, share in zip(names, found.outside, strict=False) if share >= LEAST_OUTSIDE
    ]
    return (
        Text("What the monitor compares live traffic with: the test rows, cut into bins per signal."),
        Table(("", ""), (
            ("rows", str(found.rows)), ("signals", f"{len(names)}: {_some(names, 40)}"),
            ("alarm above this z, by window", windows), ("and above this PSI", f"{found.psi_floor:g}"),
            ("fewest rows to judge", str(found.min_rows)),
            ("test rows far outside their range, set aside", _some(outside, MOST_NAMES) or "none"),
        )),
        *_shifts(found),
    )  # fmt: skip


def _shifts(found: reference.Reference) -> tuple[Block, ...]:
    if not found.shifts:
        return ()
    shown = {(shift.rows_per_h, shift.window): shift for shift in found.shifts}
    rates = sorted({rate for rate, _ in shown})
    rows = tuple(
        (f"{rate:,}", *(_shift(shown[rate, window]) for window in WINDOWS if (rate, window) in shown)) for rate in rates
    )
    head = ("rows/h", *(name for window, name in WINDOWS.items() if (rates[0], window) in shown))
    return (
        Text(
            "The smallest shift that shows in a full window four times in five: of the share of a class, in points, "
            "and of the mean of a signal, in standard deviations."
        ),
        Table(head, rows),
        *(Text(said) for said in [_sentence(shown)] if said),
    )  # fmt: skip


def _shift(shift: reference.Shift) -> str:
    points = f"{shift.class_points:g} points" if shift.class_points is not None else ""
    deviations = f"{shift.deviations:.2g} sd" if shift.deviations is not None else ""
    return ", ".join(part for part in (points, deviations) if part) or "nothing"


def _sentence(shown: dict[tuple[int, str], reference.Shift]) -> str:
    typical = shown.get((TYPICAL_ROWS_PER_H, "medium"))
    if typical is None or (typical.class_points is None and typical.deviations is None):
        return ""
    if typical.class_points is None:
        change = f"a shift of a signal by {typical.deviations:.2g} standard deviations"
    else:
        change = f"a change of {typical.class_points:g} points in the share of a class"
    return f"With {TYPICAL_ROWS_PER_H} rows/h {change} shows within 24 h."


def _reproduce(draft: Draft) -> tuple[Block, ...]:
    code = draft.code
    said = (
        f"At git commit {code['git_commit']}, with {_versions(code['versions'])}, on data with the SHA-256 "
        f"{draft.data['digest']}. Every random number comes from the seeds above."
    )
    return Code(code["command"]), Text(said)


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _some(names: Any, most: int = MOST_NAMES) -> str:
    shown = ", ".join(map(str, names[:most]))
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
