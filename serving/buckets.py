"""The token buckets of all workers of a service: a key's limit holds for them together.

A bucket is one number, up to when the pace of its key is used up, on the clock that all processes of a machine
share. The numbers lie in a mapped file. Workers do not wait for each other: two that let a request of one key
through within the same fraction of a microsecond may count it as one.
"""

import mmap
import os
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TypeAlias

from registry import durable

Cell: TypeAlias = "memoryview[float] | list[float]"

SLOTS = 16_384
SLOT_BYTES = 16  # the first 8 bytes of a digest, then the number


class Buckets:
    """Finds the bucket of a key."""

    def __init__(self, folder: Path | None) -> None:
        """folder: where the other workers find the buckets; None keeps them private."""
        self._lock: Path | None = None
        content: mmap.mmap | bytearray = bytearray(SLOTS * SLOT_BYTES)
        if folder is not None:
            self._lock = folder / "buckets.lock"
            descriptor = os.open(folder / "buckets", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.ftruncate(descriptor, SLOTS * SLOT_BYTES)
                content = mmap.mmap(descriptor, SLOTS * SLOT_BYTES)
            finally:
                os.close(descriptor)
        self._tags = memoryview(content).cast("Q")
        self._times = memoryview(content).cast("d")

    def of(self, digests: Iterable[bytes]) -> dict[bytes, Cell]:
        """Return the bucket of each digest, the same one each time, a full one at first.

        A key beyond the first `SLOTS` ones of a service shares the bucket of another.
        """
        guard: AbstractContextManager[None] = durable.locked(self._lock) if self._lock else nullcontext()
        with guard:
            return {digest: self._find(digest) for digest in digests}

    def _find(self, digest: bytes) -> Cell:
        tag = int.from_bytes(digest[:8], "little") or 1
        at = tag % SLOTS
        for _ in range(SLOTS):
            if self._tags[2 * at] in (0, tag):
                break
            at = (at + 1) % SLOTS
        if not self._tags[2 * at]:
            self._tags[2 * at] = tag
        return self._times[2 * at + 1 : 2 * at + 2]
