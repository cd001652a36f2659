"""fit(): the training loop; it can be stopped at any step and goes on with the same bits."""

import copy
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from registry import durable
from registry.errors import CheckpointError, DataError
from training.config import MODEL_KINDS, Config
from training.fit import checkpoint, distributed, schedule, step, stop
from training.fit.average import Average
from training.fit.batches import Feed, Piece
from training.fit.batches import Rows as Rows
from training.fit.checkpoint import State
from training.fit.distributed import World
from training.fit.models import Classifier, Regressor, Trainable
from training.fit.pace import Pace

log = logging.getLogger(__name__)

CHECKPOINT = "last.pt"
HISTORY = "epochs.jsonl"
TIMING = "timing.jsonl"  # apart from the history, which is the same bits however often a run was stopped
SCORES = {Classifier: "validation_accuracy", Regressor: "validation_r2"}


@dataclass(frozen=True)
class Run:
    """Where a run keeps its files and how to go on with it.

    settings: what a resumed run must share. follow: called with each entry of the history as it is written.
    """

    folder: Path
    settings: dict[str, Any]
    resume: bool = False
    resume_command: str = "the same command with --resume"
    world: World = field(default_factory=World)
    follow: Callable[[dict[str, float]], None] = lambda entry: None


@dataclass(frozen=True)
class Fit:
    """What training did: one history entry per epoch, the epoch whose weights were kept, all steps; how fast."""

    history: list[dict[str, float]]
    best_epoch: int
    steps: int
    timing: list[dict[str, float]] = field(default_factory=list, compare=False)


def fit(config: Config, model: Trainable, train: Rows, validation: Rows, run: Run) -> Fit:
    """Train `model` in place and leave the weights with the lowest validation loss in it.

    Stops early after `patience_epochs` without a lower loss. Writes a checkpoint and one JSON line
    per epoch into the run folder. Raises stop.StoppedError after SIGTERM or SIGINT, once the step is done
    and saved; CheckpointError if a resumed run has other settings; DataError if the loss is not finite.
    """
    with reproducible(config.loop.threads), stop.asked() as asked:
        trainer = _Trainer(config, working_copy(config, model, run.world), (train, validation), run)
        trainer.run_all(asked)
    state = trainer.state
    model.load_state_dict(state.best)
    model.eval()
    return Fit(state.history, state.best_epoch, state.step, state.timing)


def working_copy(config: Config, model: Trainable, world: World) -> Trainable:
    """Return a copy of `model` as it is trained: on its device, images with channels last, for all processes.

    Networks of one's own keep the plain order of channels: `view` in them may not take another.
    """
    copied = copy.deepcopy(model)
    distributed.shared(copied, world)
    if config.model.kind in MODEL_KINDS:
        copied.encoder.channels_last = True
        copied = copied.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return copied.to(step.device(config.loop))


def stale_epochs(losses: list[float]) -> int:
    """Return how many epochs have passed since the lowest loss; lower is better also below zero."""
    return len(losses) - 1 - int(np.argmin(losses)) if losses else 0


