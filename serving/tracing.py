"""OpenTelemetry traces of some requests, off by default: a request span with its decode, queue, infer and encode.

`VIGIL_TRACE_SHARE` says which share is traced; a caller that sends `traceparent` decides for its own requests.
Spans go where the standard OTEL_EXPORTER_OTLP_ENDPOINT says, from a thread of their own, and are dropped when
nobody takes them: no request waits. They hold names, times and codes, never a row.
"""

import importlib.util
import random
import re
import time
from collections.abc import Mapping

from monitoring.log.sampling import Bucket
from registry.errors import ConfigError
from serving.http import Head

EXPORTER = "opentelemetry.exporter.otlp.proto.http"
TRACEPARENT = re.compile(rb"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]([0-9a-f])(?:-.*)?")
SAMPLED = b"13579bdf"  # the last digit of the flags when the caller records
MOST_PER_S = 100.0  # traced requests, whatever callers ask for: making the spans takes about 100 us each
LAST = "encode"  # ends with the request; the other stages follow each other from its start


class Tracer:
    """Makes the spans of sampled requests; use from one thread."""

    def __init__(self, share: float, most_per_s: float = MOST_PER_S) -> None:
        """share: of the requests that come without a `traceparent`. Raises ConfigError as `demand` does."""
        demand(share)
        # Loaded here: without traces the service does not hold these packages.
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import SERVICE_NAME, OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider, sampling
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        resource = Resource.create({SERVICE_NAME: "vigil"}).merge(OTELResourceDetector().detect())
        self._provider = TracerProvider(sampler=sampling.ALWAYS_ON, resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        self._tracer = self._provider.get_tracer("vigil")
        self._trace = trace
        self._context_of = TraceContextTextMapPropagator().extract
        self._share = share
        self._takes = Bucket(most_per_s).take

    def wants(self, head: Head) -> bool:
        """Say whether this request is traced: as its caller says, or by chance; never more than a bound."""
        parent = head.headers.get(b"traceparent")
        if parent is None:
            return random.random() < self._share and self._takes(1)
        found = TRACEPARENT.fullmatch(parent)
        return found is not None and found[1] in SAMPLED and self._takes(1)

    def finish(self, head: Head, name: str, started_s: float, stages: Mapping[str, float], status: int) -> None:
        """Hand over the spans of a request; call it for those that `wants` chose, right after the reply.

        name: the route. started_s: of `time.perf_counter`. stages: seconds in each, in order.
        """
        ended_ns, ended_s = time.time_ns(), time.perf_counter()
        trace = self._trace

        def moment_ns(at_s: float) -> int:
            return ended_ns - int((ended_s - at_s) * 1e9)

        carrier = {key: head.headers[key.encode()].decode("latin-1") for key in _carried(head)}
        span = self._tracer.start_span(
            f"{head.method} {name}",
            self._context_of(carrier),
            trace.SpanKind.SERVER,
            {"http.request.method": head.method, "http.route": name, "http.response.status_code": status},
            start_time=moment_ns(started_s),
        )
        if status >= 500:
            span.set_status(trace.StatusCode.ERROR)
        within, at_s = trace.set_span_in_context(span), started_s
        for stage, took_s in stages.items():
            if stage == LAST:
                at_s = ended_s - took_s
            part = self._tracer.start_span(stage, within, start_time=moment_ns(at_s))
            at_s += took_s
            part.end(moment_ns(at_s))
        span.end(ended_ns)

    def close(self) -> None:
        """Send what is waiting; takes as long as the receiver does, at most OTEL_BSP_EXPORT_TIMEOUT."""
        self._provider.shutdown()


def demand(share: float) -> None:
    """Raise ConfigError if that share of requests cannot be traced."""
    if share > 1:
        raise ConfigError(f"environment: VIGIL_TRACE_SHARE must be from 0 to 1, got {share:g}")
    if share and not _installed():
        raise ConfigError(
            f"environment: VIGIL_TRACE_SHARE={share:g} needs the package opentelemetry-exporter-otlp-proto-http; "
            "install it (pip install 'vigil[trace]'), or set the share to 0"
        )


def _installed() -> bool:
    try:
        return importlib.util.find_spec(EXPORTER) is not None
    except ModuleNotFoundError:
        return False


def _carried(head: Head) -> list[str]:
    return [key for key in ("traceparent", "tracestate") if key.encode() in head.headers]
