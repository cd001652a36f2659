"""The monitor process: measures quality from the log again and again, and shows it on its own /metrics.

Nothing is remembered between two runs: all of it is read from the log anew, so a restart loses and
doubles nothing. Drift does not need the monitor: Prometheus computes it from the service's counters.
"""

import logging
import signal
import sqlite3
import statistics
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.metrics_core import Metric

from monitoring import labels, quality, recorder, verdict
from monitoring.metrics import MonitorMetrics
from monitoring.quality import Joined, Measured
from registry.errors import StackError, UserError
from registry.release import Manifest

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WatchSettings:
    """window_s: how far back quality looks. min_rows: fewest labelled rows it is judged on."""

    log: Path
    host: str = "127.0.0.1"
    port: int = 9109
    interval_s: float = 30.0
    window_s: float = 86_400.0
    min_rows: int = 200


class WholeRegistry(CollectorRegistry):
    """A registry whose scrape waits for a run to be written down: it shows one run or the next, never half."""

    def __init__(self) -> None:
        self.writing = threading.RLock()
        super().__init__()

    def collect(self) -> Iterable[Metric]:
        """Return all metrics of one moment."""
        with self.writing:
            return list(super().collect())


def main(settings: WatchSettings) -> None:
    """Run the monitor until SIGTERM or SIGINT."""
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    watch(settings, stop)


def watch(settings: WatchSettings, stop: threading.Event) -> None:
    """Measure every `interval_s` until `stop` is set, and serve /metrics.

    A run that fails is logged and counted, and the next one comes as usual. Raises StackError if the
    port is taken.
    """
    registry = WholeRegistry()
    metrics = MonitorMetrics(registry)
    metrics.interval.set(settings.interval_s)
    try:
        server, thread = start_http_server(settings.port, settings.host, registry)
    except OSError as error:
        place = f"{settings.host}:{settings.port}"
        raise StackError(f"{place}: {error.strerror}; stop what listens there or choose --port") from error
    log.info("monitor_started", extra={"address": f"http://{settings.host}:{settings.port}/metrics"})
    try:
        while not stop.is_set():
            _run(settings, metrics, registry)
            stop.wait(settings.interval_s)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def measure(settings: WatchSettings, metrics: MonitorMetrics, now_s: float) -> None:
    """Write one look at the log into `metrics`; a log that is not there yet holds no rows."""
    if not settings.log.exists():
        metrics.log_rows.set(0)
        return
    connection = recorder.connect(settings.log)
    try:
        metrics.log_rows.set(connection.execute("SELECT count(*) FROM predictions").fetchone()[0])
        found = labels.tangles(connection)
        metrics.labels_unknown.set(found.unknown)
        metrics.labels_duplicate.set(found.duplicate)
        metrics.labels_conflict.set(found.conflict)
        _forget(metrics)
        models = [model for (model,) in connection.execute("SELECT DISTINCT model FROM predictions")]
        for model in models:
            _model(connection, settings, metrics, model, now_s)
        verdict.show(connection, metrics, models)
    finally:
        connection.close()


def _run(settings: WatchSettings, metrics: MonitorMetrics, registry: WholeRegistry) -> None:
    try:
        with registry.writing:
            measure(settings, metrics, time.time())
        metrics.last_success.set(time.time())
    except (sqlite3.Error, OSError, UserError, ValueError) as error:
        metrics.failures.labels(type(error).__name__).inc()
        log.exception("monitor_run_failed")


def _forget(metrics: MonitorMetrics) -> None:
    # A version that left the window must not keep its last number.
    for gauge in (
        metrics.quality, metrics.quality_lower, metrics.quality_upper, metrics.quality_rows,
        metrics.quality_floor, metrics.label_coverage, metrics.label_delay,
    ):  # fmt: skip
        gauge.clear()


def _model(
    connection: sqlite3.Connection, settings: WatchSettings, metrics: MonitorMetrics, model: str, now_s: float
) -> None:
    joined = labels.join(connection, model, now_s - settings.window_s)
    metrics.quality_min_rows.labels(model).set(settings.min_rows)
    newest = labels.latest_s(connection, model)
    if newest is not None:
        metrics.labels_latest.labels(model).set(newest)
    _delay(metrics, model, joined)
    manifests = {version: quality.manifest_of(model, version) for version in {row.version for row in joined}}
    tolerances = {v: m.quality["tolerance"] for v, m in manifests.items() if m is not None and m.task == "regression"}
    for version, measured in quality.by_version(joined, tolerances).items():
        _version(metrics, (model, version), measured, manifests[version])


def _delay(metrics: MonitorMetrics, model: str, joined: list[Joined]) -> None:
    delays = [row.delay_s for row in joined if row.delay_s is not None]
    if delays:
        metrics.label_delay.labels(model).set(statistics.median(delays))


def _version(metrics: MonitorMetrics, release: tuple[str, str], measured: Measured, manifest: Manifest | None) -> None:
    metrics.label_coverage.labels(*release).set(measured.coverage)
    # Deleted since: the classes it answered are still measured, what was near enough to the truth is not known.
    place = (*release, "accuracy" if manifest is None else manifest.quality["metric"])
    metrics.quality_rows.labels(*place).set(measured.labelled)
    if manifest is not None:
        metrics.quality_floor.labels(*place).set(manifest.quality["floor"])
    if measured.value is not None and measured.lower is not None and measured.upper is not None:
        metrics.quality.labels(*place).set(measured.value)
        metrics.quality_lower.labels(*place).set(measured.lower)
        metrics.quality_upper.labels(*place).set(measured.upper)
