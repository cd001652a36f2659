"""A trained model -> the files of its release, and the release in the store."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from monitoring.judge import slices
from monitoring.judge.estimates import Estimation
from monitoring.shift import reference
from monitoring.shift.support import MOST_ROWS, Support
from registry import store
from registry.release import HELDOUT, OUTPUTS, REFERENCE, Draft, Release
from training import provenance
from training.export import certificate, export, variants
from training.export.variants import Variant
from training.fit import models
from training.judge import verdict
from training.learn import Trained
from training.pages import card
from training.task import Task

MOST_HELDOUT = 2000


def asked(task: Task, model: models.Trainable) -> export.Asked:
    """Return what the exported file must look like from outside."""
    unit = float(model.scale) if isinstance(model, models.Regressor) else 1.0
    width = models.embedding_width(model, task.table.x[task.parts.validation[:2]])
    return export.Asked(task.table.spec, task.table.classes, task.table.task, unit, width)


def write_model(task: Task, model: models.Trainable, path: Path) -> Variant:
    """Write the ONNX file; return it with its parity certificate on rows the model was not trained on."""
    table, parts = task.table, task.parts
    # Not the commit, which the manifest holds: a commit that changes no weight must change no byte.
    facts = {
        "name": task.config.name, "classes": json.dumps(table.classes), "columns": json.dumps(table.names),
        "data_digest": table.digest,
    }  # fmt: skip
    wanted = asked(task, model)
    export.export(model, wanted, path, facts)
    held_out = np.concatenate([parts.test, parts.validation])[: certificate.MOST_ROWS]
    limit = certificate.Limit(task.config.export.limit)
    parity = certificate.certify(model, wanted, path, table.x[held_out], limit)
    answers, *more = export.run(export.open_file(path), table.x[parts.test], 64)
    return Variant("fp32", path, parity, answers, variants.embedded(wanted, more))


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
    write_rows(task, answered, files, file.embedded)
    draft = replace(make_draft(task, answered, file.parity), precision=file.precision, parent=parent)
    write_card(draft, trained, answered, files)
    return draft, store.publish(draft, files)


def write_rows(task: Task, answered: verdict.Answered, files: Path, embedded: np.ndarray | None = None) -> None:
    """Write the drift reference and the held-out rows, from the test rows and what the file answers.

    embedded: of the test rows, (n, width), where the file gives it out.
    """
    table, test, answers = task.table, task.parts.test, answered.model
    train = task.parts.train
    seen = Support.of(table.x[train[:: -(-len(train) // MOST_ROWS)]])
    named = tuple(map(str, table.classes))
    held = reference.HeldOut(table.spec, table.x[test], answers, answered.threshold, seen, named, embedded)
    built = reference.build(task.config.reference, held)
    estimation = Estimation.fit(answers, table.y[test], answered.threshold) if table.classes else None
    (files / REFERENCE).write_bytes(replace(built, estimation=estimation).to_json())
    # The lowest hashes: two releases that see the same rows keep the same ones, and can be compared.
    kept = np.sort(np.argsort(table.key[test], kind="stable")[:MOST_HELDOUT])
    rows = test[kept]
    recorded = {OUTPUTS[table.task]: answers[kept].astype(np.float32)}
    np.savez(files / HELDOUT, key=table.key[rows], x=table.x[rows], y=table.y[rows], **recorded)  # type: ignore[arg-type]


def on_test_rows(task: Task, answers: np.ndarray, simple: dict[str, np.ndarray], trained: Trained) -> verdict.Answered:
    """Return the test rows with what the exported file and the baselines answered on them."""
    table, test = task.table, task.parts.test
    apart = {column: values[test] for column, values in table.slices.items()}
    return verdict.Answered(
        table.y[test], table.classes, answers, simple, apart, trained.threshold, trained.temperature
    )


def make_draft(task: Task, answered: verdict.Answered, parity: dict[str, Any]) -> Draft:
    """Return all that the manifest says."""
    config, table = task.config, task.table
    found = verdict.judge(config, answered)
    quality = found.quality | ({"slices": live_slices(task, answered, found.quality)} if config.quality.slices else {})
    return Draft(
        name=config.name, created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"), purpose=config.purpose,
        task=table.task, input=table.spec, classes=table.classes,
        metrics=found.metrics, baselines=found.baselines, parity=parity, gate=found.gate, quality=quality,
        data=provenance.of_data(config.data, table, task.parts, task.labels) | {"explore": task.checks},
        config=config.as_dict(), code=provenance.of_code(task.order.command), threshold=answered.threshold,
    )  # fmt: skip


def live_slices(task: Task, answered: verdict.Answered, quality: dict[str, Any]) -> list[dict[str, Any]]:
    """Return by what live traffic is measured in parts, and the floor of each part, from the test rows."""
    rows, right = task.table.x[task.parts.test], verdict.right(answered, quality.get("tolerance"))
    return slices.to_manifest(slices.fit(task.config.quality.slices, task.table.spec, rows, right, quality["floor"]))


def write_card(draft: Draft, trained: Trained, answered: verdict.Answered, files: Path) -> None:
    """Write card.md and card.html."""
    facts = card.Facts(
        draft, answered, str(trained.model.body), models.parameter_count(trained.model), trained.fit, files
    )  # fmt: skip
    (files / "card.md").write_text(card.markdown(facts), encoding="utf-8")
    (files / "card.html").write_text(card.html(facts), encoding="utf-8")
