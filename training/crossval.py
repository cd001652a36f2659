"""K-fold cross-validation: the configured model is trained k times, and each row is held out once."""

import io
import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from registry import durable
from registry.errors import CheckpointError, ConfigError
from training import config as configuration
from training.config import Config
from training.fit import checkpoint, distributed, models, stop
from training.fit.distributed import World
from training.judge import evaluate, intervals, regression
from training.learn import fit, fit_baselines
from training.pages import document, results, spread
from training.rows import data, split
from training.rows.data import Table
from training.rows.split import Parts
from training.task import Order, Progress, alone, deal, resume_settings

ANSWERS, PAGE = "answers.npz", "crossval.html"
FEWEST, MOST = 2, 50
LOWER_IS_BETTER = ("log_loss", "brier", "ece", "mae", "rmse")


@dataclass(frozen=True)
class Answers:
    """What was answered on the rows of one fold. answers: by "model" or name of a baseline; threshold: see Draft."""

    y: np.ndarray
    answers: dict[str, np.ndarray]
    threshold: float | None


@dataclass(frozen=True)
class Crossval:
    """What cross-validation came to.

    scores: metric -> "model" or name of a baseline -> its value in each fold. pooled: share of right answers of
    the model over all rows, each answered by the model that had not seen it. fold_rows: held out in each fold.
    """

    name: str
    fold_rows: list[int]
    scores: dict[str, dict[str, list[float]]]
    pooled: dict[str, float]
    pooled_metric: str
    seconds: float
    run_folder: Path

    @property
    def page(self) -> Path:
        """Return where the pictures are."""
        return self.run_folder / PAGE


def crossval(order: Order, count: int, say: Progress) -> Crossval:
    """Train the model of `order` on `count` folds and return what each one scores on the rows it did not see.

    A fold holds the rows (groups) whose hash says so: copies of a row share a fold. The other rows are dealt to
    training and validation in the proportion of their shares. Rows of a given test set are left out. With
    `order.resume` finished folds are taken from the run folder, and a stopped one goes on.
    Raises a UserError as `run.carry_out` does; ConfigError for a count that cannot be.
    """
    started = time.monotonic()
    distributed.demand_one("crossval")
    if not FEWEST <= count <= MOST:
        raise ConfigError(f"--folds {count}: accepted is {FEWEST} to {MOST}")
    folder = order.run_folder or Path("runs") / f"{order.config_path.stem}-crossval"
    words = f"{replace(order, run_folder=folder).words('crossval')} --folds {count} --resume"
    config = configuration.load(order.config_path, order.overrides)
    with alone(folder), stop.told(words), torch.random.fork_rng(devices=[]):
        table = data.load(config.data, order.config_path.parent, config.task)
        found = []
        for number in range(count):
            fold = replace(order, run_folder=folder / f"fold-{number}", again=words)
            found.append(_fold(config, fold, table, parts_of(table, config, count, number)))
            say(f"fold {number + 1} of {count}: {len(found[-1].y)} rows held out")
    scores, pooled = judge(config, found)
    seconds = round(time.monotonic() - started, 2)
    metric = results.share_name(config.task)
    done = Crossval(config.name, [len(one.y) for one in found], scores, pooled, metric, seconds, folder)
    durable.write_atomically(done.page, as_html(done).encode())
    return done


def parts_of(table: Table, config: Config, count: int, number: int) -> Parts:
    """Return the parts of one fold: its rows are the test rows, and those of a given test set are in no part."""
    held = split.folds(table.unit, count, config.split.seed) == number
    parts = split.deal(table.unit, config.split, held)
    if table.given_test is not None:
        parts = Parts(*(rows[~table.given_test[rows]] for rows in (parts.train, parts.validation, parts.test)))
    split.check(table, parts)
    return parts


def judge(config: Config, folds: list[Answers]) -> tuple[dict[str, dict[str, list[float]]], dict[str, float]]:
    """Return the scores and the pooled share of right answers; see Crossval."""
    y = np.concatenate([fold.y for fold in folds])
    model = np.concatenate([fold.answers["model"] for fold in folds])
    if config.task == "regression":
        tolerance = regression.tolerance(config.quality.tolerance, y, model)
        measured = [_each(fold, lambda y, p: regression.values(y, p, tolerance)) for fold in folds]
        right = np.abs(regression.errors(y, model)) <= tolerance
    else:
        measured = [_each(fold, lambda y, p, cut=fold.threshold: evaluate.values(y, p, cut)) for fold in folds]
        right = np.concatenate([evaluate.decide(f.answers["model"], f.threshold) == f.y for f in folds])
    scores = {
        metric: {name: [one[name][metric] for one in measured] for name in folds[0].answers}
        for metric in results.headlines(config.task)
    }
    return scores, intervals.share(int(right.sum()), len(y))


