"""One optimizer step: forward, backward, clip, update, in any precision and over any number of processes."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch

from registry.errors import ConfigError
from training.config import Config, Loop, Optimizer
from training.fit.batches import Piece
from training.fit.distributed import World
from training.fit.models import Trainable

KINDS = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Stepper:
    """A model and its optimizer; the scaler keeps small fp16 gradients from vanishing."""

    def __init__(self, config: Config, model: Trainable, world: World) -> None:
        self.config, self.model, self.world = config, model, world
        self.device = next(model.parameters()).device
        self.kind = KINDS.get(precision(config.loop, self.device))
        self.optimizer = optimizer(model, config.optimizer)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.kind == torch.float16)
        self.trained = [p for p in model.parameters() if p.requires_grad]

    def step(self, pieces: list[Piece], rate: float, asked: Callable[[], int] = lambda: 0) -> tuple[float, bool]:
        """Change the weights once; return the mean loss over the rows of the batch, of all processes.

        The pieces weigh by their rows, so how a batch is cut changes nothing but what batch norm sees.
        Returned with it: whether `asked`, called after the backward pass, was not 0 in some process.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.model.train()
        self.optimizer.zero_grad()
        rows = sum(piece.whole for piece in pieces)
        total = torch.zeros(2, device=self.device)
        for piece in pieces:
            loss = self._loss(piece) / rows
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            total[0] += loss.detach()
        total[1] = asked()
        self._change(total)
        return float(total[0]), bool(total[1])

    def _loss(self, piece: Piece) -> torch.Tensor:
        self.world.place.first, self.world.place.whole = piece.first, piece.whole
        smoothing = self.config.optimizer.label_smoothing
        with self._autocast():
            raw = self.model.raw(piece.x)
        losses = piece.share * self.model.losses(raw, piece.y, smoothing)
        if self.config.augment.mixup:
            losses = losses + (1 - piece.share) * self.model.losses(raw, piece.partner_y, smoothing)
        return losses.sum()

    def _change(self, total: torch.Tensor) -> None:
        gradients = [p.grad for p in self.trained if p.grad is not None]
        self.world.add_up([*gradients, total])
        if clip := self.config.loop.clip_norm:
            self.scaler.unscale_(self.optimizer)
            torch.nn.utils.clip_grad_norm_(self.trained, clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()

    def _autocast(self) -> AbstractContextManager[object]:
        return torch.autocast(self.device.type, self.kind) if self.kind else nullcontext()


def optimizer(model: torch.nn.Module, settings: Optimizer) -> torch.optim.AdamW:
    """Return AdamW that decays weights only: biases and norms have one dimension and are left alone."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW([g for g in groups if g["params"]], betas=(settings.beta1, settings.beta2))


def device(loop: Loop) -> torch.device:
    """Return where the network is trained; raises ConfigError if cuda was asked for and is not there."""
    present = torch.cuda.is_available()
    if loop.device == "cuda" and not present:
        raise ConfigError("loop.device: 'cuda', but PyTorch finds no GPU; accepted here are cpu and auto")
    return torch.device("cuda" if present and loop.device != "cpu" else "cpu")


def precision(loop: Loop, place: torch.device) -> str:
    """Return fp32, bf16 or fp16; `auto` is bf16 where the processor computes in it.

    Raises ConfigError for fp16 on the CPU, which gains nothing there.
    """
    if loop.precision == "fp16" and place.type == "cpu":
        raise ConfigError("loop.precision: 'fp16' needs a GPU; accepted on the CPU are fp32, bf16 and auto")
    if loop.precision != "auto":
        return loop.precision
    if place.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    found = torch.cpu.get_capabilities()
    return "bf16" if found.get("amx_bf16") or found.get("avx512_bf16") else "fp32"
