"""What the monitor does at each look, in parts: each in a thread of its own, for a bounded time.

A part reads the state and the log and returns what is to be shown, or raises. One that fails or takes too long is
counted and stops no other; while it hangs it is not begun again, and its numbers stay as they were.
"""

import logging
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from monitoring.log import logfile
from monitoring.metrics import MonitorMetrics
from monitoring.monitor import state
from monitoring.reports.shelf import Retention

log = logging.getLogger(__name__)

LAST_S = 1.0  # that a part gets to end in after its queries were broken off


@dataclass(frozen=True)
class WatchSettings:
    """window_s: how far back quality looks. min_rows: fewest labelled rows it is judged on.

    state: where the counts are kept, beside the log if left out. part_s: the longest that one part may take.
    batch_rows: of the log that are read at once. reports: their folder, the usual place if left out; of a release
    one is written when something calls for it, which is looked at every `report_check_s`. runbooks: the folder of the
    pages that alerts link to; served if given.
    """

    log: Path
    host: str = "127.0.0.1"
    port: int = 9109
    interval_s: float = 30.0
    window_s: float = 86_400.0
    min_rows: int = 200
    state: Path | None = None
    part_s: float = 60.0
    batch_rows: int = 10_000
    reports: Path | None = None
    report_check_s: float = 300.0
    retention: Retention = Retention()
    runbooks: Path | None = None


@dataclass(frozen=True)
class Look:
    """One look: the log and the state as they are now, `now_s` in Unix time. Only to be read."""

    log: sqlite3.Connection
    state: sqlite3.Connection
    settings: WatchSettings
    now_s: float

    @property
    def since_s(self) -> float:
        """Return when the window of quality begins."""
        return self.now_s - self.settings.window_s


Show: TypeAlias = Callable[[MonitorMetrics], None]


@dataclass(frozen=True)
class Part:
    """look: does the work and returns what writes its numbers down; that is done for all parts together, quickly."""

    name: str
    look: Callable[[Look], Show]


@dataclass
class Parts:
    """The parts of one monitor."""

    parts: Sequence[Part]
    settings: WatchSettings
    running: dict[str, "_Running"] = field(default_factory=dict)

    def look(self, now_s: float) -> tuple[dict[str, Show], dict[str, str]]:
        """Run all parts, one after the other; returns by name what is to be shown, and why the others failed."""
        shown: dict[str, Show] = {}
        failed: dict[str, str] = {}
        for part in self.parts:
            old = self.running.get(part.name)
            if old is not None and old.is_alive():
                failed[part.name] = "Hangs"
                continue
            thread = self.running[part.name] = _Running(part, self.settings, now_s)
            thread.start()
            thread.finish(self.settings.part_s)
            if thread.show is not None:
                shown[part.name] = thread.show
            else:
                failed[part.name] = thread.failure
        return shown, failed


class _Running(threading.Thread):
    """One run of one part. failure: the kind of error, "Timeout" if it took too long."""

    def __init__(self, part: Part, settings: WatchSettings, now_s: float) -> None:
        super().__init__(name=f"part-{part.name}", daemon=True)  # one that hangs must not hold up the end
        self._part, self._settings, self._now_s = part, settings, now_s
        self._connections: list[sqlite3.Connection] = []
        self.show: Show | None = None
        self.failure = ""

    def run(self) -> None:
        """Do the part, on connections of its own."""
        settings = self._settings
        try:
            with (
                closing(logfile.connect(settings.log)) as rows,
                closing(state.connect(settings.state or state.beside(settings.log))) as counts,
            ):
                self._connections = [rows, counts]
                self.show = self._part.look(Look(rows, counts, settings, self._now_s))
        except Exception as error:  # whatever it is: the other parts go on
            self.failure = type(error).__name__
            log.exception("monitor_part_failed", extra={"part": self._part.name})
        finally:
            self._connections = []

    def finish(self, timeout_s: float) -> None:
        """Wait for the end, and break off the queries of a part that takes longer than it may."""
        self.join(timeout_s)
        if self.is_alive():
            for connection in self._connections:
                connection.interrupt()
            self.join(LAST_S)
            self.failure = "Timeout"
            log.error("monitor_part_slow", extra={"part": self._part.name, "seconds": timeout_s})
