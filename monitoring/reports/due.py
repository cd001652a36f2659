"""The reports of the monitor: one a day for each live release, and one when something calls for it.

Each is written by a child process with limits, one at a time; the monitor only starts it and looks again. What was
written before is read from the folder, so a restarted monitor writes nothing twice.
"""

import logging
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from monitoring.metrics import MonitorMetrics
from monitoring.monitor import state
from monitoring.monitor.parts import Look, Part, Show
from monitoring.reports import conditions, report, shelf
from monitoring.reports.report import Job
from monitoring.reports.shelf import DAY_S
from registry.errors import UserError

log = logging.getLogger(__name__)

HOUR_S = 3600.0
WRITTEN, FAILED, TOO_SLOW = "written", "failed", "too_slow"


@dataclass(frozen=True)
class _Running:
    job: Job
    child: "subprocess.Popen[str]"
    complaint: IO[str]
    until_s: float


class Reporter:
    """Starts the reports that are due; to be asked again and again by one thread at a time."""

    def __init__(self, folder: Path, check_s: float, now_s: float) -> None:
        """folder: where reports are kept. check_s: between two looks at what may call for one, and before the first."""
        self._folder = folder
        self._check_s = check_s
        self._begun_s = self._checked_s = now_s
        self._running: _Running | None = None
        self._ended: list[tuple[str, str, str]] = []
        self._last: dict[tuple[str, str], float] = {}  # when a report of a model and kind was last begun
        for _, found in shelf.kept(folder):
            kind = Path(found.out).stem.rpartition("-")[2]
            self._last.setdefault((found.model, kind), found.time_s)  # newest first

    @property
    def part(self) -> Part:
        """Return what the monitor does at each look."""

        def look_on(look: Look) -> Show:
            self.look(look)
            return self.show

        return Part("reports", look_on)

    def look(self, look: Look) -> None:
        """Settle a report that has ended, and start one that is due; does not wait for it.

        A report that cannot be started, or fails, is logged and counted, and the next one is due as usual.
        """
        if self._running is not None and not self._settled(self._running, look.now_s):
            return
        for job in self._due(look):
            self._last[job.tag.split(":")[0], job.kind] = look.now_s
            try:
                self._start(job, look.now_s)
                return
            except (UserError, OSError) as error:
                self._end(job, FAILED, str(error))

    def show(self, metrics: MonitorMetrics) -> None:
        """Count the reports that ended since it was last asked."""
        for place in self._ended:
            metrics.reports.labels(*place).inc()
        self._ended = []

    @property
    def busy(self) -> bool:
        """Whether a report is under way, as far as it was looked at."""
        return self._running is not None

    def close(self) -> None:
        """End a report under way."""
        running, self._running = self._running, None
        if running is not None:
            running.child.kill()
            running.child.wait()
            running.complaint.close()

    def _due(self, look: Look) -> Iterator[Job]:
        models = state.models(look.state)
        tags = {model: f"{model}:{version}" for model in models if (version := conditions.live(look.log, model))}
        for model, tag in tags.items():
            if look.now_s // DAY_S > self._last.get((model, "daily"), self._begun_s) // DAY_S:
                yield self._job(look, tag, "daily", "the day")
        if look.now_s - self._checked_s < self._check_s:
            return
        self._checked_s = look.now_s
        for model, tag in tags.items():
            free = look.now_s - self._last.get((model, "alert"), 0.0) >= HOUR_S
            if free and (reasons := self._reasons(look, tag)):
                yield self._job(look, tag, "alert", "; ".join(reasons))

    def _reasons(self, look: Look, tag: str) -> list[str]:
        try:
            return conditions.calling(look, tag)
        except UserError as error:  # of a release that is gone nothing can be said, and others wait
            log.warning("report_not_judged", extra={"tag": tag, "error": str(error)})
            return []

    def _job(self, look: Look, tag: str, kind: str, reason: str) -> Job:
        said = look.settings
        return Job(said.log, tag, float(DAY_S), None, self._folder, kind, reason, look.now_s, said.retention)

    def _start(self, job: Job, now_s: float) -> None:
        complaint = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed when the child has ended
        child = report.start(job, complaint)
        self._running = _Running(job, child, complaint, now_s + report.TIME_S)
        log.info("report_started", extra={"tag": job.tag, "kind": job.kind, "reason": job.reason})

    def _settled(self, running: _Running, now_s: float) -> bool:
        status = running.child.poll()
        if status is None and now_s < running.until_s:
            return False
        running.complaint.seek(0)
        outcome = WRITTEN if status == 0 else TOO_SLOW if status is None else FAILED
        self._end(running.job, outcome, running.complaint.read()[-2000:])
        self.close()
        return True

    def _end(self, job: Job, outcome: str, complaint: str) -> None:
        self._ended.append((job.tag.split(":")[0], job.kind, outcome))
        if outcome != WRITTEN:
            log.error("report_failed", extra={"tag": job.tag, "outcome": outcome, "error": complaint})
