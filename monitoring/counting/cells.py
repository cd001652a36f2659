"""Numbers that outlive their process: cells of 8 bytes in a file that is mapped into memory.

Each worker of a service owns files in a folder they share, see `monitoring.counting.gather`. To count is one store into
memory: a worker killed at any moment loses nothing that it counted. What a cell is stands in a file beside, one line
of JSON for each, written before the cell is used.
"""

import itertools
import json
import logging
import mmap
import os
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from monitoring.counting import processes
from monitoring.counting.processes import Process

log = logging.getLogger(__name__)

CELL_BYTES = 8
SEGMENT_CELLS = 32_768  # 256 kB; a typical model needs 2,000 cells
COUNTER, GAUGE = "counter", "gauge"
CELLS, NAMES = ".cells", ".names"
Doubles: TypeAlias = "memoryview[float]"
_opened = itertools.count()


@dataclass(frozen=True)
class Entry:
    """What the `size` cells from the cell `at` on are. kind: counter or gauge."""

    kind: str
    name: str
    labels: tuple[str, ...]
    at: int
    size: int


@dataclass(frozen=True)
class Found:
    """The values of an entry in one process; float64 (size,)."""

    entry: Entry
    values: np.ndarray


class Cells:
    """Cells of this process. Any thread may take some; each is then written by one thread at a time."""

    def __init__(self, folder: Path | None, group: str = "", segment_cells: int = SEGMENT_CELLS) -> None:
        """folder: where other processes find them; None keeps them private. Raises OSError if it cannot be used.

        group: what cells of a file of their own have in common; no "-" in it.
        """
        self.entries: list[tuple[Entry, Doubles]] = []
        self._folder = folder
        self._lock = threading.Lock()
        self._segments: list[Doubles] = []
        self._used = self._end = 0
        self._segment_cells = segment_cells
        self._file = self._names = -1
        self.process = processes.find(os.getpid()) or Process(os.getpid(), 0)
        self.name = f"{self.process.pid}-{self.process.started_ticks}-{next(_opened)}" + (f"-{group}" if group else "")
        if folder is not None:
            try:
                self._names = _create(folder / (self.name + NAMES), os.O_APPEND)
                self._file = _create(folder / (self.name + CELLS))
                self._grow(segment_cells, self._file)
            except OSError:
                self.close()
                remove(folder, self.name)
                raise
        self.cpu = self._cells(1)  # CPU seconds of the process

    def take(self, kind: str, name: str, labels: tuple[str, ...], size: int) -> Doubles:
        """Return `size` new cells of value 0, as doubles.

        When the disk is full they are private: this process goes on, and what it counts there is lost with it.
        """
        with self._lock:
            cells = self._cells(size)
            entry = Entry(kind, name, labels, self._used - size, size)
            self._write_down(entry)
            self.entries.append((entry, cells))
            return cells

    def found(self) -> list[Found]:
        """Return a copy of all values."""
        return [Found(entry, np.array(cells)) for entry, cells in list(self.entries)]

    def close(self) -> None:
        """Close the files; what is mapped of them stays as long as somebody counts there."""
        for file in (self._file, self._names):
            if file >= 0:
                os.close(file)
        self._file = self._names = -1

    def _cells(self, size: int) -> Doubles:
        if self._used + size > self._end:
            self._grow(max(size, self._segment_cells), self._file)
        start = self._used - (self._end - len(self._segments[-1]))
        self._used += size
        return self._segments[-1][start : start + size]

    def _grow(self, cells: int, file: int) -> None:
        # Space is taken before it is mapped: a store into a page that a full disk cannot give kills the process.
        size_bytes = -(-cells * CELL_BYTES // mmap.ALLOCATIONGRANULARITY) * mmap.ALLOCATIONGRANULARITY
        self._used = self._end
        if file >= 0:
            try:
                os.posix_fallocate(file, self._end * CELL_BYTES, size_bytes)
            except OSError as error:
                if not self._segments:
                    raise
                self._go_private(error)
                file = -1
        mapped = mmap.mmap(file, size_bytes, offset=self._end * CELL_BYTES if file >= 0 else 0)
        self._segments.append(memoryview(mapped).cast("d"))
        self._end += size_bytes // CELL_BYTES

    def _write_down(self, entry: Entry) -> None:
        if self._names < 0:
            return
        line = json.dumps(asdict(entry)).encode() + b"\n"
        before = os.lseek(self._names, 0, os.SEEK_END)
        try:
            if os.write(self._names, line) != len(line):
                raise OSError("no space for the name of a cell")
        except OSError as error:
            os.ftruncate(self._names, before)
            self._go_private(error)

    def _go_private(self, error: OSError) -> None:
        log.error("metrics_not_shared", extra={"folder": str(self._folder), "error": str(error)})
        self._file = self._names = -1


def remove(folder: Path, name: str) -> None:
    """Remove the files of `name`, in an order in which what a kill leaves over is seen and removed."""
    for ending in (NAMES, CELLS):
        (folder / (name + ending)).unlink(missing_ok=True)


def _create(path: Path, flags: int = 0) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)
