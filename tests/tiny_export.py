"""A small network for 8 x 8 images, and what its exports are asked to be."""

import json
from pathlib import Path

import numpy as np
import torch

from registry.release import InputSpec
from training.config import Model
from training.export import export
from training.export.certificate import Limit
from training.fit import models
from training.rows.data import moments

ROWS = np.random.default_rng(0).integers(0, 17, (40, 8, 8), dtype=np.uint8)
ASKED = export.Asked(InputSpec("uint8", (8, 8)), ("a", "b", "c"))
LIMIT = Limit(1e-4)
FACTS = {"name": "demo", "classes": json.dumps(ASKED.classes)}


def build(seed=0):
    torch.manual_seed(seed)
    model = models.Classifier(models.build(Model("cnn", width=4), (8, 8), 3, Path()), moments(ROWS))
    model.train()
    for _ in range(5):  # so that the running statistics of batch norm are not those of a fresh layer
        model(torch.from_numpy(ROWS))
    model.temperature.fill_(1.3)
    return model.eval()
