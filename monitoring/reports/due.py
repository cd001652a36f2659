"""The reports of the monitor: one a day for each live release, and one when something calls for it.

Each is written by a child process with limits, one at a time; the monitor only starts it and looks again. What was
written before is read from the folder, so a restarted monitor writes nothing twice.
"""

import logging
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from monitoring.metrics import MonitorMetrics
from monitoring.reports import conditions, report, shelf
from monitoring.reports.report import Job
from monitoring.reports.shelf import DAY_S, Retention
from registry.errors import UserError

log = logging.getLogger(__name__)

HOUR_S = 3600.0
CHECK_S = 300.0  # between two looks at what may call for a report
WRITTEN, FAILED, TOO_SLOW = "written", "failed", "too_slow"


@dataclass(frozen=True)
class ReportSettings:
    """folder: where reports are kept. window_s: of a report. check_s: between two looks at what may call for one."""

    log: Path
    folder: Path
    retention: Retention = Retention()
    window_s: float = float(DAY_S)
    check_s: float = CHECK_S


@dataclass(frozen=True)
class _Running:
    job: Job
    child: "subprocess.Popen[str]"
    complaint: IO[str]
    until_s: float


class Reporter:
    """Starts the reports that are due; to be asked again and again by one thread."""

    def __init__(self, settings: ReportSettings, metrics: MonitorMetrics, now_s: float) -> None:
        self._settings = settings
        self._metrics = metrics
        self._running: _Running | None = None
        self._checked_s = -CHECK_S
        self._last: dict[tuple[str, str], float] = {}  # when a report of a model and kind was last begun
        self._recall(now_s)

    def look(self, connection: sqlite3.Connection, models: Sequence[str], now_s: float) -> None:
        """Settle a report that has ended, and start one that is due; returns at once.

        A report that cannot be started, or fails, is logged and counted, and is due again as usual.
        """
        if self._running is not None and not self._settled(self._running, now_s):
            return
        for job in self._due(connection, models, now_s):
            self._last[job.tag.split(":")[0], job.kind] = now_s
            try:
                self._start(job, now_s)
                return
            except (UserError, OSError) as error:
                self._count(job, FAILED, str(error))

    @property
    def busy(self) -> bool:
        """Whether a report is under way, as far as it was looked at."""
        return self._running is not None

    def close(self) -> None:
        """End a report under way."""
        if self._running is not None:
            self._running.child.kill()
            self._running.child.wait()
            self._running.complaint.close()
            self._running = None

    def _recall(self, now_s: float) -> None:
        self._begun_s = now_s
        for _, found in shelf.kept(self._settings.folder):
            kind = Path(found.out).stem.rpartition("-")[2]
            self._last.setdefault((found.model, kind), found.time_s)  # newest first

    def _due(self, connection: sqlite3.Connection, models: Sequence[str], now_s: float) -> Iterator[Job]:
        live = {model: version for model in models if (version := conditions.live(connection, model))}
        for model, version in live.items():
            if now_s // DAY_S > self._last.get((model, "daily"), self._begun_s) // DAY_S:
                yield self._job(f"{model}:{version}", "daily", "the day", now_s)
        if now_s - self._checked_s < self._settings.check_s:
            return
        self._checked_s = now_s
        for model, version in live.items():
            free = now_s - self._last.get((model, "alert"), 0.0) >= HOUR_S
            if free and (reasons := self._reasons(connection, f"{model}:{version}", now_s)):
                yield self._job(f"{model}:{version}", "alert", "; ".join(reasons), now_s)

    def _reasons(self, connection: sqlite3.Connection, tag: str, now_s: float) -> list[str]:
        try:
            return conditions.calling(connection, tag, self._metrics, now_s)
        except UserError as error:  # of a release that is gone nothing can be said, and others wait
            log.warning("report_not_judged", extra={"tag": tag, "error": str(error)})
            return []

    def _job(self, tag: str, kind: str, reason: str, now_s: float) -> Job:
        said = self._settings
        return Job(said.log, tag, said.window_s, None, said.folder, kind, reason, now_s, said.retention)

    def _start(self, job: Job, now_s: float) -> None:
        complaint = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed when the child has ended
        child = report.start(job, complaint)
        self._running = _Running(job, child, complaint, now_s + report.TIME_S)
        log.info("report_started", extra={"tag": job.tag, "kind": job.kind, "reason": job.reason})

    def _settled(self, running: _Running, now_s: float) -> bool:
        status = running.child.poll()
        if status is None and now_s < running.until_s:
            return False
        running.child.kill()
        running.child.wait()
        running.complaint.seek(0)
        self._count(running.job, WRITTEN if status == 0 else TOO_SLOW if status is None else FAILED,
                    "" if status == 0 else running.complaint.read()[-2000:])  # fmt: skip
        running.complaint.close()
        self._running = None
        return True

    def _count(self, job: Job, outcome: str, complaint: str) -> None:
        self._metrics.reports.labels(job.tag.split(":")[0], job.kind, outcome).inc()
        if outcome != WRITTEN:
            log.error("report_failed", extra={"tag": job.tag, "outcome": outcome, "error": complaint})
