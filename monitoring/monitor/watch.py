"""The monitor process: reads what is new on the log, measures quality, and shows it on its own /metrics.

What it has counted is kept in its state, so a run costs what is new and not what is there, and a restart loses and
doubles nothing. Drift does not need the monitor: Prometheus computes it from the service's counters.
"""

import logging
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

from monitoring.judge import quality_page, verdict
from monitoring.judge.estimates_page import EstimatesPart
from monitoring.log import logfile
from monitoring.metrics import MonitorMetrics
from monitoring.monitor import anchor, intake, runbooks, schemes, state
from monitoring.monitor.health import Health, WholeRegistry, served
from monitoring.monitor.intake import Source
from monitoring.monitor.parts import Look, Part, Parts, Show, WatchSettings
from monitoring.reports import shelf, web
from monitoring.reports.due import Reporter
from registry.errors import DataError

log = logging.getLogger(__name__)

KEEP_S = 90 * 86_400.0  # how long buckets are kept
QUANTILES = (0.5, 0.95)


@dataclass
class Monitor:
    """What one monitor process holds between two runs."""

    settings: WatchSettings
    metrics: MonitorMetrics
    parts: Parts
    health: Health
    checked: bool = False  # that the whole state can be read: once, since it takes a second for 10 million rows
    writing: threading.RLock = field(default_factory=threading.RLock)

    @property
    def state(self) -> Path:
        return self.settings.state or state.beside(self.settings.log)

    @property
    def bucket_s(self) -> float:
        return min(state.BUCKET_S, self.settings.window_s / state.BUCKETS_PER_WINDOW)


