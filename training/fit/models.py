"""Networks, and the wrappers that make a network a classifier or a regressor of raw rows."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from registry.errors import ConfigError
from registry.release import InputSpec
from training.config import MODEL_KINDS, Model
from training.fit.resnet import resnet
from training.rows.data import Moments
from training.rows.encoding import Encoder


class Classifier(nn.Module):
    """Raw rows -> probabilities and logits, with everything between them inside the exported graph.

    Rows (n, *shape), uint8 or float32, are encoded (see Encoder) with the moments of the training rows.
    `body` answers logits (n, classes), which are divided by `temperature`, 1 until it is fitted; or these and an
    embedding (n, ...), which is given out as it is.
    """

    temperature: Tensor

    def __init__(self, body: nn.Module, moments: Moments, spec: InputSpec | None = None) -> None:
        super().__init__()
        self.encoder = Encoder(moments, spec)
        self.body = body
        self.register_buffer("temperature", torch.ones(()))

    def forward(self, rows: Tensor) -> tuple[Tensor, ...]:
        """Return probabilities and logits, both float32 (n, classes), and the embedding (n, width) if there is one."""
        raw, *embedding = _answers(self.body(self.encoder(rows)))
        logits = raw / self.temperature
        return torch.softmax(logits, dim=1), logits, *embedding

    def raw(self, rows: Tensor) -> Tensor:
        """Return the logits before the temperature (n, classes): what training works on."""
        return _answers(self.body(self.encoder(rows)))[0]

    def losses(self, raw: Tensor, y: Tensor, smoothing: float = 0.0) -> Tensor:
        """Return the cross-entropy of each row, float32 (n,), for labels int64 (n,)."""
        return functional.cross_entropy(raw.float(), y, label_smoothing=smoothing, reduction="none")


class Regressor(nn.Module):
    """Raw rows -> a number in units of the target; the network itself works on the standardised target."""

    centre: Tensor
    scale: Tensor

    def __init__(
        self, body: nn.Module, moments: Moments, target: tuple[float, float], spec: InputSpec | None = None
    ) -> None:
        """target: mean and standard deviation of the training targets. `body`: as a Classifier has it, but (n, 1)."""
        super().__init__()
        self.encoder = Encoder(moments, spec)
        self.body = body
        self.register_buffer("centre", torch.tensor(target[0], dtype=torch.float32))
        self.register_buffer("scale", torch.tensor(target[1], dtype=torch.float32))

    def forward(self, rows: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Return the prediction, float32 (n, 1), and the embedding (n, width) if there is one."""
        raw, *embedding = _answers(self.body(self.encoder(rows)))
        prediction: Tensor = raw * self.scale + self.centre
        return (prediction, *embedding) if embedding else prediction

    def raw(self, rows: Tensor) -> Tensor:
        """Return the prediction of the standardised target (n, 1): what training works on."""
        return _answers(self.body(self.encoder(rows)))[0]

    def losses(self, raw: Tensor, y: Tensor, smoothing: float = 0.0) -> Tensor:
        """Return the squared error of each row in squared deviations of the target, float32 (n,), for y float64 (n,).

        Nothing is smoothed: a number has no classes to share with.
        """
        standard = (y - self.centre.double()) / self.scale.double()
        return (raw[:, 0].float() - standard.float()) ** 2


Trainable = Classifier | Regressor


def build(model: Model, shape: tuple[int, ...], outputs: int, folder: Path) -> nn.Module:
    """Return an untrained network: encoded rows -> (n, outputs), logits or the one number of a regression.

    One of the user's own may answer two tensors, the second an embedding (n, ...): see `monitoring.shift.embedding`.

    shape: of one row, `encoding.shape`. A kind "module:function" is imported, also from `folder`, and called
    as function(shape, outputs), with the channels of an image first; the module it returns is taken as it is.
    Raises ConfigError if the kind does not fit the rows or the network does not answer (n, outputs).
    """
    inner = shape if len(shape) == 1 else (shape[2] if len(shape) == 3 else 1, *shape[:2])
    if model.kind == "mlp":
        return mlp(inner, outputs, model)
    if model.kind == "cnn":
        return cnn(inner, outputs, model)
    if model.kind == "resnet":
        return resnet(inner, outputs, model)
    body = _imported(model.kind, folder)(inner, outputs)
    _check_body(body, inner, outputs, model.kind)
    return body


