"""train(): one TOML file in, one verified release in the store out. Reads top to bottom."""

import json
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monitoring import reference
from registry import durable, store
from registry.errors import UserError
from registry.release import HELDOUT, MODEL, OUTPUTS, REFERENCE, Draft, Release
from training import (
    baselines,
    calibration,
    card,
    certificate,
    data,
    distributed,
    encoding,
    explore,
    export,
    follow,
    loop,
    models,
    provenance,
    split,
    step,
    threshold,
    variants,
    verdict,
)  # fmt: skip
from training import config as configuration
from training.config import Config
from training.data import Table
from training.distributed import World
from training.outcome import Outcome
from training.split import Parts
from training.variants import Variant

MOST_HELDOUT = 2000
RESUME_SECTIONS = ("task", "data", "split", "explore", "augment", "model", "optimizer", "schedule", "loop")

Progress = Callable[[str], None]
Follow = Callable[[dict[str, float]], None]


class BusyError(UserError):
    """Another run works in the folder."""


@dataclass(frozen=True)
class Order:
    """What is asked of a run.

    run_folder: for checkpoint, epochs.jsonl and the files of the release; None: `runs/<name of the TOML file>`.
    resume: go on from its checkpoint, bit for bit; without one, start from the first step.
    overrides: see config.load. again: the words that go on with it once it was stopped; "": `vigil train ... --resume`.
    """

    config_path: Path
    run_folder: Path | None = None
    resume: bool = False
    overrides: Mapping[str, Any] | None = None
    again: str = ""

    @property
    def folder(self) -> Path:
        """Return where the run keeps its files."""
        return self.run_folder or Path("runs") / self.config_path.stem

    @property
    def command(self) -> str:
        """Return the words that ask for the same run again."""
        return self.words("train")

    def words(self, verb: str) -> str:
        """Return the command line that asks for `verb` with this order."""
        words = [*distributed.words(), verb, str(self.config_path)]
        words += ["--run-folder", str(self.run_folder)] if self.run_folder else []
        for key, value in (self.overrides or {}).items():
            words += ["--data", str(value)] if key == "data.path" else ["--set", f"{key}={json.dumps(value)}"]
        return shlex.join(words)


@dataclass(frozen=True)
class Task:
    """What is to be learnt, from where; `labels`: of the training rows, noise included; `checks`: see explore."""

    config: Config
    order: Order
    table: Table
    parts: Parts
    labels: np.ndarray
    checks: dict[str, Any]


@dataclass(frozen=True)
class Trained:
    """A fitted and calibrated model, and how it came about; threshold: see Draft."""

    model: models.Trainable
    fit: loop.Fit
    temperature: float = 1.0
    threshold: float | None = None


def train(
    config_path: Path, run_folder: Path | None = None, resume: bool = False, progress: Progress | None = None
) -> Outcome:
    """Carry out an Order of these words."""
    return carry_out(Order(config_path, run_folder, resume), progress or (lambda line: None))


def carry_out(order: Order, say: Progress) -> Outcome:
    """Train what is ordered and publish it; return the results. say: called with one line per stage.

    Raises a UserError if settings, data, checkpoint or export are refused; nothing is then published.
    """
    started = time.monotonic()
    with _alone(order.folder), torch.random.fork_rng(devices=[]):
        task, simple, trained = _learn(order, say)
        files = order.folder / "release"
        shutil.rmtree(files, ignore_errors=True)
        files.mkdir()
        full = write_model(task, trained.model, files / MODEL)
        say(f"export: agrees within {full.parity['max_difference']:.2g}")
        made = make_variants(task, trained, full)
        full, *accepted = (replace(one, parity=one.parity | {"variants": made.table}) for one in (full, *made.accepted))
        draft, release = publish(task, simple, trained, full)
        say(f"published: {release.tag}")
        others = [publish(task, simple, trained, variant, release.tag)[1].tag for variant in accepted]
        for tag in others:
            say(f"published: {tag}")
    seconds = round(time.monotonic() - started, 2)
    return Outcome(
        release.tag, draft.metrics, draft.baselines, draft.parity, draft.gate, seconds, order.folder,
        trained.fit.timing, others,
    )  # fmt: skip


def assist(order: Order) -> int:
    """Compute this process's share of the training that process 0 leads in `train`; writes and says nothing.

    Returns the exit status, 0.
    """
    with _joined(order) as world:
        world.wait()  # process 0 first: what it caches of the data is then there
        fit(prepare(order), world)
    return 0