class _Trainer:
    def __init__(self, config: Config, model: Trainable, rows: tuple[Rows, Rows], run: Run) -> None:
        self.config, self.model, self.run = config, model, run
        self.train, self.validation = rows
        self.stepper = step.Stepper(config, model, run.world)
        self.feed = Feed(config, self.train, model.encoder.augmentable(), run.world, self.stepper.device)
        self.average = Average(model, config.loop.ema) if config.loop.ema else None
        self.judged = self.average.model if self.average else model
        self.total = self.feed.per_epoch * config.loop.epochs
        self.state = self._start()
        self.pace = Pace()

    def _start(self) -> State:
        path = self.run.folder / CHECKPOINT
        if self.run.resume and path.exists():
            state = checkpoint.load(path, self.run.settings)
            try:
                self.model.load_state_dict(state.model)
                self.stepper.optimizer.load_state_dict(state.optimizer)
                self.stepper.scaler.load_state_dict(state.scaler)
                if self.average:
                    self.average.model.load_state_dict(state.average)
            except (RuntimeError, ValueError) as error:  # the code of the network has changed
                raise CheckpointError(f"{path}: does not fit the network: {error}; train without --resume") from error
            log.info("resumed", extra={"step": state.step, "steps": self.total})
            return state
        if self.run.world.leads:
            path.unlink(missing_ok=True)
        return State(0, self.run.settings, {}, {}, _copy(self.model))

    def run_all(self, asked: Callable[[], int]) -> None:
        state, quiet = self.state, not (sys.stderr.isatty() and self.run.world.leads)
        if state.history:  # a run that was killed between its checkpoint and its word about the epoch
            self._tell()
        bar = tqdm(total=self.total, initial=state.step, unit="step", disable=quiet, leave=False)
        with bar, closing(self.feed.ahead(state.step, self.total)) as batches:
            while state.step < self.total and self._patient():
                stopping = self._step(next(batches), asked)
                bar.update()
                if state.step % self.feed.per_epoch == 0:
                    bar.set_postfix(self._end_epoch())
                elif self.config.loop.checkpoint_steps and state.step % self.config.loop.checkpoint_steps == 0:
                    self._save()
                if stopping:
                    self._save()
                    raise stop.StoppedError(self._stopped(number := asked()), number)

    def _stopped(self, number: int) -> str:
        name = signal.Signals(number).name if number else "a signal to another process"
        if self.run.world.size > 1:
            name += " (torchrun sends it to all when one process ends; its report names the first)"
        return (
            f"stopped by {name} after {len(self.state.history)} of {self.config.loop.epochs} epochs "
            f"(step {self.state.step} of {self.total}), "
            f"saved in {self.run.folder / CHECKPOINT}; resume with {self.run.resume_command}"
        )

    def _patient(self) -> bool:
        losses = [entry["validation_loss"] for entry in self.state.history]
        return self.state.step % self.feed.per_epoch > 0 or stale_epochs(losses) < self.config.loop.patience_epochs

    def _step(self, pieces: list[Piece], asked: Callable[[], int]) -> bool:
        state, rows = self.state, sum(piece.whole for piece in pieces)
        rate = schedule.rate(state.step, self.total, self.config.schedule)
        with self.pace.computing(rows):
            loss, stopping = self.stepper.step(pieces, rate, asked)
            state.step += 1
            if self.average:
                self.average.update(self.model, state.step)
        state.loss_sum += loss * rows
        return stopping

    def _end_epoch(self) -> dict[str, str]:
        state, epoch = self.state, len(self.state.history)
        timing, before = self.pace.entry(epoch), time.perf_counter()
        loss, score = validate(self.judged, self.validation, self.run.world, self.config.optimizer.label_smoothing)
        if not np.isfinite(loss) or not np.isfinite(state.loss_sum):
            raise DataError(
                f"training: the loss is not finite after step {state.step}; accepted is a finite one: "
                "lower schedule.peak, or scale columns with extreme values"
            )
        if loss < state.best_loss:
            state.best, state.best_loss, state.best_epoch = _copy(self.judged), loss, epoch
        rate = schedule.rate(state.step - 1, self.total, self.config.schedule)
        state.history.append({
            "epoch": epoch, "step": state.step, "rate": rate,
            "train_loss": state.loss_sum / len(self.train.y),
            "validation_loss": loss, SCORES[type(self.judged)]: score,
        })  # fmt: skip
        state.timing.append(timing | {"validation_s": round(time.perf_counter() - before, 4)})
        state.loss_sum = 0.0
        self._save()
        self._tell()
        self.pace = Pace()
        return {
            "loss": f"{loss:.4f}", "rows/s": f"{timing['rows_per_s']:.0f}", "outside": f"{timing['outside_share']:.1%}",
        }  # fmt: skip

    def _tell(self) -> None:
        if not self.run.world.leads:
            return
        for name, entries in ((HISTORY, self.state.history), (TIMING, self.state.timing)):
            lines = "".join(json.dumps(entry) + "\n" for entry in entries)
            # The whole file: a resumed run repeats no line.
            durable.write_atomically(self.run.folder / name, lines.encode())
        self.run.follow(self.state.history[-1] | self.state.timing[-1])

    def _save(self) -> None:
        if not self.run.world.leads:
            return
        state = self.state
        state.model, state.optimizer = self.model.state_dict(), self.stepper.optimizer.state_dict()
        state.average = self.average.model.state_dict() if self.average else {}
        state.scaler = self.stepper.scaler.state_dict()
        checkpoint.save(self.run.folder / CHECKPOINT, state)


def validate(
    model: Trainable, rows: Rows, world: World | None = None, smoothing: float = 0.0, batch_rows: int = 1024
) -> tuple[float, float]:
    """Return the mean loss of `model` on `rows` in evaluation mode, and its score: accuracy, or R2 in a regression.

    smoothing: of the labels, as in training. Without it the loss grows while a network learns not to be
    sure, and the best epoch would be one of the first. Each process of `world` judges its share of the
    rows; all get the result for all of them.
    """
    model.eval()
    world = world or World()
    device = next(model.parameters()).device
    _, own = world.share(np.arange(len(rows.y)))
    total = torch.zeros(2, dtype=torch.float64, device=device)
    with torch.inference_mode():
        for start in range(0, len(own), batch_rows):
            index = own[start : start + batch_rows]
            y = torch.from_numpy(rows.y[index]).to(device)
            raw = model.raw(torch.from_numpy(rows.x[index]).to(device))
            total[0] += model.losses(raw, y, smoothing).sum(dtype=torch.float64)
            total[1] += (raw.argmax(dim=1) == y).sum()
    world.add_up([total])
    loss, right = (float(value) / len(rows.y) for value in total)
    if isinstance(model, Regressor):  # the loss is in units of the deviation among the training targets
        return loss, 1 - loss * float(model.scale) ** 2 / max(float(rows.y.var()), 1e-300)
    return loss, right


def _copy(model: Trainable) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}


@contextmanager
def reproducible(threads: int) -> Iterator[None]:
    """Compute with this number of threads and the same bits each time, until the block ends."""
    before, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(threads)
    torch.use_deterministic_algorithms(True)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS is deterministic only with it
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.use_deterministic_algorithms(deterministic)
