"""Several processes that train one model: `torchrun --nproc-per-node 2 -m vigil train CONFIG`.

Each process computes a share of every batch, and what depends on all rows is added up over the
processes: gradients, the statistics of batch norm, the loss. Dropout draws for all rows everywhere and
uses its own part. So on the CPU the processes together do what one would do alone, up to rounding.
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from registry.errors import StackError

PATIENCE = timedelta(minutes=30)  # for a process that is alive: rank 0 saves while the others wait


@dataclass
class Place:
    """Where the rows now in the network lie among those of all processes; see batches.Piece."""

    first: int = 0
    whole: int = 0


@dataclass(frozen=True)
class World:
    """The processes of this run; one process needs no other, and then nothing here costs anything."""

    rank: int = 0
    size: int = 1
    place: Place = field(default_factory=Place)

    @property
    def leads(self) -> bool:
        """Return whether this process writes the files and speaks to the user."""
        return self.rank == 0

    def share(self, rows: np.ndarray) -> tuple[int, np.ndarray]:
        """Return the number of the first row that is this process's, and its rows, of `rows` (n,)."""
        parts = np.array_split(rows, self.size)
        return sum(len(part) for part in parts[: self.rank]), parts[self.rank]

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.size > 1:
            distributed.barrier()

    def add_up(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by its sum over the processes; all of one dtype."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        distributed.all_reduce(flat)
        for tensor, part in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))


def rank() -> int:
    """Return the number that torchrun gave this process, 0 without torchrun."""
    return int(os.environ.get("RANK", "0"))


def size() -> int:
    """Return how many processes torchrun started, 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def words() -> list[str]:
    """Return how this program was started, as the first words of a command."""
    return ["torchrun", "--nproc-per-node", str(size()), "-m", "vigil"] if size() > 1 else ["vigil"]


def demand_one(verb: str) -> None:
    """Raise StackError if torchrun started several processes: `verb` trains many times, each in one process."""
    if size() > 1:
        raise StackError(f"vigil {verb}: started {size()} times by torchrun; accepted is one process: vigil {verb} ...")


@contextmanager
def joined(device: str) -> Iterator[World]:
    """Join the processes that torchrun started, until the block ends; without torchrun, this process is alone.

    device: "cpu" talks over gloo, "cuda" over NCCL with one GPU per process.
    Raises StackError if another process of the run ends before the block does.
    """
    if size() == 1:
        yield World()
        return
    if device == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    distributed.init_process_group("nccl" if device == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield World(rank(), size())
    except RuntimeError as error:
        if not is_loss(error):
            raise
        # torchrun sends SIGTERM to those that are left within a tenth of a second; this one ends by itself.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise StackError(
            f"training: process {rank()} of {size()} stopped, because another one ended (killed, out of memory, or "
            "with a message of its own); what was saved last is whole: start all of them again with --resume"
        ) from error
    except BaseException:
        distributed.destroy_process_group()
        raise
    distributed.destroy_process_group()


def is_loss(error: RuntimeError) -> bool:
    """Return whether `error` says that another process of the run is gone."""
    return any(sign in str(error) for sign in _LOST)


_LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "gloo", "NCCL")


def shared(model: nn.Module, world: World) -> None:
    """Make the batch norm and the dropout of `model` see the rows of all processes; names of weights stay."""
    if world.size == 1:
        return
    for name, child in model.named_children():
        if isinstance(child, _BatchNorm):
            setattr(model, name, _SharedNorm(child, world.place))
        elif type(child) is nn.Dropout:
            setattr(model, name, _SharedDropout(child, world.place))
        else:
            shared(child, world)


class _SharedNorm(_BatchNorm):
    """Batch norm whose mean and variance are those of the rows of all processes, in float32."""

    def __init__(self, norm: _BatchNorm, place: Place) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        self.load_state_dict(norm.state_dict())
        self.place = place

    def _check_input_dim(self, input: Tensor) -> None:  # noqa: A002 (the name is that of PyTorch)
        pass

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return super().forward(x)
        wide = x.float()
        axes, shape = [0, *range(2, x.ndim)], (1, -1, *[1] * (x.ndim - 2))
        cells = self.place.whole * wide[0, 0].numel()
        mean = _sum(wide.sum(axes)) / cells
        centred = wide - mean.view(shape)
        variance = _sum((centred**2).sum(axes)) / cells
        self._follow(mean.detach(), variance.detach() * cells / (cells - 1))
        y = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            y = y * self.weight.view(shape) + self.bias.view(shape)
        answer: Tensor = y.to(x.dtype)
        return answer

    def _follow(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        step = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, step)
        self.running_var.lerp_(variance, step)


class _Sum(torch.autograd.Function):
    """The sum over the processes; each of them depends on it, so the gradient is the sum of theirs."""

    @staticmethod
    def forward(_context: object, own: Tensor) -> Tensor:
        total = own.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_context: object, gradient: Tensor) -> Tensor:
        return _Sum.forward(_context, gradient)


def _sum(own: Tensor) -> Tensor:
    total: Tensor = _Sum.apply(own)  # type: ignore[no-untyped-call]
    return total


class _SharedDropout(nn.Dropout):
    """Dropout that draws for the rows of all processes, as one process would, and uses its own part."""

    def __init__(self, dropout: nn.Dropout, place: Place) -> None:
        super().__init__(dropout.p)
        self.place = place

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        last = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
        layout = torch.channels_last if last else torch.contiguous_format
        ones = torch.ones((self.place.whole, *x.shape[1:]), dtype=x.dtype, device=x.device)
        drawn = functional.dropout(ones.contiguous(memory_format=layout), self.p)
        return x * drawn[self.place.first : self.place.first + len(x)]
