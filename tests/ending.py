"""Threads and processes that must come to their end: waited for, since the kernel and init take their time."""

import contextlib
from pathlib import Path


def ended(thread, timeout_s=60):
    """Wait for the end of a thread; fails if it goes on."""
    thread.join(timeout_s)
    assert not thread.is_alive(), f"{thread.name}: still running after {timeout_s} s"


def gone(*pids):
    """Return whether all these processes have ended; one that is dead and not yet taken away by its parent has.

    Not yet has one whose first thread is dead and another one not: it still holds its files and ports.
    """
    return not any(_lives(task) for pid in pids for task in _tasks(pid))


def _tasks(pid):
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return list(Path(f"/proc/{pid}/task").iterdir())
    return []


def _lives(task):
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return (task / "stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def children_of(pid):
    """Return the processes that one has started; none if it is gone."""
    found = []
    for task in _tasks(pid):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            found += map(int, (task / "children").read_text().split())
    return found