def prepare(order: Order) -> Task:
    """Return the settings, rows and splits that are asked for, the rows checked as `config.explore` demands."""
    config = configuration.load(order.config_path, order.overrides)
    table = data.load(config.data, order.config_path.parent, config.task)
    return deal(config, order, table, split.checked(table, config.split))


def deal(config: Config, order: Order, table: Table, parts: Parts) -> Task:
    """Return `prepare` of rows that are loaded and dealt already."""
    demanded = explore.demand(table, parts, config)
    parts = demanded.parts
    labels = table.y[parts.train]
    if config.data.label_noise:
        labels = split.noisy_labels(labels, table.key[parts.train], config.data.label_noise, len(table.classes))
    return Task(config, order, table, parts, labels, demanded.facts)


def fit_baselines(task: Task) -> dict[str, np.ndarray]:
    """Return what each baseline answers on the test rows, trained on the same rows and labels as the network."""
    table, parts = task.table, task.parts
    fitted = baselines.fit(table, parts.train, task.labels)
    return {name: answer(table.x[parts.test]) for name, answer in fitted.items()}


def fit(task: Task, world: World, follow: Follow = lambda entry: None) -> Trained:
    """Return the network trained on the training rows, calibrated on the validation rows; follow: see loop.Run."""
    config, order, table, parts = task.config, task.order, task.table, task.parts
    train_rows = loop.Rows(table.x[parts.train], task.labels)
    validation = loop.Rows(table.x[parts.validation], table.y[parts.validation])
    model = network(task, train_rows)
    again = order.again or f"{order.command} --resume"
    run = loop.Run(order.folder, resume_settings(task, world), order.resume, again, world, follow)
    fitted = loop.fit(config, model, train_rows, validation, run)
    if isinstance(model, models.Regressor):
        return Trained(model, fitted)
    _, logits = models.predict(model, validation.x)
    model.temperature.fill_(calibration.temperature(logits, validation.y))
    probabilities, _ = models.predict(model, validation.x)
    cut = threshold.choose(config.evaluate.threshold, validation.y, probabilities)
    return Trained(model, fitted, float(model.temperature), cut)


def network(task: Task, train_rows: loop.Rows) -> models.Trainable:
    """Return the untrained model that the settings describe, the same in every process."""
    config, table = task.config, task.table
    torch.manual_seed(config.loop.seed)
    body = models.build(
        config.model, encoding.shape(table.spec), max(1, len(table.classes)), task.order.config_path.parent
    )
    moments = data.moments(train_rows.x)
    if table.classes:
        return models.Classifier(body, moments, table.spec)
    return models.Regressor(body, moments, (float(task.labels.mean()), float(task.labels.std())), table.spec)


def resume_settings(task: Task, world: World) -> dict[str, Any]:
    """Return what a resumed run must share with the run that it goes on with, to end with the same bits."""
    said = task.config.as_dict()
    settings = {name: said[name] for name in RESUME_SECTIONS}
    settings["data"] = said["data"] | {"path": ""}  # the digest says which rows; they may have moved
    return settings | {"data_digest": task.table.digest, "processes": world.size}


def asked(task: Task, model: models.Trainable) -> export.Asked:
    """Return what the exported file must look like from outside."""
    unit = float(model.scale) if isinstance(model, models.Regressor) else 1.0
    return export.Asked(task.table.spec, task.table.classes, task.table.task, unit)


def write_model(task: Task, model: models.Trainable, path: Path) -> Variant:
    """Write the ONNX file; return it with its parity certificate on rows the model was not trained on."""
    table, parts = task.table, task.parts
    # Not the commit, which the manifest holds: a commit that changes no weight must change no byte.
    facts = {
        "name": task.config.name, "classes": json.dumps(table.classes), "columns": json.dumps(table.names),
        "data_digest": table.digest,
    }  # fmt: skip
    export.export(model, asked(task, model), path, facts)
    held_out = np.concatenate([parts.test, parts.validation])[: certificate.MOST_ROWS]
    limit = certificate.Limit(task.config.export.limit)
    parity = certificate.certify(model, asked(task, model), path, table.x[held_out], limit)
    return Variant("fp32", path, parity, export.run(export.open_file(path), table.x[parts.test], 64)[0])


def make_variants(task: Task, trained: Trained, full: Variant) -> variants.Made:
    """Return what came of the other precisions that the settings ask for, judged on the test rows."""
    table, parts = task.table, task.parts
    source = variants.Source(trained.model, asked(task, trained.model), full)
    rows = variants.Rows(table.x[parts.validation], table.x[parts.test], table.y[parts.test], trained.threshold)
    return variants.make(task.config, source, rows, task.order.folder)


def publish(
    task: Task, simple: dict[str, np.ndarray], trained: Trained, file: Variant, parent: str | None = None
) -> tuple[Draft, Release]:
    """Return the release of an exported file and its draft; parent: of a variant, the tag of the release in fp32."""
    files = file.path.parent
    answered = on_test_rows(task, file.answers, simple, trained)
    write_rows(task, answered, files)
    draft = replace(make_draft(task, answered, file.parity), precision=file.precision, parent=parent)
    write_card(draft, trained, answered, files)
    return draft, store.publish(draft, files)


def write_rows(task: Task, answered: verdict.Answered, files: Path) -> None:
    """Write the drift reference and the held-out rows, from the test rows and what the file answers."""
    table, test, answers = task.table, task.parts.test, answered.model
    built = reference.build(task.config.reference, table.spec, table.x[test], answers, answered.threshold)
    (files / REFERENCE).write_bytes(built.to_json())
    # The lowest hashes: two releases that see the same rows keep the same ones, and can be compared.
    kept = np.sort(np.argsort(table.key[test], kind="stable")[:MOST_HELDOUT])
    rows = test[kept]
    recorded = {OUTPUTS[table.task]: answers[kept].astype(np.float32)}
    np.savez(files / HELDOUT, key=table.key[rows], x=table.x[rows], y=table.y[rows], **recorded)  # type: ignore[arg-type]


def on_test_rows(task: Task, answers: np.ndarray, simple: dict[str, np.ndarray], trained: Trained) -> verdict.Answered:
    """Return the test rows with what the exported file and the baselines answered on them."""
    table, test = task.table, task.parts.test
    slices = {column: values[test] for column, values in table.slices.items()}
    return verdict.Answered(
        table.y[test], table.classes, answers, simple, slices, trained.threshold, trained.temperature
    )


def make_draft(task: Task, answered: verdict.Answered, parity: dict[str, Any]) -> Draft:
    """Return all that the manifest says."""
    config, table = task.config, task.table
    found = verdict.judge(config, answered)
    return Draft(
        name=config.name, created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), purpose=config.purpose,
        task=table.task, input=table.spec, classes=table.classes,
        metrics=found.metrics, baselines=found.baselines, parity=parity, gate=found.gate, quality=found.quality,
        data=provenance.of_data(config.data, table, task.parts, task.labels) | {"explore": task.checks},
        config=config.as_dict(), code=provenance.of_code(task.order.command), threshold=answered.threshold,
    )  # fmt: skip


def write_card(draft: Draft, trained: Trained, answered: verdict.Answered, files: Path) -> None:
    """Write card.md and card.html."""
    facts = card.Facts(
        draft, answered, str(trained.model.body), models.parameter_count(trained.model), trained.fit, files
    )  # fmt: skip
    (files / "card.md").write_text(card.markdown(facts), encoding="utf-8")
    (files / "card.html").write_text(card.html(facts), encoding="utf-8")


def _learn(order: Order, say: Progress) -> tuple[Task, dict[str, np.ndarray], Trained]:
    with _joined(order) as world:
        task = prepare(order)
        world.wait()
        counts = ", ".join(f"{count} {part}" for part, count in task.parts.counts().items())
        skipped = f"; {len(task.table.skipped)} files could not be read" if task.table.skipped else ""
        say(f"data: {len(task.table.y)} rows; {counts}{skipped}")
        simple = fit_baselines(task)
        say(f"baselines: {', '.join(simple)}")
        with follow.followers(task.config, order.folder, order.resume) as tell:
            trained = fit(task, world, tell)
        say(f"training: {len(trained.fit.history)} epochs, kept epoch {trained.fit.best_epoch}")
    return task, simple, trained


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    with ExitStack() as held:
        try:
            held.enter_context(durable.locked(folder / "run.lock", wait=False))
        except BlockingIOError:
            raise BusyError(
                f"{folder}: another run is at work in this folder; wait for its end, or give another with --run-folder"
            ) from None
        yield


def _joined(order: Order) -> AbstractContextManager[World]:
    config = configuration.load(order.config_path, order.overrides)
    return distributed.joined(step.device(config.loop).type)
