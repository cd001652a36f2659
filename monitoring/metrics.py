"""The Prometheus metrics of the project, declared once: name, unit, labels, buckets.

Labels are bounded: routes come from the route table, classes and signals from the release,
reasons from fixed lists. Nothing a client sends becomes a label value. Those of signals, which are printed without
an object each, are in `monitoring.counting.signal_metrics`.
"""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, process_collector

from monitoring.counting import processes
from monitoring.counting.counts import Counts
from monitoring.counting.holders import Holders
from monitoring.shift.signals import BINS

REQUEST_BUCKETS_S = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
ROW_BUCKETS_S = (1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.1, 1)
STAGE_BUCKETS_S = (5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.1, 0.25, 1)
BATCH_BUCKETS_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
RELEASE = ("model", "version")
STARTS = START, REPLACE, ROLL = "start", "replace", "roll"  # with the service, for a worker that ended, or in a roll
SIGNAL_BIN = "vigil_signal_bin_total"
EMBEDDING_SUM = "vigil_embedding_sum_total"
EMBEDDING_ROWS = "vigil_embedding_rows_total"


class ServingMetrics:
    """What the service counts; `registry` is what its /metrics prints.

    Counted by the thread of the event loop alone, but for the counters declared as shared. What counts for a release
    is one of its `holders`: a while after these are gone its series are, too.
    """

    def __init__(self, registry: CollectorRegistry, folder: Path | None = None) -> None:
        """folder: of the workers that count together, see `monitoring.counting.folder`; None: this one alone."""
        self.counts = Counts(folder, RELEASE)
        self.holders = Holders(self.counts.forget)
        counter, gauge, histogram = self.counts.counter, self.counts.gauge, self.counts.histogram
        self.registry = registry
        self.requests = counter("vigil_requests_total", "Requests by route and code", "route", "code")
        self.request_seconds = histogram(
            "vigil_request_seconds", "Seconds from request to reply", REQUEST_BUCKETS_S, "route"
        )
        self.stage_seconds = histogram(
            "vigil_stage_seconds", "Seconds per request in a stage", STAGE_BUCKETS_S, *RELEASE, "stage"
        )
        self.batch_rows = histogram("vigil_batch_rows", "Rows per run of the model", BATCH_BUCKETS_ROWS, *RELEASE)
        self.inflight_rows = gauge("vigil_inflight_rows", "Rows accepted and not yet answered", "model", add=True)
        self.inflight_rows_limit = gauge("vigil_inflight_rows_limit", "Rows in flight allowed", "model", add=True)
        self.rejected = counter(
            "vigil_requests_rejected_total", "Requests refused for want of capacity", "model", "reason"
        )
        self.input_rows = counter("vigil_input_rows_total", "Rows answered", *RELEASE)
        self.invalid_rows = counter("vigil_input_invalid_rows_total", "Rows refused", "model", "reason")
        self.predictions = counter("vigil_predictions_total", "Rows by predicted class", *RELEASE, "class")
        self.lane_info = gauge("vigil_lane_info", "1 for the lane that predictions take", "lane")
        self.connections = gauge("vigil_connections", "Connections of clients that are open", add=True)
        self.connections_rejected = counter(
            "vigil_connections_rejected_total", "Connections refused or cut off by a limit", "reason"
        )
        self._of_workers()
        self._of_releases()
        self._of_records()
        self._of_access()
        self._of_shadow()
        registry.register(self.counts)

    def _of_workers(self) -> None:
        self.worker_starts = self.counts.counter(
            "vigil_worker_starts_total",
            "Starts of workers: with the service, for one that ended, or in a roll",
            "reason",
        )
        self.service_started = self.counts.gauge(
            "vigil_service_start_timestamp_seconds", "Start of the process that starts the workers"
        )

    def _of_releases(self) -> None:
        counter, gauge = self.counts.counter, self.counts.gauge
        self.model_info = gauge(
            "vigil_model_info",
            "1 for each loaded release",
            *RELEASE,
            "stage",
            "provider",
            "requested_provider",
        )
        self.model_target = gauge(
            "vigil_model_target_info", "1 for the release the alias asks for", *RELEASE, lasting=True
        )
        self.model_before = gauge(
            "vigil_model_rollback_info", "1 for the release that a rollback goes back to", *RELEASE, lasting=True
        )
        self.promoted = gauge(
            "vigil_model_promoted_timestamp_seconds", "Time of the last change of the champion", "model"
        )
        self.followed = gauge(
            "vigil_followed_timestamp_seconds",
            "Time of the last good look of `vigil models sync` at the place that the model follows, 0 before the first",
            "model",
        )
        self.load_failures = counter(
            "vigil_model_load_failures_total",
            "Releases that were refused or failed to load",
            "model",
            "reason",
            shared=True,
        )
        self.ready = gauge("vigil_ready", "1 when the service answers predictions")
        self.drift_z_threshold = gauge(
            "vigil_drift_z_threshold", "Calibrated limit of the drift z score", *RELEASE, "window"
        )
        self.drift_psi_threshold = gauge("vigil_drift_psi_threshold", "Smallest PSI worth telling", *RELEASE)
        self.drift_min_rows = gauge("vigil_drift_min_rows", "Fewest rows drift is judged on", *RELEASE)

    def _of_records(self) -> None:
        counter = self.counts.counter
        self.records = counter("vigil_records_total", "Rows written to the prediction log", "model", shared=True)
        self.records_dropped = counter(
            "vigil_records_dropped_total", "Rows not written to the prediction log", "model", "reason", shared=True
        )
        self.records_sampled_out = counter(
            "vigil_records_sampled_out_total", "Rows beyond the rate that is recorded", "model"
        )
        gauge = self.counts.gauge
        self.log_size = gauge("vigil_log_size_bytes", "Size of the prediction log and what waits to be written back")
        self.log_used = gauge("vigil_log_used_bytes", "Of the prediction log, what rows and labels take")
        self.log_oldest = gauge("vigil_log_oldest_timestamp_seconds", "Time of the oldest row in the prediction log")
        for one in (self.log_size, self.log_used, self.log_oldest):
            one.clear()  # not known yet
        self.log_deleted = counter(
            "vigil_log_deleted_total", "Deleted from the prediction log by its limits", "what", "reason", shared=True
        )
        self.labels_accepted = counter("vigil_labels_accepted_total", "Labels written to the log", "model", shared=True)

    def _of_access(self) -> None:
        counter, gauge = self.counts.counter, self.counts.gauge
        self.access_refused = counter("vigil_access_refused_total", "Requests refused by key, role or rate", "reason")
        self.keys = gauge("vigil_keys", "API keys in the key file that was read last")
        self.key_file_failures = counter("vigil_key_file_failures_total", "Key files that could not be used")

    def _of_shadow(self) -> None:
        counter, histogram = partial(self.counts.counter, shared=True), self.counts.histogram
        self.shadow_rows = counter("vigil_shadow_rows_total", "Rows for the challenger by outcome", *RELEASE, "outcome")
        self.shadow_agreements = counter(
            "vigil_shadow_agreements_total", "Rows on which the challenger agrees with the champion", *RELEASE
        )
        self.shadow_difference = counter(
            "vigil_shadow_difference_total",
            "Sum over rows of the total variation distance, or absolute difference, between the answers of both",
            *RELEASE,
        )
        self.shadow_row_seconds = histogram(
            "vigil_shadow_row_seconds", "Seconds per row in a run of the challenger", ROW_BUCKETS_S, *RELEASE
        )
        self.shadow_records = counter(
            "vigil_shadow_records_total", "Rows of the challenger written to the prediction log", "model"
        )

    def worker_started(self, reason: str) -> None:
        """Count the start of this worker, and tell since when its service runs."""
        for one in STARTS:  # a series that begins at 1 shows no increase
            self.worker_starts.labels(one).inc(one == reason)
        if (started_s := processes.used(os.getppid()).get(processes.STARTED)) is not None:
            self.service_started.set(started_s)

    def signal_counts(self, model: str, version: str, signals: int) -> np.ndarray:
        """Return the counts of a release's signals in this worker, float64 (signals, BINS), to be added to."""
        return self.counts.array(SIGNAL_BIN, (model, version), signals * BINS).reshape(signals, BINS)

    def embedding_sums(self, model: str, version: str, components: int) -> np.ndarray:
        """Return the sums of a release's embedding in this worker and, last, the rows, to be added to."""
        return self.counts.array(EMBEDDING_SUM, (model, version), components + 1)


