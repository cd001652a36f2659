"""Threads and processes that must come to their end: waited for, since the kernel and init take their time."""

import contextlib
from pathlib import Path


def ended(thread, timeout_s=60):
    """Wait for the end of a thread; fails if it goes on."""
    thread.join(timeout_s)
    assert not thread.is_alive(), f"{thread.name}: still running after {timeout_s} s"


def gone(*pids):
    """Return whether all these processes have ended; one that is dead and not yet taken away by its parent has."""
    return not any(lives(pid) for pid in pids)


def lives(pid):
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    return False


def children_of(pid):
    """Return the processes that one has started; none if it is gone."""
    found = []
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that has just ended
                found += map(int, (task / "children").read_text().split())
    return found
