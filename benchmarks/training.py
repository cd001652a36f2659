"""The recipes of examples/ beside a plain PyTorch loop with a DataLoader: rows per second, interleaved.

Both train the same network in the same precision on random rows of the recipe's size, changed in the
same ways. The plain loop changes one image at a time as its Dataset reads it, with 0 and with 2 workers.
Each runs two epochs; the second is timed, when workers and memory are warm.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset

from training import config
from training.config import Augment, Config
from training.fit import loop, models, step
from training.rows.data import moments

RECIPES = {"mnist": ((28, 28), 12_800), "images": ((32, 32, 3), 2_560)}  # shape, rows of an epoch
CLASSES = 10
ROUNDS = 3
WORKERS = (0, 2)


def measure() -> dict[str, Any]:
    """Return medians of rows per second by recipe and way, ratios, and the share of time outside the network."""
    return {name: _compare(name, *RECIPES[name]) for name in RECIPES}


def _compare(name: str, shape: tuple[int, ...], rows: int) -> dict[str, Any]:
    settings = config.load(Path(f"examples/{name}.toml"), {"data.path": "random rows", "loop.epochs": 2})
    generator = np.random.default_rng(0)
    x = generator.integers(0, 256, (rows, *shape), dtype=np.uint8)
    y = generator.integers(0, CLASSES, rows)
    rates: dict[str, list[float]] = {}
    outside = []
    for _ in range(ROUNDS):
        timing = _vigil(settings, x, y)
        outside.append(timing["outside_share"])
        rates.setdefault("vigil", []).append(timing["rows_per_s"])
        for workers in WORKERS:
            rates.setdefault(f"plain, {workers} workers", []).append(_plain(settings, x, y, workers))
    medians = {way: round(statistics.median(found)) for way, found in rates.items()}
    return {
        "precision": step.precision(settings.loop, torch.device("cpu")), "threads": settings.loop.threads,
        "rows_per_s": medians, "vigil_outside_share": round(statistics.median(outside), 4),
        "vigil_over_plain": {way: round(medians["vigil"] / rate, 2) for way, rate in medians.items() if way != "vigil"},
    }  # fmt: skip


def _vigil(settings: Config, x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    held_out = loop.Rows(x[:256], y[:256])
    with tempfile.TemporaryDirectory() as folder:
        run = loop.Run(Path(folder), {})
        return loop.fit(settings, _model(settings, x), loop.Rows(x, y), held_out, run).timing[1]


def _model(settings: Config, x: np.ndarray) -> models.Classifier:
    torch.manual_seed(0)
    return models.Classifier(models.build(settings.model, x.shape[1:], CLASSES, Path()), moments(x))


def _plain(settings: Config, x: np.ndarray, y: np.ndarray, workers: int) -> float:
    model = _model(settings, x).to(memory_format=torch.channels_last).train()
    model.encoder.channels_last = True
    optimizer = step.optimizer(model, settings.optimizer)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(settings.loop.ema), use_buffers=True)
    loader = DataLoader(
        Images(x, y, settings.augment), settings.loop.batch_rows, shuffle=True, drop_last=True,
        num_workers=workers, persistent_workers=workers > 0,
    )  # fmt: skip
    kind = step.KINDS.get(step.precision(settings.loop, torch.device("cpu")))
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.schedule.peak, total_steps=2 * len(loader))
    with _threads(settings.loop.threads):
        for _ in range(2):
            started = time.perf_counter()
            for rows, labels in loader:
                optimizer.zero_grad()
                with torch.autocast("cpu", kind, enabled=kind is not None):
                    logits = model.raw(rows)
                smoothing = settings.optimizer.label_smoothing
                functional.cross_entropy(logits.float(), labels, label_smoothing=smoothing).backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), settings.loop.clip_norm)
                optimizer.step()
                cycle.step()
                average.update_parameters(model)
            took = time.perf_counter() - started
    return len(loader) * settings.loop.batch_rows / took


class Images(Dataset[tuple[Tensor, int]]):
    """Images changed as they are read, one at a time, from the global random numbers of PyTorch."""

    def __init__(self, x: np.ndarray, y: np.ndarray, changes: Augment) -> None:
        self.x, self.y, self.changes = x, y, changes

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        image = torch.from_numpy(self.x[row]).float()
        image = image.unsqueeze(0) if image.ndim == 2 else image.movedim(2, 0)
        if torch.rand(()) < self.changes.flip_share:
            image = image.flip(2)
        if self.changes.rotate_degrees:
            image = self._turned(image)
        elif most := int(self.changes.shift_pixels):
            down, right = torch.randint(0, 2 * most + 1, (2,)).tolist()
            framed = functional.pad(image, (most,) * 4)
            image = framed[:, down : down + image.shape[1], right : right + image.shape[2]]
        return image.squeeze(0) if len(image) == 1 else image.movedim(0, 2), int(self.y[row])

    def _turned(self, image: Tensor) -> Tensor:
        turn, down, right = (2 * torch.rand(3) - 1).tolist()
        angle = np.deg2rad(self.changes.rotate_degrees * turn)
        shift = [2 * self.changes.shift_pixels * part / image.shape[1] for part in (right, down)]
        matrix = torch.tensor([[np.cos(angle), np.sin(angle), shift[0]], [-np.sin(angle), np.cos(angle), shift[1]]])
        place = functional.affine_grid(matrix[None].float(), [1, *image.shape], align_corners=False)
        return functional.grid_sample(image[None], place, align_corners=False)[0]


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
