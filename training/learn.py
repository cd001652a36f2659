"""A task -> baselines, and a network that was fitted and calibrated."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from training.fit import baselines, loop, models
from training.fit.distributed import World
from training.judge import calibration, threshold
from training.rows import data, encoding
from training.task import Task, resume_settings

Follow = Callable[[dict[str, float]], None]


@dataclass(frozen=True)
class Trained:
    """A fitted and calibrated model, and how it came about; threshold: see Draft."""

    model: models.Trainable
    fit: loop.Fit
    temperature: float = 1.0
    threshold: float | None = None


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
    run = loop.Run(order.folder, resume_settings(task, world), order.resume, order.goes_on, world, follow)
    fitted = loop.fit(config, model, train_rows, validation, run)
    if isinstance(model, models.Regressor):
        return Trained(model, fitted)
    with loop.reproducible(config.loop.threads):  # the temperature is part of the exported file, to the bit
        logits = models.predict(model, validation.x)[1]
        model.temperature.fill_(calibration.temperature(logits, validation.y))
        probabilities = models.predict(model, validation.x)[0]
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
