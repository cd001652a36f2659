"""What all workers of a service have counted, and which of it is still of interest.

A worker has one file of cells for what concerns the service, and one for each group: for all that is counted of one
release. Whoever is scraped adds up the files of the living, and of the dead what they counted. A group that no
living worker has a file of is not shown; its counters are kept, so that they go on where they were when it comes back.
"""

import contextlib
import fcntl
import json
import logging
import mmap
import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np

from monitoring.counting import cells, processes
from monitoring.counting.cells import CELLS, COUNTER, NAMES, Cells, Entry, Found
from monitoring.counting.processes import Process

log = logging.getLogger(__name__)

DEAD, JSON, LOCK = "dead", ".json", "lock"
GROUP_CELLS = 4096  # 32 kB; of a typical release there are 2,000
MOST_KEPT = 64  # groups whose counters are kept while nobody has them
Values: TypeAlias = dict[tuple[str, tuple[str, ...], int], np.ndarray]  # of counters, by name, labels and size


@dataclass
class Reading:
    """What all processes of a folder have counted. cpu_s: of the living and the dead."""

    found: list[Found] = field(default_factory=list)
    uses: list[dict[str, float]] = field(default_factory=list)
    cpu_s: float = 0.0


class Gathering:
    """The cells of this process, and those of the others in its folder. Any thread may call."""

    def __init__(self, folder: Path | None) -> None:
        """folder: None counts for this process alone. Raises OSError if it cannot be used."""
        self.base = Cells(folder)
        self._folder = folder
        self._groups: dict[str, Cells] = {}
        self._making, self._reading = threading.Lock(), threading.Lock()
        self._others: dict[str, _Other] = {}
        self._kept: dict[str, Values] = {}  # where there is no folder

    def group(self, name: str) -> Cells:
        """Return the cells of this process for a group; from then on it is shown."""
        with self._making:
            if name not in self._groups:
                self._groups[name] = self._make(name)
            return self._groups[name]

    def read(self) -> Reading:
        """Return the values of all living processes, and the counters of the dead; gauges die with theirs."""
        with self._reading:
            own = processes.used(self.base.process.pid)
            self.base.cpu[0] = own.get(processes.CPU, 0.0)
            groups = dict(self._groups)
            reading = Reading(uses=[own], cpu_s=self.base.cpu[0])
            for mine in (self.base, *groups.values()):
                reading.found += mine.found()
            for name in groups:
                reading.found += _as_found(self._kept.get(name, {}))
            if self._folder is not None:
                with contextlib.suppress(FileNotFoundError), _locked(self._folder):
                    self._read_others(self._folder, groups, reading)
            return reading

    def forget(self, name: str) -> bool:
        """Keep what this process counted in a group and give its cells back; return whether that was possible.

        Nobody may count there any more.
        """
        with self._reading:
            mine = self._groups.get(name)
            if mine is None:
                return False
            try:
                self._keep(name, mine)
            except OSError as error:
                log.error("counts_not_kept", extra={"folder": str(self._folder), "error": str(error)})
                return False
            with self._making:
                del self._groups[name]
            mine.close()
            return True

    def _make(self, name: str) -> Cells:
        try:
            return Cells(self._folder, name, GROUP_CELLS)
        except OSError as error:
            log.error("metrics_not_shared", extra={"folder": str(self._folder), "error": str(error)})
            return Cells(None, name, GROUP_CELLS)

    def _keep(self, name: str, mine: Cells) -> None:
        if self._folder is None:
            _add(self._kept.setdefault(name, {}), mine.found())
            for oldest in [one for one in self._kept if one == name or one not in self._groups][:-MOST_KEPT]:
                del self._kept[oldest]
            return
        with _locked(self._folder):
            present = self._present(self._folder)
            dead = _Dead(self._folder, name)
            dead.fold(mine.name, mine.found())
            dead.settle(present)
            _drop_oldest(self._folder, {_group_of(file) for file in present})

    def _read_others(self, folder: Path, groups: dict[str, Cells], reading: Reading) -> None:
        present = self._present(folder)
        names = present - {self.base.name, *(mine.name for mine in groups.values())}
        dead = {group: _Dead(folder, group) for group in {"", *groups, *map(_group_of, names)}}
        shown = {"", *groups}
        for name in names - set().union(*(one.folded for one in dead.values())):
            other = self._others.setdefault(name, _Other(folder, name))
            if other.process.lives():
                other.add_to(reading)
                shown.add(other.group)
            else:
                dead[other.group].fold(name, *other.left())
                del self._others[name]
        self._others = {name: other for name, other in self._others.items() if name in names}
        for group, one in dead.items():
            one.settle(present)
            if group in shown:
                reading.found += one.found
        reading.cpu_s += dead[""].cpu_s

    def _present(self, folder: Path) -> set[str]:
        return {path.stem for path in folder.glob(f"*{CELLS}")}