class MonitorMetrics:
    """What the monitor measures; `registry` is what its /metrics prints."""

    def __init__(self, registry: CollectorRegistry) -> None:
        counter, gauge = partial(_counter, registry), partial(_gauge, registry)
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
        self.labels_unknown = gauge("vigil_labels_unknown", "Labels on the log whose row is not there (yet)")
        self.labels_duplicate = gauge("vigil_labels_duplicate", "Labels in the log that repeat an earlier one")
        self.label_delay_high = gauge(
            "vigil_label_delay_high_seconds", "Seconds from answer to label that 5 % of the labels exceed", "model"
        )
        self.labels_overdue = gauge("vigil_labels_overdue", "Rows whose label came more than 24 h after the answer")
        self.labels_conflict = gauge("vigil_labels_conflict", "Labels in the log that correct an earlier one")
        self.challenge_verdict = gauge(
            "vigil_challenge_verdict",
            "1 for what the labels say of the challenger, 0 for the rest",
            *RELEASE,
            "verdict",
        )
        self.challenge_rows = gauge("vigil_challenge_rows", "Labelled rows the verdict rests on", *RELEASE)
        self.reports = counter("vigil_reports_total", "Reports by what asked for them", "model", "kind", "outcome")
        self.log_rows = gauge("vigil_monitor_log_rows", "Rows of the prediction log that were read")
        self.log_labels = gauge("vigil_monitor_labels_read", "Labels of the prediction log that were read")
        self.rows_missed = gauge(
            "vigil_monitor_missed_rows", "Rows deleted from the log before they were read, at most"
        )
        self.lag_rows = gauge("vigil_monitor_lag_rows", "Rows and labels on the log that were not read yet")
        self.lag_seconds = gauge("vigil_monitor_lag_seconds", "Age of the oldest of them, 0 without one")
        self.last_success = gauge("vigil_monitor_last_success_timestamp_seconds", "Time of the last good run")
        self.interval = gauge("vigil_monitor_interval_seconds", "Seconds between two runs")
        self.part_success = gauge(
            "vigil_monitor_part_last_success_timestamp_seconds", "Time of the last good run of a part", "part"
        )
        self.failures = counter("vigil_monitor_failures_total", "Runs and parts of them that failed", "reason")
        self.rebuilds = counter("vigil_monitor_rebuilds_total", "Times the state was made anew from the log", "reason")
        self._of_quality(gauge)
        self._of_estimates(gauge)
        process_collector.ProcessCollector(registry=registry)

    def _of_quality(self, gauge: Callable[..., Gauge]) -> None:
        bound, of_class, of_slice = "bound", (*RELEASE, "class"), (*RELEASE, "slice")
        self.quality_measure = gauge(
            "vigil_quality_measure", "Other measures of quality and their 95 % interval", *RELEASE, "metric", bound
        )
        self.quality_class_recall = gauge("vigil_quality_class_recall", "Recall by class", *of_class, bound)
        self.quality_class_rows = gauge("vigil_quality_class_rows", "Labelled rows by class", *of_class)
        self.quality_slice = gauge(
            "vigil_quality_slice", "Quality by slice; the intervals hold for all slices together", *of_slice, bound
        )
        self.quality_slice_rows = gauge("vigil_quality_slice_rows", "Labelled rows by slice", *of_slice)
        self.quality_slice_floor = gauge("vigil_quality_slice_floor", "Quality a slice must not be under", *of_slice)
        self.decline_evidence = gauge(
            "vigil_quality_decline_evidence", "Wealth of who bets that quality declined", *RELEASE
        )
        self.decline_limit = gauge("vigil_quality_decline_limit", "Wealth from which that is sure")
        self.decline_level = gauge("vigil_quality_decline_level", "Quality that it must not fall under", *RELEASE)
        self.decline_since = gauge(
            "vigil_quality_decline_since_timestamp_seconds", "Time since which the evidence is strongest", *RELEASE
        )
        self.decline_value = gauge("vigil_quality_decline_value", "Quality since then", *RELEASE)

    def _of_estimates(self, gauge: Callable[..., Gauge]) -> None:
        by_method = (*RELEASE, "method")
        self.estimate = gauge(
            "vigil_quality_estimate", "Accuracy estimated without labels and its 95 % interval", *by_method, "bound"
        )
        self.estimate_rows = gauge("vigil_quality_estimate_rows", "Rows it was estimated on", *RELEASE)
        self.estimate_valid = gauge("vigil_quality_estimate_valid", "1 while nothing speaks against it", *RELEASE)
        self.estimate_doubt = gauge(
            "vigil_quality_estimate_doubt", "1 for each reason not to believe it", *RELEASE, "reason"
        )
        self.estimate_error = gauge(
            "vigil_quality_estimate_error", "Mean distance of valid estimates from the truth in 30 days", *by_method
        )
        self.estimate_covered = gauge(
            "vigil_quality_estimate_covered_ratio", "Share of valid estimates whose interval held the truth", *by_method
        )
        self.estimate_scored = gauge(
            "vigil_quality_estimate_scored", "Valid estimates that were compared with the truth", *RELEASE
        )
        self.label_share = gauge(
            "vigil_label_share_estimate", "Share of a class estimated without labels", *RELEASE, "class", "bound"
        )
        self.label_share_valid = gauge("vigil_label_share_valid", "1 while a mix of the classes explains it", *RELEASE)


def _counter(registry: CollectorRegistry, name: str, text: str, *labels: str) -> Counter:
    return Counter(name, text, labels, registry=registry)


def _gauge(registry: CollectorRegistry, name: str, text: str, *labels: str) -> Gauge:
    return Gauge(name, text, labels, registry=registry)
