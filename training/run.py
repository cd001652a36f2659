"""train(): one TOML file in, one verified release in the store out. Reads top to bottom."""

import shutil
import time
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from registry import aliases, store
from registry.release import MODEL
from training import config as configuration
from training.fit import distributed, follow, step, stop
from training.fit.distributed import World
from training.learn import Follow, Trained, fit, fit_baselines
from training.outcome import Outcome
from training.publish import make_variants, publish, write_model
from training.task import Order, Progress, Task, alone, prepare

SAY_EVERY_S = 15.0


def train(
    config_path: Path, run_folder: Path | None = None, resume: bool = False, progress: Progress | None = None
) -> Outcome:
    """Carry out an Order of these words."""
    return carry_out(Order(config_path, run_folder, resume), progress or (lambda line: None))


def carry_out(order: Order, say: Progress) -> Outcome:
    """Train what is ordered and publish it; return the results. say: called with one line per stage.

    Raises a UserError if settings, store, data, checkpoint or export are refused; nothing is then published.
    """
    started = time.monotonic()
    # Now: after hours of training there would be nowhere to put the release.
    store.demand_writable(configuration.load(order.config_path, order.overrides).name)
    with alone(order.folder), stop.told(order.goes_on), torch.random.fork_rng(devices=[]):
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
        trained.fit.timing, others, *aliases.refusal(release.tag),
    )  # fmt: skip


def assist(order: Order) -> int:
    """Compute this process's share of the training that process 0 leads in `train`; writes and says nothing.

    Returns the exit status: 0, or that of a stop, which process 0 tells.
    """
    with _joined(order) as world:
        world.wait()  # process 0 first: what it caches of the data is then there
        try:
            fit(prepare(order), world)
        except stop.StoppedError as error:
            return error.exit_status
    return 0


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
            trained = fit(task, world, _telling(tell, task.config.loop.epochs, say))
        say(f"training: {len(trained.fit.history)} epochs, kept epoch {trained.fit.best_epoch}")
    return task, simple, trained


def _telling(tell: Follow, epochs: int, say: Progress) -> Follow:
    """Return `tell` that also says how far training is, at most once in SAY_EVERY_S."""
    said = time.monotonic()

    def told(entry: dict[str, float]) -> None:
        nonlocal said
        tell(entry)
        if time.monotonic() - said > SAY_EVERY_S:
            said = time.monotonic()
            say(f"epoch {int(entry['epoch']) + 1} of {epochs}: validation loss {entry['validation_loss']:.4g}")

    return told


def _joined(order: Order) -> AbstractContextManager[World]:
    config = configuration.load(order.config_path, order.overrides)
    return distributed.joined(step.device(config.loop).type)
