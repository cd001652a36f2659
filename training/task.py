"""What is to be learnt: settings, rows, and which of them are for what."""

import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from monitoring.judge import slices
from monitoring.shift import reference
from registry import durable
from registry.errors import UserError
from training import config as configuration
from training import toml
from training.config import Config
from training.explore import demands
from training.fit import distributed
from training.fit.distributed import World
from training.judge import threshold
from training.rows import data, places, split
from training.rows.data import Table
from training.rows.split import Parts

Progress = Callable[[str], None]  # called with one line per stage
RESUME_SECTIONS = ("task", "data", "split", "explore", "augment", "model", "optimizer", "schedule", "loop")


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

    @property
    def goes_on(self) -> str:
        """Return the words that go on with the run once it was stopped."""
        return self.again or f"{self.command} --resume"

    def words(self, verb: str) -> str:
        """Return the command line that asks for `verb` with this order."""
        words = [*distributed.words(), verb, str(self.config_path)]
        words += ["--run-folder", str(self.run_folder)] if self.run_folder else []
        for key, value in (self.overrides or {}).items():
            # --data starts where one stands, data.path at the folder of the file.
            given = key == "data.path" and Path(value).is_absolute()
            words += ["--data", value] if given else ["--set", f"{key}={toml.value(value)}"]
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


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a run folder until the block ends; raises BusyError if another process holds it."""
    with ExitStack() as held:
        try:
            held.enter_context(durable.locked(folder / "run.lock", wait=False))
        except BlockingIOError:
            raise BusyError(
                f"{folder}: another run is at work in this folder; wait for its end, or give another with --run-folder"
            ) from None
        yield


def prepare(order: Order) -> Task:
    """Return the settings, rows and splits that are asked for, the rows checked as `config.explore` demands.

    Raises a UserError, also if there are too few test rows for the drift reference or no threshold can be chosen.
    """
    config = configuration.load(order.config_path, order.overrides)
    table = data.load(config.data, order.config_path.parent, config.task)
    parts = split.checked(table, config.split)
    reference.demand_rows(config.reference, len(parts.test))  # now, not when the network is trained
    return deal(config, order, table, parts)


def deal(config: Config, order: Order, table: Table, parts: Parts) -> Task:
    """Return `prepare` of rows that are loaded and dealt already."""
    table = data.filled(table, parts.train)
    slices.demand(config.quality.slices, table.spec)
    place = places.finder(config, order.config_path.parent, table)
    demanded = demands.demand(table, parts, config, place)
    parts = demanded.parts
    threshold.demand(config.evaluate.threshold, table.y[parts.validation], len(table.classes))
    labels = table.y[parts.train]
    if config.data.label_noise:
        labels = split.noisy_labels(labels, table.key[parts.train], config.data.label_noise, len(table.classes))
    return Task(config, order, table, parts, labels, demanded.facts)


def resume_settings(task: Task, world: World) -> dict[str, Any]:
    """Return what a resumed run must share with the run that it goes on with, to end with the same bits."""
    said = task.config.as_dict()
    settings = {name: said[name] for name in RESUME_SECTIONS}
    settings["data"] = said["data"] | {"path": ""}  # the digest says which rows; they may have moved
    return settings | {"data_digest": task.table.digest, "processes": world.size}
