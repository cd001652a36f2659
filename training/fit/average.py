"""The moving average of the weights: less noisy than the weights of any one step."""

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)


class Average(Generic[Model]):
    """A copy of a model whose numbers follow it slowly.

    The running mean and variance of batch norm are averaged as the weights are, so that they belong
    together; counters are copied. The decay starts low, (1 + step) / (10 + step), or the random weights of
    the start would be part of the average for 1 / (1 - decay) steps.
    """

    def __init__(self, model: Model, decay: float) -> None:
        self.decay = decay
        self.model = copy.deepcopy(model).eval().requires_grad_(False)

    def update(self, model: Model, step: int) -> None:
        """Take in the numbers of `model` after optimizer step `step`, which counts from 1."""
        decay = min(self.decay, (1 + step) / (10 + step))
        pairs = list(zip(self.model.state_dict().values(), model.state_dict().values(), strict=True))
        moving = [(old, new) for old, new in pairs if old.is_floating_point()]
        torch._foreach_lerp_([old for old, _ in moving], [new for _, new in moving], 1 - decay)
        for old, new in pairs:
            if not old.is_floating_point():
                old.copy_(new)
