"""Hyper-parameter search: many trainings, judged by the validation rows alone. Needs the extra `search`."""

import json
import math
import shutil
import time
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from registry import durable
from registry.errors import CheckpointError, ConfigError, DataError, StackError
from training import config as configuration
from training import toml
from training.config import MODEL_KINDS, Config
from training.fit import checkpoint, distributed, stop
from training.fit.distributed import World
from training.learn import fit
from training.pages import document, results, spread
from training.space import Space, ends, is_range
from training.task import Order, Progress, Task, alone, prepare

STUDY, PAGE = "search.sqlite", "search.html"
MOST_LINES = 10
DIGITS = 4  # of a number that is tried: what is written is what was tried


@dataclass(frozen=True)
class Trial:
    """One training. number: from 1, in the order of the search. settings: what was tried, by dotted key.

    loss: its lowest validation loss; None if it was ended early, behind the median of the others at the same
    epoch, or not finite.
    """

    number: int
    settings: dict[str, Any]
    loss: float | None
    epochs: int


@dataclass(frozen=True)
class Search:
    """What a search came to; trials: the best first; written: the TOML file with the best settings."""

    name: str
    trials: list[Trial]
    written: Path
    seconds: float
    run_folder: Path

    @property
    def page(self) -> Path:
        """Return where the pictures are."""
        return self.run_folder / PAGE


def search(order: Order, trials: int, say: Progress) -> Search:
    """Train with settings from `config.search.space` until there are as many trials, and write the best ones down.

    trials: 0 takes the number of the config. The tree-structured Parzen estimator proposes (Bergstra et al. 2011,
    as optuna has it); once there are five, a trial that is behind the median of the others after a quarter of its
    epochs is ended. Test rows are not looked at. With `order.resume` the trials of the run folder count, and a
    stopped one goes on where it was.
    Raises a UserError as `run.carry_out` does; StackError without optuna; CheckpointError if the run folder is of
    another search.
    """
    if trials < 0:
        raise ConfigError(f"--trials {trials}: accepted is 1 or more; left out, search.trials of the file")
    started, optuna = time.monotonic(), _optuna()
    distributed.demand_one("search")
    config = configuration.load(order.config_path, order.overrides)
    count = trials or config.search.trials
    space = dict(config.search.space) or usual(config)
    _demand_rates(order, space)
    folder = order.run_folder or Path("runs") / f"{order.config_path.stem}-search"
    asked = replace(order, run_folder=folder)
    asked = replace(asked, again=f"{asked.words('search')} --trials {count} --resume")
    with alone(folder), stop.told(asked.again), torch.random.fork_rng(devices=[]):
        task = prepare(asked)
        if not order.resume:
            (folder / STUDY).unlink(missing_ok=True)
        settings = _json(config.as_dict() | {"search": None, "space": space, "data_digest": task.table.digest})
        with _study(optuna, folder / STUDY, settings, config.search.seed) as study:
            while len(_finished(optuna, study)) < count:
                found = _try(optuna, study, task, space)
                say(f"trial {len(_finished(optuna, study))} of {count}: {_told(found)}")
            ranked = sorted(map(_trial, _finished(optuna, study)), key=lambda one: (one.loss is None, one.loss))
    if ranked[0].loss is None:
        raise DataError(f"{order.config_path}: no trial reached a finite loss; narrow [search.space] to lower rates")
    written = write_best(order, ranked[0], count)
    done = Search(config.name, ranked, written, round(time.monotonic() - started, 2), folder)
    durable.write_atomically(done.page, as_html(done).encode())
    return done


