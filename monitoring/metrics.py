"""Every Prometheus metric of the project, declared once: name, unit, labels, buckets.

Labels are bounded: routes come from the route table, classes and signals from the release,
reasons from fixed lists. Nothing a client sends becomes a label value.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, process_collector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

REQUEST_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
STAGE_BUCKETS_S = (5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.1, 0.25, 1)
BATCH_BUCKETS_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
RELEASE = ("model", "version")


class _Declare:
    """Make metrics of one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self._registry)

    def gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(name, text, labels, registry=self._registry)

    def histogram(self, name: str, text: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
        return Histogram(name, text, labels, registry=self._registry, buckets=buckets)


class ServingMetrics:
    """What the service counts; `registry` is what its /metrics prints."""

    def __init__(self, registry: CollectorRegistry) -> None:
        declare = _Declare(registry)
        counter, gauge, histogram = declare.counter, declare.gauge, declare.histogram
        self.registry = registry
        self.requests = counter("vigil_requests_total", "Requests by route and code", "route", "code")
        self.request_seconds = histogram(
            "vigil_request_seconds", "Seconds from request to reply", REQUEST_BUCKETS_S, "route"
        )
        self.stage_seconds = histogram(
            "vigil_stage_seconds", "Seconds per request in a stage", STAGE_BUCKETS_S, *RELEASE, "stage"
        )
        self.batch_rows = histogram("vigil_batch_rows", "Rows per run of the model", BATCH_BUCKETS_ROWS, *RELEASE)
        self.inflight_rows = gauge("vigil_inflight_rows", "Rows accepted and not yet answered", "model")
        self.inflight_rows_limit = gauge("vigil_inflight_rows_limit", "Rows in flight allowed", "model")
        self.rejected = counter(
            "vigil_requests_rejected_total", "Requests refused for want of capacity", "model", "reason"
        )
        self.input_rows = counter("vigil_input_rows_total", "Rows answered", *RELEASE)
        self.invalid_rows = counter("vigil_input_invalid_rows_total", "Rows refused", "model", "reason")
        self.predictions = counter("vigil_predictions_total", "Rows by predicted class", *RELEASE, "class")
        self.model_info = gauge(
            "vigil_model_info",
            "1 for each loaded release",
            *RELEASE,
            "stage",
            "provider",
            "requested_provider",
        )
        self.model_target = gauge("vigil_model_target_info", "1 for the release the alias asks for", *RELEASE)
        self.promoted = gauge("vigil_model_promoted_timestamp_seconds", "Time of the last alias change", "model")
        self.load_failures = counter(
            "vigil_model_load_failures_total",
            "Releases that were refused or failed to load",
            "model",
            "reason",
        )
        self.ready = gauge("vigil_ready", "1 when the service answers predictions")
        self.drift_z_threshold = gauge(
            "vigil_drift_z_threshold", "Calibrated limit of the drift z score", *RELEASE, "window"
        )
        self.drift_psi_threshold = gauge("vigil_drift_psi_threshold", "Smallest PSI worth telling", *RELEASE)
        self.drift_min_rows = gauge("vigil_drift_min_rows", "Fewest rows drift is judged on", *RELEASE)
        self.records = counter("vigil_records_total", "Rows written to the prediction log", "model")
        self.records_dropped = counter(
            "vigil_records_dropped_total", "Rows not written to the prediction log", "model", "reason"
        )
        self.access_refused = counter("vigil_access_refused_total", "Requests refused by key, role or rate", "reason")
        self.keys = gauge("vigil_keys", "API keys in the key file that was read last")
        self.key_file_failures = counter("vigil_key_file_failures_total", "Key files that could not be used")
        self.labels_accepted = counter("vigil_labels_accepted_total", "Labels written to the log", "model")
        process_collector.ProcessCollector(registry=registry)


class MonitorMetrics:
    """What the monitor measures; `registry` is what its /metrics prints."""

    def __init__(self, registry: CollectorRegistry) -> None:
        counter, gauge = _Declare(registry).counter, _Declare(registry).gauge
        self.registry = registry
        measured = (*RELEASE, "metric")
        self.quality = gauge("vigil_quality_value", "Quality on labelled traffic in the window", *measured)
        self.quality_lower = gauge("vigil_quality_lower", "Lower end of its 95 % interval", *measured)
        self.quality_upper = gauge("vigil_quality_upper", "Upper end of its 95 % interval", *measured)
        self.quality_rows = gauge("vigil_quality_rows", "Labelled rows it was measured on", *measured)
        self.quality_floor = gauge("vigil_quality_floor", "Quality below which someone is paged", *measured)
        self.quality_min_rows = gauge("vigil_quality_min_rows", "Fewest labelled rows quality is judged on", "model")
        self.label_coverage = gauge("vigil_label_coverage_ratio", "Share of the window's rows with a label", *RELEASE)
        self.label_delay = gauge("vigil_label_delay_seconds", "Median seconds from answer to label", "model")
        self.labels_latest = gauge("vigil_labels_latest_timestamp_seconds", "Time of the newest label", "model")
        self.labels_unknown = gauge("vigil_labels_unknown", "Labels in the log whose id was never recorded")
        self.labels_duplicate = gauge("vigil_labels_duplicate", "Labels in the log that repeat an earlier one")
        self.labels_conflict = gauge("vigil_labels_conflict", "Labels in the log that correct an earlier one")
        self.log_rows = gauge("vigil_monitor_log_rows", "Rows in the prediction log")
        self.last_success = gauge("vigil_monitor_last_success_timestamp_seconds", "Time of the last good run")
        self.interval = gauge("vigil_monitor_interval_seconds", "Seconds between two runs")
        self.failures = counter("vigil_monitor_failures_total", "Runs that failed", "reason")
        process_collector.ProcessCollector(registry=registry)


@dataclass(frozen=True)
class SignalState:
    """Counts of one loaded release, as the scrape reads them.

    counts, shares: (signals, bins) int64 and float64. `rows` is the size of the reference.
    """

    model: str
    version: str
    signals: tuple[str, ...]
    counts: np.ndarray
    shares: np.ndarray
    rows: int


class SignalCollector(Collector):
    """Expose the signal counts of every loaded release without one object per series."""

    def __init__(self, states: Callable[[], Iterable[SignalState]]) -> None:
        self._states = states

    def collect(self) -> Iterator[Metric]:
        """Yield the bin counters, the reference shares and the reference sizes."""
        labels = (*RELEASE, "signal", "bin")
        counts = CounterMetricFamily("vigil_signal_bin", "Rows per bin of a signal", labels=labels)
        shares = GaugeMetricFamily("vigil_reference_share", "Share of a bin in the reference", labels=labels)
        rows = GaugeMetricFamily("vigil_reference_rows", "Rows in the reference", labels=RELEASE)
        for state in self._states():
            rows.add_metric((state.model, state.version), state.rows)
            for s, signal in enumerate(state.signals):
                for b in range(state.counts.shape[1]):
                    place = (state.model, state.version, signal, f"{b:02d}")
                    counts.add_metric(place, float(state.counts[s, b]))
                    shares.add_metric(place, float(state.shares[s, b]))
        yield from (counts, shares, rows)
