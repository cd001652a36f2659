"""train(): one TOML file in, one verified release in the store out. Reads top to bottom."""

import json
import platform
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from monitoring import reference
from registry import durable, store
from registry.release import HELDOUT, MODEL, REFERENCE, Draft, InputSpec
from training import baselines, calibration, card, certificate, data, encoding, export, loop, models, split, verdict
from training import config as configuration
from training.config import Config
from training.data import Table
from training.outcome import Outcome
from training.split import Parts

MOST_HELDOUT = 2000
RESUME_SECTIONS = ("data", "split", "augment", "model", "optimizer", "schedule", "loop")

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Task:
    """What is to be learnt, from where; `labels`: of the training rows, noise included."""

    config: Config
    folder: Path
    table: Table
    parts: Parts
    labels: np.ndarray
    command: str

    @property
    def spec(self) -> InputSpec:
        """Return what one raw row looks like."""
        return self.table.spec


@dataclass(frozen=True)
class Trained:
    """A fitted and calibrated classifier, and how it came about."""

    model: models.Classifier
    fit: loop.Fit
    temperature: float


def train(
    config_path: Path, run_folder: Path | None = None, resume: bool = False, progress: Progress | None = None
) -> Outcome:
    """Train what `config_path` describes and publish it; return the results.

    run_folder: for checkpoint, epochs.jsonl and the files of the release; `runs/<name of the TOML
    file>` if None. resume: go on from its checkpoint, bit for bit; without one, start from the
    first step. progress: called with one line per stage.
    Raises a UserError if settings, data, checkpoint or export are refused; nothing is then published.
    """
    started, say = time.monotonic(), progress or (lambda line: None)
    folder = run_folder or Path("runs") / config_path.stem
    folder.mkdir(parents=True, exist_ok=True)
    with durable.locked(folder / "run.lock"), torch.random.fork_rng(devices=[]):
        task = prepare(config_path, run_folder)
        say(f"data: {len(task.table.y)} rows; " + ", ".join(f"{n} {part}" for part, n in task.parts.counts().items()))
        simple = fit_baselines(task)
        say(f"baselines: {', '.join(simple)}")
        trained = fit(task, folder, resume)
        say(f"training: {len(trained.fit.history)} epochs, kept epoch {trained.fit.best_epoch}")
        files = folder / "release"
        shutil.rmtree(files, ignore_errors=True)
        files.mkdir()
        parity = write_model(task, trained.model, files / MODEL)
        say(f"export: agrees within {parity['max_difference']:.2g}")
        test = task.table.x[task.parts.test]
        answers = export.run(export.open_file(files / MODEL), test, 64)[0]
        write_rows(task, answers, files)
        answered = on_test_rows(task, answers, simple, trained.temperature)
        draft = make_draft(task, answered, parity)
        write_card(draft, trained, answered, files)
        release = store.publish(draft, files)
        say(f"published: {release.tag}")
    seconds = round(time.monotonic() - started, 2)
    return Outcome(release.tag, draft.metrics, draft.baselines, parity, draft.gate, seconds, folder)


def prepare(config_path: Path, run_folder: Path | None = None) -> Task:
    """Return the settings, rows and splits that `config_path` describes."""
    config = configuration.load(config_path)
    table = data.load(config.data, config_path.parent)
    parts = split.checked(table, config.split)
    y, key = table.y[parts.train], table.key[parts.train]
    labels = split.noisy_labels(y, key, config.data.label_noise, len(table.classes))
    words = ["vigil", "train", str(config_path), *(["--run-folder", str(run_folder)] if run_folder else [])]
    return Task(config, config_path.parent, table, parts, labels, shlex.join(words))


def fit_baselines(task: Task) -> dict[str, np.ndarray]:
    """Return the probabilities of each baseline on the test rows, trained on the same rows and labels."""
    table, parts = task.table, task.parts
    fitted = baselines.fit(table, parts.train, task.labels)
    return {name: answer(table.x[parts.test]) for name, answer in fitted.items()}