def usual(config: Config) -> dict[str, Space]:
    """Return what is searched where the config names nothing: rate, decay, and the size of a network of ours."""
    low = max(1e-4, config.schedule.floor)
    space: dict[str, Space] = {
        "schedule.peak": (low, max(2e-2, 10 * low), "log"), "optimizer.weight_decay": (1e-3, 0.5, "log"),
    }  # fmt: skip
    if config.model.kind in MODEL_KINDS:
        width = config.model.width
        space |= {
            "model.dropout": (0.0, 0.5, "linear"),
            "model.width": tuple(sorted({max(1, width // 2), width, 2 * width})),
        }
    return space


def write_best(order: Order, best: Trial, count: int) -> Path:
    """Write the TOML file of the order with the best settings beside it, as NAME.best.toml; return its path."""
    values = tomllib.loads(order.config_path.read_text(encoding="utf-8"))
    for key, value in {**(order.overrides or {}), **best.settings}.items():
        configuration.put(values, key, value)
    values.pop("search", None)
    said = f"# {order.words('search')}: trial {best.number} of {count}, validation loss {best.loss:.6g}\n"
    path = order.config_path.with_name(f"{order.config_path.stem}.best.toml")
    durable.write_atomically(path, (said + toml.text(values)).encode())
    configuration.load(path)
    return path


def table_of(trials: Sequence[Trial]) -> document.Table:
    """Return a row per trial: its loss, its epochs and what was tried."""
    keys = list(trials[0].settings)
    rows = [
        (str(t.number), "ended early" if t.loss is None else results.number(t.loss), str(t.epochs),
         *(str(t.settings[key]) for key in keys))
        for t in trials
    ]  # fmt: skip
    return document.Table(("trial", "validation loss", "epochs", *keys), tuple(rows))


def as_html(found: Search) -> str:
    """Return a page with a picture for each key that was searched: the loss of the trials over its values."""
    pictures = [
        document.Picture(spread.trials(key, [(t.number, t.settings[key], t.loss) for t in found.trials]), key, None)
        for key in found.trials[0].settings
    ]
    said = document.Text(
        f"{len(found.trials)} trials, judged by validation rows alone; other settings varied, too. The best one is "
        f"marked, and written to {found.written}; those that were ended early are grey, at the upper edge."
    )
    sections = [document.Section("Loss over each setting", (said, *pictures))]
    return document.html(f"Search for {found.name}", [*sections, document.Section("Trials", (table_of(found.trials),))])


def as_text(found: Search) -> str:
    """Return the best trials as a table, and what to do next."""
    return "\n".join([
        *document.plain(table_of(found.trials[:MOST_LINES])), "",
        f"{len(found.trials)} trials in {found.seconds:.1f} s, judged by validation rows alone; the study is in "
        f"{found.run_folder / STUDY}, its pictures in {found.page}",
        f"next: vigil train {found.written}",
    ])  # fmt: skip


def as_json(found: Search) -> str:
    """Return every trial as one JSON object on one line."""
    said = asdict(found) | {"run_folder": str(found.run_folder), "written": str(found.written), "page": str(found.page)}
    return json.dumps(said, allow_nan=False)


def _demand_rates(order: Order, space: Mapping[str, Space]) -> None:
    """Raise ConfigError now if some trial would be refused: if a floor that is tried is above a peak that is."""
    chosen = {"schedule.peak": 0, "schedule.floor": 1}
    worst = {key: ends(space[key])[end] for key, end in chosen.items() if key in space}
    configuration.load(order.config_path, {**(order.overrides or {}), **worst})


def _try(optuna: Any, study: Any, task: Task, space: Mapping[str, Space]) -> Any:
    trial, order = study.ask(), task.order
    tried = {key: _suggest(trial, key, values) for key, values in space.items()}
    folder, goes_on = order.folder / "trial", trial.user_attrs.get("goes_on", False)
    if not goes_on:
        shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(exist_ok=True)
    asked = replace(order, run_folder=folder, resume=goes_on, overrides={**(order.overrides or {}), **tried})

    def follow(entry: dict[str, float]) -> None:
        trial.report(entry["validation_loss"], int(entry["epoch"]))
        if trial.should_prune():
            raise optuna.TrialPruned

    trial.set_user_attr("settings", tried)  # from here on the folder is this trial's
    config = configuration.load(order.config_path, asked.overrides)
    try:
        history = fit(replace(task, config=config, order=asked), World(), follow).fit.history
    except (optuna.TrialPruned, DataError):  # the loss was not finite
        return study.tell(trial, state=optuna.trial.TrialState.PRUNED)
    trial.set_user_attr("epochs", len(history))
    return study.tell(trial, min(entry["validation_loss"] for entry in history))


def _suggest(trial: Any, key: str, values: Space) -> Any:
    if is_range(values):
        low, high, scale = values
        if isinstance(low, int) and isinstance(high, int):
            return trial.suggest_int(key, low, high, log=scale == "log")
        number = trial.suggest_float(key, low, high, log=scale == "log")
        return min(high, max(low, float(f"{number:.{DIGITS}g}")))
    return trial.suggest_categorical(key, list(values))


@contextmanager
def _study(optuna: Any, path: Path, settings: dict[str, Any], seed: int) -> Iterator[Any]:
    path.parent.mkdir(parents=True, exist_ok=True)
    storage = optuna.storages.RDBStorage(f"sqlite:///{path.resolve()}")
    try:
        study = optuna.create_study(storage=storage, study_name="search", load_if_exists=True)
        # Another seed after each restart: the first proposals would come a second time.
        study.sampler = optuna.samplers.TPESampler(seed=seed + len(study.trials))
        study.pruner = optuna.pruners.MedianPruner(n_warmup_steps=settings["loop"]["epochs"] // 4)
        before = study.user_attrs.get("settings", settings)
        if different := checkpoint.differences(before, settings):
            raise CheckpointError(
                f"{path}: of a search with other settings or data: {'; '.join(different)}; "
                "put them back, or search without --resume"
            )
        study.set_user_attr("settings", settings)
        for stopped in study.get_trials(states=[optuna.trial.TrialState.RUNNING]):
            study.tell(stopped.number, state=optuna.trial.TrialState.FAIL)
            study.enqueue_trial(stopped.params, user_attrs={"goes_on": "settings" in stopped.user_attrs})
        yield study
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _finished(optuna: Any, study: Any) -> list[Any]:
    states = optuna.trial.TrialState
    found: list[Any] = study.get_trials(deepcopy=False, states=[states.COMPLETE, states.PRUNED])
    return found


def _trial(found: Any) -> Trial:
    complete = found.state.name == "COMPLETE" and math.isfinite(found.value)
    epochs = found.user_attrs.get("epochs", len(found.intermediate_values))
    return Trial(found.number + 1, found.user_attrs["settings"], float(found.value) if complete else None, epochs)


def _told(found: Any) -> str:
    trial = _trial(found)
    tried = ", ".join(f"{key} {value}" for key, value in trial.settings.items())
    return f"{'ended early' if trial.loss is None else f'validation loss {trial.loss:.4f}'} ({tried})"


def _json(settings: Any) -> Any:
    return json.loads(json.dumps(settings))  # as it comes back from the storage: tuples have become lists


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise StackError("optuna is not installed; pip install 'vigil[search]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna
