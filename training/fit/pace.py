"""How fast an epoch ran, and how much of it was not spent on the network."""

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Pace:
    """The clock of one epoch: it runs from the first wait for a batch to the end of the last step."""

    def __init__(self) -> None:
        self.rows, self.compute_s = 0, 0.0
        self.start = self.end = time.perf_counter()

    @contextmanager
    def computing(self, rows: int) -> Iterator[None]:
        """Count the block, one step over `rows` rows, as time for the network."""
        before = time.perf_counter()
        yield
        self.end = time.perf_counter()
        self.compute_s += self.end - before
        self.rows += rows

    def entry(self, epoch: int) -> dict[str, float]:
        """Return what was measured; call it before validation, which is timed apart.

        outside_share: of train_s, the share outside forward, backward and step: waiting for rows, the
        progress bar, checkpoints between steps. A resumed epoch counts from where it went on.
        """
        train_s = max(self.end - self.start, 1e-9)
        return {
            "epoch": epoch, "rows": self.rows, "train_s": round(train_s, 4),
            "rows_per_s": round(self.rows / train_s, 1), "outside_share": round(1 - self.compute_s / train_s, 4),
        }  # fmt: skip