def table_of(found: Crossval) -> document.Table:
    """Return a row per metric: mean and standard deviation over the folds, and in how many the model leads linear."""
    names = list(next(iter(found.scores.values())))
    rows = []
    for metric, scores in found.scores.items():
        sign = -1 if metric in LOWER_IS_BETTER else 1
        ahead = sum(sign * (a - b) > 0 for a, b in zip(scores["model"], scores["linear"], strict=True))
        rows.append(
            (metric.replace("_", " "), *(_spread(scores[name]) for name in names), f"{ahead} of {len(found.fold_rows)}")
        )
    return document.Table(("", *names, "folds ahead of linear"), tuple(rows))


def as_text(found: Crossval) -> str:
    """Return the scores as a table, and what they stand for."""
    return "\n".join([
        *document.plain(table_of(found)), "", *_meaning(found),
        f"{found.seconds:.1f} s; the runs are in {found.run_folder}, each fold as a picture in {found.page}",
    ])  # fmt: skip


def as_html(found: Crossval) -> str:
    """Return a page with a picture of each metric: every fold, mean and standard deviation, beside the baselines."""
    pictures = []
    for metric, scores in found.scores.items():
        name = metric.replace("_", " ")
        better = "lower" if metric in LOWER_IS_BETTER else "higher"
        pictures.append(document.Picture(spread.folds(name, scores), f"{name}: {better} is better", None))
    said = tuple(document.Text(line) for line in _meaning(found))
    return document.html(
        f"Cross-validation of {found.name}",
        [document.Section("Summary", (table_of(found), *said)), document.Section("Each fold", tuple(pictures))],
    )


def _meaning(found: Crossval) -> tuple[str, str]:
    return (
        f"mean and standard deviation over {len(found.fold_rows)} folds of {min(found.fold_rows)} to "
        f"{max(found.fold_rows)} rows; folds share training rows, so this is no standard error",
        f"over all {sum(found.fold_rows)} rows, each answered by a model that had not seen it: "
        f"{found.pooled_metric.replace('_', ' ')} {results.interval(found.pooled)}",
    )


def as_json(found: Crossval) -> str:
    """Return everything as one JSON object on one line, with mean and standard deviation of each score."""
    summary = {
        metric: {name: {"mean": _mean(values), "deviation": _deviation(values)} for name, values in scores.items()}
        for metric, scores in found.scores.items()
    }
    said: dict[str, Any] = asdict(found) | {"run_folder": str(found.run_folder), "page": str(found.page)}
    said["summary"] = summary
    return json.dumps(said, allow_nan=False)


def _fold(config: Config, order: Order, table: Table, parts: Parts) -> Answers:
    task = deal(config, order, table, parts)
    settings = resume_settings(task, World()) | {"evaluate": asdict(config.evaluate), "rows": task.parts.counts()}
    path = order.folder / ANSWERS
    if order.resume and path.exists():
        return _load(path, settings)
    path.unlink(missing_ok=True)
    order.folder.mkdir(parents=True, exist_ok=True)
    simple = fit_baselines(task)
    trained = fit(task, World())
    x, y = task.table.x[task.parts.test], task.table.y[task.parts.test]
    found = Answers(y, {"model": models.predict(trained.model, x)[0], **simple}, trained.threshold)
    _save(path, found, settings)
    return found


def _save(path: Path, found: Answers, settings: Mapping[str, Any]) -> None:
    buffer = io.BytesIO()
    said = json.dumps({"settings": settings, "threshold": found.threshold}, sort_keys=True)
    np.savez(buffer, y=found.y, said=np.array(said), **{f"answers_{n}": a for n, a in found.answers.items()})  # type: ignore[arg-type]
    durable.write_atomically(path, buffer.getvalue())


def _load(path: Path, settings: Mapping[str, Any]) -> Answers:
    with np.load(path, allow_pickle=False) as held:
        said = json.loads(str(held["said"]))
        answers = {name.removeprefix("answers_"): held[name] for name in held.files if name.startswith("answers_")}
        found = Answers(held["y"], answers, said["threshold"])
    now = json.loads(json.dumps(settings))  # tuples have become lists in the file
    if different := checkpoint.differences(said["settings"], now):
        raise CheckpointError(
            f"{path}: written under other settings or data: {'; '.join(different)}; "
            "put them back, or cross-validate without --resume"
        )
    return found


def _each(fold: Answers, measure: Any) -> dict[str, dict[str, float]]:
    return {name: measure(fold.y, answers) for name, answers in fold.answers.items()}


def _spread(values: list[float]) -> str:
    mean, deviation = _mean(values), _deviation(values)
    digits_of = max(abs(mean), deviation)
    return f"{results.number(mean, digits_of)} ± {results.number(deviation, digits_of)}"


def _mean(values: list[float]) -> float:
    return float(np.mean(values))


def _deviation(values: list[float]) -> float:
    return float(np.std(values, ddof=1))
