"""Which rows a step sees, and their changed copies, made ready in the background one step ahead."""

from collections import deque
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from registry.errors import ConfigError
from training.config import Config
from training.fit import augment, checkpoint
from training.fit.distributed import World
from training.rows.data import Moments

AHEAD = 2


@dataclass(frozen=True)
class Rows:
    """Raw rows (n, *shape) with labels int64 (n,), or targets float64 (n,) in a regression."""

    x: np.ndarray
    y: np.ndarray


@dataclass(frozen=True)
class Piece:
    """Rows that go through the network at once.

    x: float32 (n, *shape), raw scale.  y, partner_y, share: see augment.Batch.
    first, whole: with those of the other processes they are `whole` rows, of which the first is number `first`.
    """

    x: Tensor
    y: Tensor
    partner_y: Tensor
    share: Tensor
    first: int
    whole: int


def deal(rows: int, batch_rows: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Return the row numbers of each batch of `epoch`, sizes equal to within one row.

    A short last batch would make batch norm noisy, and fail with one row; so batches hold between
    `batch_rows` and twice as many.
    """
    return np.array_split(checkpoint.order(rows, seed, epoch).numpy(), max(1, rows // batch_rows))


def cut(batch: np.ndarray, micro_rows: int) -> list[np.ndarray]:
    """Return a batch in pieces of at most `micro_rows`, sizes equal to within one row; 0 leaves it whole.

    No piece has a single row, which batch norm cannot take: a batch of 3 is not cut into 2 and 1.
    """
    count = -(-len(batch) // micro_rows) if micro_rows else 1
    return np.array_split(batch, max(1, min(count, len(batch) // 2)))


class Feed:
    """The batches of a run, each a pure function of its step."""

    def __init__(self, config: Config, train: Rows, moments: Moments, world: World, device: torch.device) -> None:
        self.config, self.train, self.moments, self.world, self.device = config, train, moments, world, device
        self.per_epoch = max(1, len(train.y) // config.loop.batch_rows)
        if world.size > config.loop.batch_rows:
            raise ConfigError(
                f"loop.batch_rows: {config.loop.batch_rows} rows for {world.size} processes; "
                "at least one for each is needed: raise it, or start fewer"
            )
        self._dealt_epoch, self._dealt = -1, list[np.ndarray]()

    def batch(self, step: int) -> list[Piece]:
        """Return the pieces of this process of the batch of `step`."""
        loop = self.config.loop
        epoch, position = divmod(step, self.per_epoch)
        if epoch != self._dealt_epoch:
            self._dealt_epoch, self._dealt = epoch, deal(len(self.train.y), loop.batch_rows, loop.seed, epoch)
        return [self._piece(rows, epoch) for rows in cut(self._dealt[position], loop.micro_rows * self.world.size)]

    def ahead(self, start: int, stop: int) -> Generator[list[Piece], None, None]:
        """Give `batch` of each step from `start` up to `stop`, the next ones being made meanwhile."""
        with ThreadPoolExecutor(1, thread_name_prefix="feed") as pool:
            steps = iter(range(start, stop))
            waiting = deque(pool.submit(self.batch, step) for step in islice(steps, AHEAD))
            try:
                while waiting:
                    ready = waiting.popleft()
                    waiting.extend(pool.submit(self.batch, step) for step in islice(steps, 1))
                    yield ready.result()
            finally:
                pool.shutdown(cancel_futures=True)

    def _piece(self, rows: np.ndarray, epoch: int) -> Piece:
        first, own = self.world.share(rows)
        keyed = augment.Keyed(self.config.loop.seed, epoch, own)
        made = augment.batch(self.train.x, self.train.y, keyed, self.config.augment, self.moments)
        x, y, partner_y, share = (self._tensor(array) for array in (made.x, made.y, made.partner_y, made.share))
        return Piece(x, y, partner_y, share, first, len(rows))

    def _tensor(self, array: np.ndarray) -> Tensor:
        tensor = torch.from_numpy(array)
        return tensor if self.device.type == "cpu" else tensor.pin_memory().to(self.device, non_blocking=True)