def fit(task: Task, run_folder: Path, resume: bool) -> Trained:
    """Return the network trained on the training rows, its temperature fitted on the validation rows."""
    config, table, parts = task.config, task.table, task.parts
    train_rows = loop.Rows(table.x[parts.train], task.labels)
    validation = loop.Rows(table.x[parts.validation], table.y[parts.validation])
    torch.manual_seed(config.loop.seed)
    body = models.build(config.model, encoding.shape(table.spec), len(table.classes), task.folder)
    model = models.Classifier(body, data.moments(train_rows.x), table.spec)
    settings = {name: config.as_dict()[name] for name in RESUME_SECTIONS} | {"data_digest": table.digest}
    run = loop.Run(run_folder, settings, resume, f"{task.command} --resume")
    fitted = loop.fit(config, model, train_rows, validation, run)
    _, logits = models.predict(model, validation.x)
    temperature = calibration.temperature(logits, validation.y)
    model.temperature.fill_(temperature)
    return Trained(model, fitted, temperature)


def write_model(task: Task, model: models.Classifier, path: Path) -> dict[str, Any]:
    """Write the ONNX file and return its parity certificate on rows the model was not trained on."""
    table, parts = task.table, task.parts
    # Not the commit, which the manifest holds: a commit that changes no weight must change no byte.
    facts = {
        "name": task.config.name, "classes": json.dumps(table.classes), "columns": json.dumps(table.names),
        "data_digest": table.digest,
    }  # fmt: skip
    asked = export.Asked(task.spec, table.classes)
    export.export(model, asked, path, facts)
    held_out = np.concatenate([parts.test, parts.validation])
    limit = certificate.Limit(task.config.export.limit)
    return certificate.certify(model, asked, path, table.x[held_out], limit)


def write_rows(task: Task, probabilities: np.ndarray, files: Path) -> None:
    """Write the drift reference and the held-out rows, from the test rows and what the file answers."""
    table, test = task.table, task.parts.test
    built = reference.build(task.config.reference, task.spec, table.x[test], probabilities)
    (files / REFERENCE).write_bytes(built.to_json())
    # The lowest hashes: two releases that see the same rows keep the same ones, and can be compared.
    kept = np.sort(np.argsort(table.key[test], kind="stable")[:MOST_HELDOUT])
    rows = test[kept]
    np.savez(
        files / HELDOUT, key=table.key[rows], x=table.x[rows], y=table.y[rows],
        probabilities=probabilities[kept].astype(np.float32),
    )  # fmt: skip


def on_test_rows(
    task: Task, answers: np.ndarray, simple: dict[str, np.ndarray], temperature: float
) -> verdict.Answered:
    """Return the test rows with what the exported file and the baselines answered on them."""
    table, test = task.table, task.parts.test
    slices = {column: values[test] for column, values in table.slices.items()}
    return verdict.Answered(table.y[test], table.classes, answers, simple, slices, temperature=temperature)


def make_draft(task: Task, answered: verdict.Answered, parity: dict[str, Any]) -> Draft:
    """Return all that the manifest says."""
    config, table = task.config, task.table
    found = verdict.judge(config, answered)
    return Draft(
        name=config.name, created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), purpose=config.purpose,
        task="classification", input=task.spec, classes=table.classes,
        metrics=found.metrics, baselines=found.baselines, parity=parity, gate=found.gate, quality=found.quality,
        data=_data_facts(task), config=config.as_dict(), code=_code_facts(task.command),
    )  # fmt: skip


def write_card(draft: Draft, trained: Trained, answered: verdict.Answered, files: Path) -> None:
    """Write card.md and card.html."""
    facts = card.Facts(
        draft, answered, str(trained.model.body), models.parameter_count(trained.model), trained.fit, files
    )  # fmt: skip
    (files / "card.md").write_text(card.markdown(facts), encoding="utf-8")
    (files / "card.html").write_text(card.html(facts), encoding="utf-8")


def git_commit() -> str:
    """Return the commit of this code, "-dirty" added if files were changed; "unknown" outside git."""
    words = ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(words, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return done.stdout.strip()


def _data_facts(task: Task) -> dict[str, Any]:
    settings = task.config.data
    return {
        "source": settings.path or settings.source, "digest": task.table.digest, "rows": len(task.table.y),
        "splits": task.parts.counts(), "first_rows": settings.first_rows, "label_noise": settings.label_noise,
        "labels_changed": int((task.labels != task.table.y[task.parts.train]).sum()),
    }  # fmt: skip


def _code_facts(command: str) -> dict[str, Any]:
    import sklearn

    versions = {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scikit-learn": sklearn.__version__,
    }
    return {"git_commit": git_commit(), "command": command, "versions": versions | export.versions()}
