"""A tiny training run that one process or, under torchrun, several carry out: `pair.py FOLDER MICRO_ROWS`."""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from training.config import Augment, Config, Loop, Model
from training.fit import distributed, loop, models
from training.rows.data import moments

CONFIG = Config(
    "demo", loop=Loop(epochs=3, batch_rows=15, ema=0.9), model=Model("cnn", width=4, depth=1, dropout=0.3),
    augment=Augment(noise=0.1, mixup=0.3),
)  # fmt: skip


def train(folder, config, world):
    """Train on 100 rows, which 15 does not divide; leaves a checkpoint in `folder`."""
    generator = np.random.default_rng(0)
    x, y = generator.integers(0, 255, (131, 8, 8), dtype=np.uint8), generator.integers(0, 3, 131)
    rows = loop.Rows(x[:100], y[:100]), loop.Rows(x[100:], y[100:])
    torch.manual_seed(0)
    model = models.Classifier(models.build(config.model, (8, 8), 3, folder), moments(rows[0].x))
    return loop.fit(config, model, *rows, loop.Run(folder, {}, world=world))


def in_pieces(micro_rows):
    """Return the settings with batches cut to pieces of `micro_rows` rows per process."""
    return replace(CONFIG, loop=replace(CONFIG.loop, micro_rows=micro_rows))


if __name__ == "__main__":
    with distributed.joined("cpu") as joined:
        train(Path(sys.argv[1]), in_pieces(int(sys.argv[2])), joined)