def main(settings: WatchSettings) -> None:
    """Run the monitor until SIGTERM or SIGINT."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    watch(settings, stop)


def watch(settings: WatchSettings, stop: threading.Event, parts: Sequence[Part] | None = None) -> None:
    """Measure every `interval_s` until `stop` is set, and serve /metrics, /healthz, /reports/ and /runbooks/.

    A run that fails is logged and counted, and the next one comes as usual. Raises StackError if the
    port is taken, DataError if the log or the state is a folder, or the reports would go into a file.
    """
    for path, what in ((settings.log, "the prediction log"), (settings.state, "a file for the monitor's counts")):
        if path is not None and path.is_dir():
            raise DataError(f"{path}: is a folder; accepted is {what} in it")
    folder = settings.reports or shelf.usual_place(settings.log)
    shelf.demand(folder)
    registry = WholeRegistry()
    reporter = Reporter(folder, settings.report_check_s, time.time())
    monitor = prepare(settings, MonitorMetrics(registry), (*usual_parts(), reporter.part) if parts is None else parts)
    monitor.writing = registry.writing
    monitor.metrics.interval.set(settings.interval_s)
    pages = {"/metrics": registry.page, "/healthz": monitor.health.page, web.PREFIX: web.pages(folder)}
    if settings.runbooks is not None:
        pages[runbooks.PREFIX] = runbooks.pages(settings.runbooks)
    with closing(reporter), served(settings.host, settings.port, pages):
        log.info("monitor_started", extra={"address": f"http://{settings.host}:{settings.port}/metrics"})
        while not stop.is_set():
            run_once(monitor, stop.is_set)
            stop.wait(settings.interval_s)


def measure(settings: WatchSettings, metrics: MonitorMetrics, now_s: float) -> None:
    """Write one look at the log into `metrics`; a log that is not there yet holds no rows."""
    look_once(prepare(settings, metrics), now_s)


def prepare(settings: WatchSettings, metrics: MonitorMetrics, parts: Sequence[Part] | None = None) -> Monitor:
    """Return a monitor that has not looked yet; parts: the usual ones if left out."""
    return Monitor(
        settings, metrics, Parts(usual_parts() if parts is None else parts, settings), Health(settings.interval_s)
    )


def look_once(monitor: Monitor, now_s: float, stopped: Callable[[], bool] = lambda: False) -> dict[str, str]:
    """Read what is new, let every part look, and show it; returns the parts that failed, with the kind of error.

    A log that is not there yet holds no rows. What was read before it was `stopped` is kept, and no part looks.
    """
    if not monitor.settings.log.exists():
        monitor.metrics.log_rows.set(0)
        return {}
    if not _read(monitor, now_s, stopped):
        return {}
    shown, failed = monitor.parts.look(now_s)
    with monitor.writing:
        for name, show in shown.items():
            try:
                show(monitor.metrics)
                monitor.metrics.part_success.labels(name).set(time.time())
            except Exception as error:  # as in the part itself: the others go on
                failed[name] = type(error).__name__
                log.exception("monitor_part_failed", extra={"part": name})
    return failed


def run_once(monitor: Monitor, stopped: Callable[[], bool]) -> None:
    """Look once, and count, log and mend what fails."""
    try:
        failed = look_once(monitor, time.time(), stopped)
    except Exception as error:  # the edge of the process: the next run may find what this one missed
        failed = {"run": type(error).__name__}
        log.exception("monitor_run_failed")
    for kind in failed.values():
        monitor.metrics.failures.labels(kind).inc()
    monitor.health.ended(failed)
    if "DatabaseError" in failed.values() and not state.is_whole(monitor.state):  # a damaged log is not ours to touch
        _make_anew(monitor, "corrupt")
    if "SumsError" in failed.values():
        _make_anew(monitor, "sums")
    if not failed and not stopped():
        monitor.metrics.last_success.set(time.time())


def _read(monitor: Monitor, now_s: float, stopped: Callable[[], bool]) -> bool:
    # Bring the state up to the log; returns whether it is.
    with closing(logfile.connect(monitor.settings.log)) as rows, closing(_state(monitor, rows)) as counts:
        troubled = lambda error: monitor.metrics.failures.labels(type(error).__name__).inc()  # noqa: E731
        source = Source(
            rows, counts, schemes.of_release, now_s, monitor.bucket_s, troubled, monitor.settings.batch_rows
        )

        def look_up() -> bool:
            _show_lag(monitor, source)
            return stopped()

        whole = intake.read_on(source, look_up)
        intake.forget(source, now_s - KEEP_S)
        _show_lag(monitor, source)
        with monitor.writing:
            _show_facts(monitor.metrics, state.facts(counts))
    return whole


def _state(monitor: Monitor, rows: sqlite3.Connection) -> sqlite3.Connection:
    # The state of this log: made anew if it cannot be gone on with.
    damaged = not monitor.checked and monitor.state.exists() and not state.is_whole(monitor.state)
    if damaged:
        state.remove(monitor.state)
    counts, why = state.open_or_make(monitor.state, monitor.bucket_s)
    why, monitor.checked = "corrupt" if damaged else why, True
    try:
        if not why and not anchor.is_same(rows, counts, monitor.settings.log):
            state.empty(counts, monitor.bucket_s)
            why = "log_replaced"
        anchor.remember(counts, monitor.settings.log)
    except sqlite3.Error:
        counts.close()
        raise
    if why not in ("", "absent"):
        _count_rebuild(monitor, why)
    return counts


def _make_anew(monitor: Monitor, why: str) -> None:
    # What cannot be gone on with is removed; the next run reads the log into a new state.
    state.remove(monitor.state)
    _count_rebuild(monitor, why)


def _count_rebuild(monitor: Monitor, why: str) -> None:
    monitor.metrics.rebuilds.labels(why).inc()
    log.warning("monitor_state_made_anew", extra={"path": str(monitor.state), "reason": why})


def _show_lag(monitor: Monitor, source: Source) -> None:
    lag = intake.lag(source)
    monitor.metrics.lag_rows.set(lag.rows)
    monitor.metrics.lag_seconds.set(lag.seconds)
    monitor.health.moved((lag.rows, lag.seconds))


def _show_facts(metrics: MonitorMetrics, facts: dict[str, float]) -> None:
    metrics.log_rows.set(facts.get("rows_read", 0))
    metrics.log_labels.set(facts.get("labels_read", 0))
    metrics.rows_missed.set(facts.get("rows_missed", 0))
    metrics.labels_unknown.set(facts.get("unknown", 0))
    metrics.labels_duplicate.set(facts.get("duplicate", 0))
    metrics.labels_conflict.set(facts.get("conflict", 0))
    metrics.labels_overdue.set(facts.get("late", 0))


def _labels(look: Look) -> Show:
    newest = state.models(look.state)
    delays = {model: state.delay_quantiles(look.state, model, look.since_s, QUANTILES) for model in newest}

    def show(metrics: MonitorMetrics) -> None:
        for gauge in (metrics.label_delay, metrics.label_delay_high, metrics.labels_latest):
            gauge.clear()
        for model, time_s in newest.items():
            if time_s is not None:
                metrics.labels_latest.labels(model).set(time_s)
            if quantiles := delays[model]:
                metrics.label_delay.labels(model).set(quantiles[0])
                metrics.label_delay_high.labels(model).set(quantiles[1])

    return show


def _challenges(look: Look) -> Show:
    return verdict.look(look.log, list(state.models(look.state)))


def usual_parts() -> tuple[Part, ...]:
    """Return the parts of one monitor; those that remember something are its own."""
    return (
        Part("quality", quality_page.look), Part("decline", quality_page.look_back),
        Part("estimates", EstimatesPart().look), Part("labels", _labels), Part("challenges", _challenges),
    )  # fmt: skip