class _Other:
    """The file of another process, as far as it was read."""

    def __init__(self, folder: Path, name: str) -> None:
        pid, started_ticks, _, *group = name.split("-")
        self.name = name
        self.group = "".join(group)
        self.process = Process(int(pid), int(started_ticks))
        self._path = folder / name
        self._entries: list[Entry] = []
        self._parsed = 0
        self._cells = np.zeros(0)

    def add_to(self, reading: Reading) -> None:
        """Add what a living process holds; to its first file also the CPU time it has used by now."""
        values = self.values()
        reading.found += [Found(entry, _part(values, entry)) for entry in self._entries]
        if self.group:
            return
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

    def left(self) -> tuple[list[Found], float]:
        """Return what is worth keeping of a process that is gone, and its CPU seconds."""
        values = self.values()
        found = [Found(entry, _part(values, entry)) for entry in self._entries]
        return found, 0.0 if self.group else float(values[:1].sum())

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
    """The counters of the processes that are gone, in one file for each group. The caller holds the lock of the folder.

    folded: the files that are in it. One that still lies there, because whoever removed it was killed, is not
    added again.
    """

    def __init__(self, folder: Path, group: str) -> None:
        self._folder = folder
        self._path = folder / (f"{DEAD}-{group}{JSON}" if group else f"{DEAD}{JSON}")
        self._values: Values = {}
        self.folded: set[str] = set()
        self.cpu_s = 0.0
        self._changed = False
        with contextlib.suppress(FileNotFoundError):
            said = json.loads(self._path.read_bytes())
            self.folded, self.cpu_s = set(said["folded"]), said["cpu_s"]
            for name, labels, values in said["counters"]:
                self._values[name, tuple(labels), len(values)] = np.array(values)

    @property
    def found(self) -> list[Found]:
        return _as_found(self._values)

    def fold(self, name: str, found: Iterable[Found], cpu_s: float = 0.0) -> None:
        """Add the counters that were in the file `name`."""
        _add(self._values, found)
        self.cpu_s += cpu_s
        self.folded.add(name)
        self._changed = True

    def settle(self, present: set[str]) -> None:
        """Write the file if it changed, then remove those that are in it."""
        if self._changed:
            counters = [(name, labels, values.tolist()) for (name, labels, _), values in self._values.items()]
            said = {"folded": sorted(self.folded & present), "cpu_s": self.cpu_s, "counters": counters}
            self._path.with_suffix(".new").write_text(json.dumps(said))
            os.replace(self._path.with_suffix(".new"), self._path)
        for name in self.folded & present:
            cells.remove(self._folder, name)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
    finally:
        os.close(file)


def _add(values: Values, found: Iterable[Found]) -> None:
    for one in found:
        if one.entry.kind == COUNTER:
            key = (one.entry.name, one.entry.labels, one.entry.size)
            values[key] = values.get(key, 0.0) + one.values


def _as_found(values: Values) -> list[Found]:
    return [Found(Entry(COUNTER, *key[:2], 0, key[2]), total) for key, total in values.items()]


def _group_of(name: str) -> str:
    return "".join(name.split("-")[3:])


def _drop_oldest(folder: Path, groups: set[str]) -> None:
    # Of the groups that nobody has; the counters of the others begin at 0 when they come back, as after a restart.
    kept = [path for path in folder.glob(f"{DEAD}-*{JSON}") if path.stem.partition("-")[2] not in groups]
    for path in sorted(kept, key=lambda path: path.stat().st_mtime_ns)[:-MOST_KEPT]:
        path.unlink()


def _part(values: np.ndarray, entry: Entry) -> np.ndarray:
    return values[entry.at : entry.at + entry.size]
