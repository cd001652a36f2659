"""Save and restore a run so that a killed run continues bit for bit."""

import io
import random
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from registry import durable
from registry.errors import CheckpointError


@dataclass
class State:
    """Everything a run needs to go on. Data order is not here: it is `order(seed, epoch)`.

    settings: what must be the same to go on, see `load`. loss_sum: of the epoch so far, over its rows.
    history, timing: one entry per finished epoch. best: weights at the lowest validation loss.
    average: the moving average of the weights, {} without one. scaler: of fp16 gradients, {} without one.
    """

    step: int
    settings: dict[str, Any]
    model: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    best: dict[str, torch.Tensor]
    best_loss: float = float("inf")
    best_epoch: int = -1
    loss_sum: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    timing: list[dict[str, float]] = field(default_factory=list)
    average: dict[str, torch.Tensor] = field(default_factory=dict)
    scaler: dict[str, Any] = field(default_factory=dict)


def save(path: Path, state: State) -> None:
    """Write `state` and the random states to `path`, or leave the old file untouched.

    The bytes reach the disk under another name first: a crash can lose the newest checkpoint,
    never the last good one.
    """
    content = vars(state) | {"torch_rng": torch.get_rng_state(), "python_rng": random.getstate()}
    content["cuda_rng"] = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
    buffer = io.BytesIO()
    torch.save(content, buffer)
    durable.write_atomically(path, buffer.getvalue())


def load(path: Path, settings: dict[str, Any]) -> State:
    """Return the state in `path` and put the random generators back where they were.

    Raises CheckpointError if the file is absent or damaged, or was written under settings other
    than `settings`; the message lists the keys that differ.
    """
    try:
        with zipfile.ZipFile(path) as packed:
            if damaged := packed.testzip():  # which PyTorch does not look at
                raise zipfile.BadZipFile(f"{damaged} is not what was written")
        content = torch.load(path, map_location="cpu", weights_only=True)
        torch_rng, python_rng, cuda_rng = (content.pop(f"{kind}_rng") for kind in ("torch", "python", "cuda"))
        state = State(**content)
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such checkpoint; train without --resume") from None
    except Exception as error:  # torch raises many types for a damaged file
        raise CheckpointError(f"{path}: cannot be read: {error}; train without --resume") from error
    if different := differences(state.settings, settings):
        raise CheckpointError(
            f"{path}: written under other settings or data: {'; '.join(different)}; "
            "put them back, or train without --resume"
        )
    torch.set_rng_state(torch_rng)
    random.setstate(python_rng)
    if cuda_rng is not None and torch.cuda.is_available():
        torch.cuda.set_rng_state(cuda_rng)
    return state


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Return "key was old, is now new" for each value that differs, nested keys with dots."""
    found = []
    for key in sorted(old.keys() | new.keys()):
        was, now = old.get(key), new.get(key)
        if isinstance(was, dict) and isinstance(now, dict):
            found += differences(was, now, f"{prefix}{key}.")
        elif was != now:
            found.append(f"{prefix}{key} was {was!r}, is now {now!r}")
    return found


def order(rows: int, seed: int, epoch: int) -> torch.Tensor:
    """Return the row order of `epoch`, int64 (rows,): the same on every machine and restart."""
    return torch.randperm(rows, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
