"""fit(): the training loop; it can be stopped at any step and goes on with the same bits."""

import json
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from registry import durable
from registry.errors import CheckpointError, DataError, UserError
from training import augment, checkpoint, schedule
from training.checkpoint import State
from training.config import Config, Optimizer
from training.models import Classifier, Regressor, Trainable

log = logging.getLogger(__name__)

CHECKPOINT = "last.pt"
HISTORY = "epochs.jsonl"
SCORES = {Classifier: "validation_accuracy", Regressor: "validation_r2"}


class StoppedError(UserError):
    """Training was asked to stop and saved what it had; the message names the command to go on."""


@dataclass(frozen=True)
class Rows:
    """Raw rows (n, *shape) with labels int64 (n,), or targets float64 (n,) in a regression."""

    x: np.ndarray
    y: np.ndarray


@dataclass(frozen=True)
class Run:
    """Where a run keeps its files and how to go on with it; settings: what a resumed run must share."""

    folder: Path
    settings: dict[str, Any]
    resume: bool = False
    resume_command: str = "the same command with --resume"


@dataclass(frozen=True)
class Fit:
    """What training did: one history entry per epoch, the epoch whose weights were kept, all steps."""

    history: list[dict[str, float]]
    best_epoch: int
    steps: int


def fit(config: Config, model: Trainable, train: Rows, validation: Rows, run: Run) -> Fit:
    """Train `model` in place and leave the weights with the lowest validation loss in it.

    Stops early after `patience_epochs` without a lower loss. Writes a checkpoint and one JSON line
    per epoch into the run folder. Raises StoppedError after SIGTERM or SIGINT, once the step is done
    and saved; CheckpointError if a resumed run has other settings; DataError if the loss is not finite.
    """
    with _threads(config.loop.threads), _asked_to_stop() as asked:
        trainer = _Trainer(config, model, train, validation, run)
        history = trainer.run_all(asked)
        model.load_state_dict(trainer.state.best)
        model.eval()
    return Fit(history, trainer.state.best_epoch, trainer.state.step)


