"""The model card: what a release is for, how it was made, how good it is and where that ends."""

from dataclasses import dataclass
from typing import Any

from registry.release import Draft
from training import calibration, document, pictures
from training.document import Code, Picture, Section, Table, Text
from training.verdict import Answered

HEADLINES = ("accuracy", "balanced_accuracy", "log_loss", "brier", "ece", "roc_auc")
MOST_CURVE_ROWS = 12


@dataclass(frozen=True)
class Facts:
    """What the card says beyond the manifest; answered: on the test rows."""

    draft: Draft
    answered: Answered
    architecture: str
    parameters: int
    history: list[dict[str, float]]
    best_epoch: int


def sections(facts: Facts) -> list[Section]:
    """Return the content of the card."""
    draft = facts.draft
    return [
        Section("Purpose", (Text(draft.purpose or "None was stated: set `purpose` in the TOML file."),)),
        Section("Data", (_data(draft),)),
        Section("Results", _results(draft)),
        Section("Confusion matrix", (_confusion(draft),)),
        Section("Calibration", _calibration(facts)),
        Section("Training", _training(facts)),
        Section("Hyper-parameters", (_settings(draft.config),)),
        Section("Architecture", (Text(f"{facts.parameters:,} trained parameters."), Code(facts.architecture))),
        Section("Limits", tuple(Text(limit) for limit in limits(draft))),
        Section("Parity certificate", _parity(draft.parity)),
        Section("Reproduce", _reproduce(draft.code)),
    ]


def markdown(facts: Facts) -> str:
    """Return the card as Markdown."""
    return document.markdown(f"Model card: {facts.draft.name}", sections(facts))


def html(facts: Facts) -> str:
    """Return the card as one HTML file with its pictures inside."""
    return document.html(f"Model card: {facts.draft.name}", sections(facts))


def results_table(metrics: dict[str, Any], baselines: dict[str, Any]) -> Table:
    """Return the model and every baseline in one table, each number with its 95 % interval."""
    rows = [("model", metrics), *baselines.items()]
    lines = [(name, *(interval(found.get(metric)) for metric in HEADLINES)) for name, found in rows]
    return Table(("", *(metric.replace("_", " ") for metric in HEADLINES)), tuple(lines))


def interval(found: dict[str, float] | None) -> str:
    """Return "0.971 (0.947-0.985)", or "-" where nothing was measured."""
    return f"{found['value']:.3f} ({found['lower']:.3f}-{found['upper']:.3f})" if found else "-"


def limits(draft: Draft) -> list[str]:
    """Return where the numbers of this card end, each as a sentence."""
    rows, accuracy = draft.metrics["rows"], draft.metrics["accuracy"]
    weakest, score = min(draft.metrics["per_class"].items(), key=lambda item: item[1]["f1"]["value"])
    found = [
        f"Measured on {rows} rows held out of the same source: accuracy lies between "
        f"{accuracy['lower']:.3f} and {accuracy['upper']:.3f}; traffic from elsewhere (other "
        "writers, devices, sites) can score lower.",
        f"The weakest class is {weakest}: F1 {interval(score['f1'])} on {score['rows']} rows.",
        f"It knows {len(draft.classes)} classes and answers one of them for any row, also for a row of none.",
    ]
    if draft.data["label_noise"]:
        found.append(f"{draft.data['label_noise']:.0%} of the training labels were replaced at random, on purpose.")
    if not draft.gate["beats_baselines"]:
        found.append("It does not hold against the baselines; promotion refuses it.")
    return found


def _data(draft: Draft) -> Table:
    splits = ", ".join(f"{name} {count}" for name, count in draft.data["splits"].items())
    shape = " x ".join(map(str, draft.input.shape))
    return Table(("", ""), (
        ("source", draft.data["source"]), ("rows", str(draft.data["rows"])),
        ("SHA-256", draft.data["digest"]),
        ("splits, by hash of the row", splits), ("one row", f"{draft.input.dtype}, {shape}"),
        ("classes", ", ".join(draft.classes)),
        ("labels replaced at random", f"{draft.data['label_noise']:.0%}"),
    ))  # fmt: skip


