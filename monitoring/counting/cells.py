"""Numbers that outlive their process: cells of 8 bytes in a file that is mapped into memory.

Each worker of a service owns one file in a folder they share. To count is one store into memory: a worker
killed at any moment loses nothing that it counted, and whoever is scraped adds the files up. What a cell is
stands in a file beside, one line of JSON for each, written before the cell is used.
"""

import contextlib
import fcntl
import itertools
import json
import logging
import mmap
import os
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np

from monitoring.counting import processes
from monitoring.counting.processes import Process

log = logging.getLogger(__name__)

CELL_BYTES = 8
SEGMENT_CELLS = 32_768  # 256 kB; a typical model needs 2,000 cells
COUNTER, GAUGE = "counter", "gauge"
CELLS, NAMES, DEAD, LOCK = ".cells", ".names", "dead.json", "lock"
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


@dataclass
class Reading:
    """What all processes of a folder have counted. cpu_s: of the living and the dead."""

    found: list[Found] = field(default_factory=list)
    uses: list[dict[str, float]] = field(default_factory=list)
    cpu_s: float = 0.0


class Cells:
    """The cells of this process. Any thread may take some; each is then written by one thread at a time."""

    def __init__(self, folder: Path | None) -> None:
        """folder: where other processes find them; None keeps them private. Raises OSError if it cannot be used."""
        self.entries: list[tuple[Entry, Doubles]] = []
        self._folder = folder
        self._lock = threading.Lock()
        self._segments: list[Doubles] = []
        self._used = self._end = 0
        self._others: dict[str, _Other] = {}
        self._process = processes.find(os.getpid()) or Process(os.getpid(), 0)
        self._file = self._names = -1
        self.name = f"{self._process.pid}-{self._process.started_ticks}-{next(_opened)}"
        if folder is not None:
            self._names = _create(folder / (self.name + NAMES), os.O_APPEND)
            self._file = _create(folder / (self.name + CELLS))
            self._grow(SEGMENT_CELLS, self._file)
        self._own_cpu = self._cells(1)

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

    def read(self) -> Reading:
        """Return the values of all living processes, and the counters of the dead; gauges die with theirs."""
        own = processes.used(self._process.pid)
        self._own_cpu[0] = own.get(processes.CPU, 0.0)
        reading = Reading([Found(entry, np.array(cells)) for entry, cells in self.entries], [own], self._own_cpu[0])
        if self._folder is not None:
            with contextlib.suppress(FileNotFoundError), _locked(self._folder):
                self._read_others(self._folder, reading)
        return reading

    def _read_others(self, folder: Path, reading: Reading) -> None:
        dead = _Dead(folder)
        present = {path.stem for path in folder.glob(f"*{CELLS}")} - {self.name}
        for name in present - dead.folded:
            other = self._others.setdefault(name, _Other(folder, name))
            if other.process.lives():
                other.add_to(reading)
            else:
                dead.fold(other)
        dead.settle(present)
        self._others = {name: other for name, other in self._others.items() if name in present - dead.folded}
        reading.found += dead.found
        reading.cpu_s += dead.cpu_s

    def _cells(self, size: int) -> Doubles:
        if self._used + size > self._end:
            self._grow(max(size, SEGMENT_CELLS), self._file)
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


class _Other:
    """The file of another process, as far as it was read."""

    def __init__(self, folder: Path, name: str) -> None:
        pid, started_ticks, _ = map(int, name.split("-"))
        self.name = name
        self.process = Process(pid, started_ticks)
        self._path = folder / name
        self._entries: list[Entry] = []
        self._parsed = 0
        self._cells = np.zeros(0)

    def add_to(self, reading: Reading) -> None:
        """Add what a living process holds, and remember in its file the CPU time it has used by now."""
        values = self.values()
        reading.found += [Found(entry, _part(values, entry)) for entry in self._entries]
        use = processes.used(self.process.pid)
        if len(values):
            self._cells[0] = max(use.get(processes.CPU, 0.0), values[0])  # for the time when nobody can ask it
            reading.cpu_s += self._cells[0]
        reading.uses.append(use)

    def values(self) -> np.ndarray:
        """Return a copy of all cells, float64."""
        self._parse()
        self._map()
        return self._cells.copy()

    def counters(self) -> list[Found]:
        """Return what is worth keeping of a process that is gone."""
        values = self.values()
        return [Found(entry, _part(values, entry)) for entry in self._entries if entry.kind == COUNTER]

    def _parse(self) -> None:
        with self._path.with_suffix(NAMES).open("rb") as stream:
            stream.seek(self._parsed)
            whole, _, _ = stream.read().rpartition(b"\n")  # the last line may be half written
        for line in whole.splitlines():
            said = json.loads(line)
            self._entries.append(Entry(**said | {"labels": tuple(said["labels"])}))
        self._parsed += len(whole) + 1 if whole else 0

    def _map(self) -> None:
        with self._path.with_suffix(CELLS).open("r+b") as stream:
            size_bytes = os.fstat(stream.fileno()).st_size
            if size_bytes > self._cells.nbytes:
                self._cells = np.frombuffer(mmap.mmap(stream.fileno(), size_bytes), np.float64)


class _Dead:
    """The counters of the processes that are gone, in one file. The caller holds the lock of the folder.

    folded: the files that are in it. One that still lies there, because whoever removed it was killed, is not
    added again.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._values: dict[tuple[str, tuple[str, ...], int], np.ndarray] = {}
        self.folded: set[str] = set()
        self.cpu_s = 0.0
        self._changed = False
        with contextlib.suppress(FileNotFoundError):
            said = json.loads((folder / DEAD).read_bytes())
            self.folded, self.cpu_s = set(said["folded"]), said["cpu_s"]
            for name, labels, values in said["counters"]:
                self._values[name, tuple(labels), len(values)] = np.array(values)

    @property
    def found(self) -> list[Found]:
        return [Found(Entry(COUNTER, *key[:2], 0, key[2]), values) for key, values in self._values.items()]

    def fold(self, other: _Other) -> None:
        """Add the counters of a process that is gone."""
        for one in other.counters():
            key = (one.entry.name, one.entry.labels, one.entry.size)
            self._values[key] = self._values.get(key, 0.0) + one.values
        self.cpu_s += float(other.values()[:1].sum())
        self.folded.add(other.name)
        self._changed = True

    def settle(self, present: set[str]) -> None:
        """Write the file if it changed, then remove those that are in it."""
        if self._changed:
            counters = [(name, labels, values.tolist()) for (name, labels, _), values in self._values.items()]
            said = {"folded": sorted(self.folded & present), "cpu_s": self.cpu_s, "counters": counters}
            path = self._folder / DEAD
            path.with_suffix(".new").write_text(json.dumps(said))
            os.replace(path.with_suffix(".new"), path)
        for name in self.folded & present:
            for ending in (NAMES, CELLS):  # in this order: what is left over after a kill is seen and removed
                (self._folder / (name + ending)).unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def _create(path: Path, flags: int = 0) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW | flags, 0o600)


def _part(values: np.ndarray, entry: Entry) -> np.ndarray:
    return values[entry.at : entry.at + entry.size]