def mlp(shape: tuple[int, ...], outputs: int, model: Model) -> nn.Sequential:
    """Return `depth` layers of `width` with batch norm and dropout, then a linear layer."""
    layers: list[nn.Module] = [nn.Flatten()]
    width = int(np.prod(shape))
    for _ in range(model.depth):
        layers += [nn.Linear(width, model.width, bias=False), nn.BatchNorm1d(model.width), nn.ReLU()]
        layers += [nn.Dropout(model.dropout)]
        width = model.width
    return nn.Sequential(*layers, nn.Linear(width, outputs))


def cnn(shape: tuple[int, ...], outputs: int, model: Model) -> nn.Sequential:
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
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(channels * height * width, outputs))


def predict(model: Trainable, x: np.ndarray, batch_rows: int = 1024) -> tuple[np.ndarray, ...]:
    """Return what `model` answers for x (n, *shape) in evaluation mode, float32.

    Probabilities and logits (n, classes) of a Classifier, the prediction (n, 1) of a Regressor; then the embedding
    (n, width) if the model has one.
    """
    was_training, device = model.training, next(model.buffers()).device
    model.eval()
    parts = []
    with torch.inference_mode():
        for start in range(0, len(x), batch_rows):
            answer = model(torch.from_numpy(np.array(x[start : start + batch_rows])).to(device))
            parts.append(answer if isinstance(answer, tuple) else (answer,))
    model.train(was_training)
    return tuple(np.concatenate([part.cpu().numpy() for part in output]) for output in zip(*parts, strict=True))


def embedding_width(model: Trainable, x: np.ndarray) -> int:
    """Return the numbers in the embedding of a row, found by asking for the rows x (n, *shape); 0 without one."""
    more = predict(model, x)[2 if isinstance(model, Classifier) else 1 :]
    return int(more[0].shape[1]) if more else 0


def parameter_count(model: nn.Module) -> int:
    """Return how many numbers training changes."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _imported(kind: str, folder: Path) -> Callable[[tuple[int, ...], int], nn.Module]:
    name, _, function = kind.partition(":")
    sys.path.insert(0, str(folder))
    try:
        made: Callable[[tuple[int, ...], int], nn.Module] = getattr(importlib.import_module(name), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"model.kind: {kind!r} cannot be imported: {error}; accepted are {', '.join(MODEL_KINDS)} or "
            f"module:function, with the module installed or in {folder}"
        ) from error
    finally:
        sys.path.remove(str(folder))
    return made


def _check_body(body: object, shape: tuple[int, ...], outputs: int, kind: str) -> None:
    if not isinstance(body, nn.Module):
        raise ConfigError(f"model.kind: {kind} returned {type(body).__name__}; accepted is a torch.nn.Module")
    try:
        with torch.inference_mode():
            body.eval()
            answer = body(torch.zeros(2, *shape))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise ConfigError(f"model.kind: {kind} does not take rows of shape {shape}: {error}") from error
    first, *more = answer if isinstance(answer, tuple) and answer else (answer,)
    if not isinstance(first, Tensor) or tuple(first.shape) != (2, outputs) or len(more) > 1:
        found = tuple(first.shape) if isinstance(first, Tensor) and len(more) < 2 else type(answer).__name__
        raise ConfigError(f"model.kind: {kind} answers {found} for 2 rows; accepted is (2, {outputs})")
    for found in more:
        if not isinstance(found, Tensor) or found.ndim < 2 or len(found) != 2 or not found.is_floating_point():
            what = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise ConfigError(f"model.kind: {kind} embeds 2 rows as {what}; accepted are floats (2, ...)")


def _answers(said: Tensor | tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    # The answer and, if there is one, the embedding as float32 (n, width).
    return (said[0], said[1].flatten(1).float()) if isinstance(said, tuple) else (said,)
