"""Baselines, networks, and the wrapper that makes a network a classifier of raw rows."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from registry.errors import ConfigError
from training.config import Model
from training.data import Moments


class Classifier(nn.Module):
    """Raw rows -> probabilities and logits, with everything between them inside the exported graph.

    Rows (n, *shape), uint8 or float32, are standardised by the moments of the training rows; images
    get their channels first. `body` answers logits (n, classes); they are divided by `temperature`.
    """

    mean: Tensor
    std: Tensor
    temperature: Tensor

    def __init__(self, body: nn.Module, moments: Moments) -> None:
        super().__init__()
        self.body = body
        self.register_buffer("mean", torch.from_numpy(np.array(moments.mean)))
        self.register_buffer("std", torch.from_numpy(np.array(moments.std)))
        self.register_buffer("temperature", torch.ones(()))

    def forward(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Return probabilities and logits, both float32 (n, classes)."""
        x = (rows.to(torch.float32) - self.mean) / self.std
        if x.ndim == 3:
            x = x.unsqueeze(1)  # (n, height, width) -> (n, 1, height, width)
        elif x.ndim == 4:
            x = x.movedim(3, 1)  # (n, height, width, channels) -> (n, channels, height, width)
        logits = self.body(x) / self.temperature
        return torch.softmax(logits, dim=1), logits


def build(model: Model, shape: tuple[int, ...], classes: int, folder: Path) -> nn.Module:
    """Return an untrained network: standardised rows -> logits (n, classes).

    shape: of one raw row. A kind "module:function" is imported, also from `folder`, and called as
    function(shape, classes), with the channels of an image first; the module it returns is taken as it is.
    Raises ConfigError if the kind does not fit the rows or the network does not answer logits.
    """
    inner = shape if len(shape) == 1 else (shape[2] if len(shape) == 3 else 1, *shape[:2])
    if model.kind == "mlp":
        return mlp(inner, classes, model)
    if model.kind == "cnn":
        return cnn(inner, classes, model)
    body = _imported(model.kind, folder)(inner, classes)
    _check_body(body, inner, classes, model.kind)
    return body


def mlp(shape: tuple[int, ...], classes: int, model: Model) -> nn.Sequential:
    """Return `depth` layers of `width` with batch norm and dropout, then a linear layer."""
    layers: list[nn.Module] = [nn.Flatten()]
    width = int(np.prod(shape))
    for _ in range(model.depth):
        layers += [nn.Linear(width, model.width, bias=False), nn.BatchNorm1d(model.width), nn.ReLU()]
        layers += [nn.Dropout(model.dropout)]
        width = model.width
    return nn.Sequential(*layers, nn.Linear(width, classes))


def cnn(shape: tuple[int, ...], classes: int, model: Model) -> nn.Sequential:
    """Return `depth` blocks of two 3x3 convolutions and a halving, then a linear layer.

    Each block doubles the channels, from `width`. Raises ConfigError if the image is too small.
    """
    if len(shape) != 3:
        raise ConfigError("model.kind: cnn needs images, the rows are vectors; accepted here is mlp")
    channels, height, width = shape
    if min(height, width) < 2**model.depth:
        raise ConfigError(f"model.depth: {model.depth} halvings leave nothing of {height}x{width} pixels; lower it")
    layers: list[nn.Module] = []
    for block in range(model.depth):
        wide = model.width * 2**block
        for start in (channels, wide):
            layers += [nn.Conv2d(start, wide, 3, padding=1, bias=False), nn.BatchNorm2d(wide), nn.ReLU()]
        layers += [nn.MaxPool2d(2), nn.Dropout(model.dropout)]
        channels, height, width = wide, height // 2, width // 2
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * height * width, classes))


def majority(y: np.ndarray, classes: int) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function of rows (n, *shape) that answers the class shares of y for each, float64."""
    shares = np.bincount(y, minlength=classes) / len(y)
    return lambda x: np.tile(shares, (len(x), 1))


def linear(x: np.ndarray, y: np.ndarray, classes: int) -> Callable[[np.ndarray], np.ndarray]:
    """Return multinomial logistic regression on standardised columns, as a function like `majority`.

    A class without a row in y gets probability 0.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    pipeline = make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000))
    pipeline.fit(_flat(x), y)

    def predict(rows: np.ndarray) -> np.ndarray:
        probabilities = np.zeros((len(rows), classes))
        probabilities[:, pipeline.classes_] = pipeline.predict_proba(_flat(rows))
        return probabilities

    return predict


def predict(model: Classifier, x: np.ndarray, batch_rows: int = 1024) -> tuple[np.ndarray, np.ndarray]:
    """Return probabilities and logits of x (n, *shape), float32 (n, classes), in evaluation mode."""
    was_training = model.training
    model.eval()
    with torch.inference_mode():
        answers = [model(torch.from_numpy(x[i : i + batch_rows])) for i in range(0, len(x), batch_rows)]
    model.train(was_training)
    probabilities, logits = (np.concatenate([part.numpy() for part in parts]) for parts in zip(*answers, strict=True))
    return probabilities, logits


def parameter_count(model: nn.Module) -> int:
    """Return how many numbers training changes."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _flat(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), -1).astype(np.float64)


def _imported(kind: str, folder: Path) -> Callable[[tuple[int, ...], int], nn.Module]:
    name, _, function = kind.partition(":")
    sys.path.insert(0, str(folder))
    try:
        made: Callable[[tuple[int, ...], int], nn.Module] = getattr(importlib.import_module(name), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"model.kind: {kind!r} cannot be imported: {error}; accepted are mlp, cnn or module:function, "
            f"with the module installed or in {folder}"
        ) from error
    finally:
        sys.path.remove(str(folder))
    return made


def _check_body(body: object, shape: tuple[int, ...], classes: int, kind: str) -> None:
    if not isinstance(body, nn.Module):
        raise ConfigError(f"model.kind: {kind} returned {type(body).__name__}; accepted is a torch.nn.Module")
    try:
        with torch.inference_mode():
            body.eval()
            answer = body(torch.zeros(2, *shape))
    except RuntimeError as error:
        raise ConfigError(f"model.kind: {kind} does not take rows of shape {shape}: {error}") from error
    if not isinstance(answer, Tensor) or tuple(answer.shape) != (2, classes):
        found = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
        raise ConfigError(f"model.kind: {kind} answers {found} for 2 rows; accepted are logits (2, {classes})")
