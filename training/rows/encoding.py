"""Raw rows -> what a network reads, as one step of the exported graph."""

import math

import numpy as np
import torch
from torch import Tensor, nn

from registry.release import InputSpec
from training.rows.data import Moments

_CHUNK_ROWS = 8192


class Encoder(nn.Module):
    """Standardise numbers by the moments of the training rows, turn categories into one-hot columns.

    Rows (n, *shape), uint8 or float32, become float32: a table (n, wide), where a categorical column of
    k values takes k columns in its place; images get their channels first. A cell that holds no index
    of its category (a masked one) has 0 in all k. channels_last: leave the channels of images where they
    lie in memory; that is fast where the weights lie so, too.
    """

    mean: Tensor
    std: Tensor
    source: Tensor
    code: Tensor
    is_code: Tensor

    def __init__(self, moments: Moments, spec: InputSpec | None = None) -> None:
        super().__init__()
        self.register_buffer("mean", torch.from_numpy(np.array(moments.mean)))
        self.register_buffer("std", torch.from_numpy(np.array(moments.std)))
        self.channels_last = False
        self.mixed = spec is not None and bool(spec.categories)
        if spec is not None and self.mixed:
            layout = np.array(_layout(spec))
            self.register_buffer("source", torch.from_numpy(layout[:, 0]))
            self.register_buffer("code", torch.from_numpy(layout[:, 1].astype(np.float32)))
            self.register_buffer("is_code", torch.from_numpy(layout[:, 1] >= 0))

    def forward(self, rows: Tensor) -> Tensor:
        """Return what the body of a network takes."""
        plain = rows.to(torch.float32)
        x = (plain - self.mean) / self.std
        if x.ndim == 3:
            return x.unsqueeze(1)  # (n, height, width) -> (n, 1, height, width)
        if x.ndim == 4:
            first = x.movedim(3, 1)  # (n, height, width, channels) -> (n, channels, height, width)
            return first if self.channels_last else first.contiguous()
        if not self.mixed:
            return x
        same = (plain[:, self.source] == self.code).to(torch.float32)
        return torch.where(self.is_code, same, x[:, self.source])

    def augmentable(self) -> Moments:
        """Return the moments that changed copies of rows are made by: a category gets no noise, -1 is its mask."""
        mean, std = self.mean.cpu().numpy(), self.std.cpu().numpy()
        if not self.mixed:
            return Moments(mean, std)
        is_code = np.zeros(len(mean), dtype=bool)
        is_code[self.source[self.is_code].cpu().numpy()] = True
        return Moments(np.where(is_code, np.float32(-1), mean), np.where(is_code, np.float32(0), std))


def shape(spec: InputSpec) -> tuple[int, ...]:
    """Return the shape of one encoded row, without channels moved: (wide,) for a table, else that of an image."""
    return (len(_layout(spec)),) if spec.categories else spec.shape


def flat(encoder: Encoder, x: np.ndarray) -> np.ndarray:
    """Return the encoded rows of x (n, *shape) as float32 (n, wide)."""
    wide = len(encoder.source) if encoder.mixed else math.prod(x.shape[1:])
    encoded = np.empty((len(x), wide), dtype=np.float32)
    with torch.inference_mode():
        for start in range(0, len(x), _CHUNK_ROWS):
            part = torch.from_numpy(np.array(x[start : start + _CHUNK_ROWS]))
            encoded[start : start + _CHUNK_ROWS] = encoder(part).flatten(1).numpy()
    return encoded


def _layout(spec: InputSpec) -> list[tuple[int, int]]:
    # One (raw column, index of the value) per encoded column; the index of a number is -1.
    return [
        (position, code)
        for position, column in enumerate(spec.columns)
        for code in (range(len(spec.categories[column])) if column in spec.categories else (-1,))
    ]