def optimizer(model: torch.nn.Module, settings: Optimizer) -> torch.optim.AdamW:
    """Return AdamW that decays weights only: biases and norms have one dimension and are left alone."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], betas=(settings.beta1, settings.beta2))


def batches(rows: int, batch_rows: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Return the row numbers of each batch of `epoch`, sizes equal to within one row.

    A short last batch would make batch norm noisy, and fail with one row; so batches hold between
    `batch_rows` and twice as many.
    """
    return np.array_split(checkpoint.order(rows, seed, epoch).numpy(), max(1, rows // batch_rows))


def stale_epochs(losses: list[float]) -> int:
    """Return how many epochs have passed since the lowest loss; lower is better also below zero."""
    return len(losses) - 1 - int(np.argmin(losses)) if losses else 0


class _Trainer:
    def __init__(self, config: Config, model: Trainable, train: Rows, validation: Rows, run: Run) -> None:
        self.config, self.model, self.train, self.validation, self.run = config, model, train, validation, run
        self.moments = model.encoder.augmentable()
        self.optimizer = optimizer(model, config.optimizer)
        self.per_epoch = max(1, len(train.y) // config.loop.batch_rows)
        self.total = self.per_epoch * config.loop.epochs
        self.dealt_epoch, self.dealt = -1, list[np.ndarray]()
        self.state = self._start()

    def _start(self) -> State:
        path = self.run.folder / CHECKPOINT
        if self.run.resume and path.exists():
            state = checkpoint.load(path, self.run.settings)
            try:
                self.model.load_state_dict(state.model)
                self.optimizer.load_state_dict(state.optimizer)
            except (RuntimeError, ValueError) as error:  # the code of the network has changed
                raise CheckpointError(f"{path}: does not fit the network: {error}; train without --resume") from error
            log.info("resumed", extra={"step": state.step, "steps": self.total})
            return state
        path.unlink(missing_ok=True)
        return State(0, self.run.settings, {}, {}, _copy(self.model))

    def run_all(self, asked: Callable[[], int]) -> list[dict[str, float]]:
        state, loop = self.state, self.config.loop
        bar = tqdm(total=self.total, initial=state.step, unit="step", disable=not sys.stderr.isatty(), leave=False)
        with bar:
            while state.step < self.total and self._patient():
                self._step()
                bar.update()
                if state.step % self.per_epoch == 0:
                    self._end_epoch()
                    bar.set_postfix(loss=f"{state.history[-1]['validation_loss']:.4f}")
                elif loop.checkpoint_steps and state.step % loop.checkpoint_steps == 0:
                    self._save()
                if number := asked():
                    self._save()
                    raise StoppedError(
                        f"stopped by {signal.Signals(number).name} at step {state.step} of {self.total}, "
                        f"saved in {self.run.folder / CHECKPOINT}; resume with {self.run.resume_command}"
                    )
        return state.history

    def _patient(self) -> bool:
        losses = [entry["validation_loss"] for entry in self.state.history]
        return self.state.step % self.per_epoch > 0 or stale_epochs(losses) < self.config.loop.patience_epochs

    def _step(self) -> None:
        config, state = self.config, self.state
        epoch, position = divmod(state.step, self.per_epoch)
        if epoch != self.dealt_epoch:
            self.dealt = batches(len(self.train.y), config.loop.batch_rows, config.loop.seed, epoch)
            self.dealt_epoch = epoch
        index = self.dealt[position]
        keyed = augment.Keyed(config.loop.seed, epoch, index)
        x = torch.from_numpy(augment.rows(self.train.x[index], keyed, config.augment, self.moments))
        y = torch.from_numpy(self.train.y[index])
        for group in self.optimizer.param_groups:
            group["lr"] = schedule.rate(state.step, self.total, config.schedule)
        self.model.train()
        self.optimizer.zero_grad()
        loss = self.model.losses(self.model.raw(x), y, config.optimizer.label_smoothing).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        if config.loop.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.loop.clip_norm)
        self.optimizer.step()
        state.step += 1
        state.loss_sum += float(loss.detach()) * len(index)

    def _end_epoch(self) -> None:
        state = self.state
        loss, score = validate(self.model, self.validation)
        if not np.isfinite(loss) or not np.isfinite(state.loss_sum):
            raise DataError(
                f"training: the loss is not finite after step {state.step}; accepted is a finite one: "
                "lower schedule.peak, or scale columns with extreme values"
            )
        epoch = len(state.history)
        if loss < state.best_loss:
            state.best, state.best_loss, state.best_epoch = _copy(self.model), loss, epoch
        rate = schedule.rate(state.step - 1, self.total, self.config.schedule)
        state.history.append({
            "epoch": epoch, "step": state.step, "rate": rate,
            "train_loss": state.loss_sum / len(self.train.y),
            "validation_loss": loss, SCORES[type(self.model)]: score,
        })  # fmt: skip
        state.loss_sum = 0.0
        self._save()
        lines = "".join(json.dumps(entry) + "\n" for entry in state.history)
        # The whole file: a resumed run repeats no line.
        durable.write_atomically(self.run.folder / HISTORY, lines.encode())

    def _save(self) -> None:
        self.state.model = self.model.state_dict()
        self.state.optimizer = self.optimizer.state_dict()
        checkpoint.save(self.run.folder / CHECKPOINT, self.state)


def validate(model: Trainable, rows: Rows, batch_rows: int = 1024) -> tuple[float, float]:
    """Return the mean loss of `model` on `rows` in evaluation mode, and its score: accuracy, or R2 in a regression."""
    model.eval()
    loss, right = 0.0, 0
    with torch.inference_mode():
        for start in range(0, len(rows.y), batch_rows):
            y = torch.from_numpy(rows.y[start : start + batch_rows])
            raw = model.raw(torch.from_numpy(np.array(rows.x[start : start + batch_rows])))
            loss += float(model.losses(raw, y).sum())
            right += int((raw.argmax(dim=1) == y).sum())
    mean = loss / len(rows.y)
    if isinstance(model, Regressor):  # the loss is in units of the deviation among the training targets
        return mean, 1 - mean * float(model.scale) ** 2 / max(float(rows.y.var()), 1e-300)
    return mean, right / len(rows.y)


def _copy(model: Trainable) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    torch.set_num_threads(count)
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        torch.use_deterministic_algorithms(deterministic)


@contextmanager
def _asked_to_stop() -> Iterator[Callable[[], int]]:
    """Give a function that returns the number of the signal that asked to stop, 0 before that."""
    seen: list[int] = []

    def remember(number: int, _frame: FrameType | None) -> None:
        seen.append(number)

    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield lambda: 0
        return
    before = {number: signal.signal(number, remember) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: seen[0] if seen else 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