def _results(draft: Draft) -> tuple[document.Block, ...]:
    said = f"On {draft.metrics['rows']} test rows, with 95 % intervals (Wilson for accuracy, else bootstrap)."
    lines = [
        (name, *(interval(found[key]) for key in ("precision", "recall", "f1")), str(found["rows"]))
        for name, found in draft.metrics["per_class"].items()
    ]
    table = Table(("class", "precision", "recall", "F1", "rows"), tuple(lines))
    return Text(said), results_table(draft.metrics, draft.baselines), table


def _confusion(draft: Draft) -> Picture:
    matrix = draft.metrics["confusion"]
    rows = [(name, *map(str, counts)) for name, counts in zip(draft.classes, matrix, strict=True)]
    table = Table(("true \\ predicted", *draft.classes), tuple(rows))
    return Picture(pictures.confusion(matrix, draft.classes), "Test rows: true class by predicted class.", table)


def _calibration(facts: Facts) -> tuple[document.Block, ...]:
    said = (
        f"Logits are divided by the temperature {facts.answered.temperature:.3f}, fitted on the validation rows. "
        f"Expected calibration error on the test rows: {interval(facts.draft.metrics['ece'])}."
    )
    bins = calibration.reliability(facts.answered.y, facts.answered.model)
    rows = [(f"{b['confidence']:.3f}", f"{b['accuracy']:.3f}", f"{b['rows']}") for b in bins]
    table = Table(("mean confidence", "accuracy", "rows"), tuple(rows))
    return Text(said), Picture(pictures.reliability(bins), "Confidence and accuracy per bin.", table)


def _training(facts: Facts) -> tuple[document.Block, ...]:
    every = -(-len(facts.history) // MOST_CURVE_ROWS)
    shown = [e for e in facts.history if e["epoch"] % every == 0 or e["epoch"] == facts.best_epoch]
    keys = ("train_loss", "validation_loss", "validation_accuracy")
    rows = [(str(e["epoch"]), *(f"{e[key]:.4f}" for key in keys)) for e in shown]
    table = Table(("epoch", *(key.replace("_", " ") for key in keys)), tuple(rows))
    kept = f"the weights of epoch {facts.best_epoch}, with the lowest validation loss, were kept"
    curve = Picture(pictures.curve(facts.history, facts.best_epoch), "Loss per epoch.", table)
    return Text(f"{len(facts.history)} epochs; {kept}."), curve


def _settings(config: dict[str, Any]) -> Table:
    rows = []
    for section, found in config.items():
        inner = found.items() if isinstance(found, dict) else [("", found)]
        rows += [(f"{section}.{key}".rstrip("."), str(value)) for key, value in inner]
    return Table(("key", "value"), tuple(rows))


def _parity(parity: dict[str, Any]) -> tuple[document.Block, ...]:
    versions = ", ".join(f"{name} {version}" for name, version in parity["versions"].items())
    return (
        Text("The ONNX file answers what the PyTorch model answered, on held-out rows."),
        Table(("", ""), (
            ("provider, precision", f"{parity['provider']}, {parity['precision']}"),
            ("rows", str(parity["rows"])),
            ("batch sizes", ", ".join(map(str, parity["batch_rows"]))),
            ("largest difference", f"{parity['max_difference']:.3g} (limit {parity['limit']:.3g})"),
            ("mean difference", f"{parity['mean_difference']:.3g}"),
            ("top class changes", str(parity["top_class_changes"])), ("versions", versions),
        )),
    )  # fmt: skip


def _reproduce(code: dict[str, Any]) -> tuple[document.Block, ...]:
    versions = ", ".join(f"{name} {version}" for name, version in code["versions"].items())
    return Code(code["command"]), Text(f"At git commit {code['git_commit']}, with {versions}.")
