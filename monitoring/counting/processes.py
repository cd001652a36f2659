"""Which processes live, and what they use of the machine: read from /proc, where there is one."""

import contextlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector

PROC = Path("/proc")
CPU = "process_cpu_seconds_total"
STARTED = "process_start_time_seconds"
USES = {
    "process_virtual_memory_bytes": ("Virtual memory of the workers, added up", np.add),
    "process_resident_memory_bytes": ("Resident memory of the workers, added up", np.add),
    "process_open_fds": ("Open files of the workers, added up", np.add),
    "process_max_fds": ("Open files the workers may have, added up", np.add),
    STARTED: ("Start of the oldest worker that lives", np.minimum),
}


@dataclass(frozen=True)
class Process:
    """A process that no later one is taken for: its number is used again, its start is not.

    started_ticks: since the machine started.
    """

    pid: int
    started_ticks: int

    def lives(self) -> bool:
        """Say whether it still runs; one that was killed and waits for its parent does not."""
        return _look(self.pid) == self


def find(pid: int) -> Process | None:
    """Return the process of that number, None if there is none or no /proc."""
    return _look(pid)


def used(pid: int) -> dict[str, float]:
    """Return what a process uses, by the standard name of the metric; empty if it is gone."""
    with contextlib.suppress(OSError, ValueError):
        found = {family.name: family.samples[0].value for family in _collector(pid).collect()}
        return {CPU if name == CPU.removesuffix("_total") else name: value for name, value in found.items()}
    return {}


def families(uses: Iterable[dict[str, float]], cpu_s: float) -> list[Metric]:
    """Return the `process_*` metrics of all workers together; cpu_s: of living and dead ones."""
    living = list(uses)
    shown: list[Metric] = [CounterMetricFamily(CPU, "User and system CPU time of the workers", cpu_s)]
    for name, (text, rule) in USES.items():
        values = [one[name] for one in living if name in one]
        if values:
            shown.append(GaugeMetricFamily(name, text, float(rule.reduce(values))))
    return shown


def _look(pid: int) -> Process | None:
    try:
        content = (PROC / str(pid) / "stat").read_bytes()
    except OSError:
        return None
    state, *rest = content.rpartition(b")")[2].split()
    return None if state in (b"Z", b"X") else Process(pid, int(rest[18]))


@lru_cache(maxsize=64)
def _collector(pid: int) -> ProcessCollector:
    return ProcessCollector(pid=lambda: pid, registry=None)


def pid_space() -> str:
    """Return what tells the process numbers of one container from those of another."""
    try:
        return "".join(filter(str.isdigit, os.readlink(PROC / "self/ns/pid")))
    except OSError:
        return "0"
