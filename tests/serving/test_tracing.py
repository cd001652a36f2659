import sys
import time

import otlp_receiver
import pytest

from registry.errors import ConfigError
from serving import tracing
from serving.http import Head
from serving.tracing import Tracer

PARENT = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-"
STAGES = {"decode": 0.010, "queue": 0.020, "infer": 0.040, "encode": 0.005}


def head(traceparent=None):
    return Head("POST", "/v1/predict", b"", {} if traceparent is None else {b"traceparent": traceparent})


@pytest.fixture
def receiver(monkeypatch):
    """Spans that came to a receiver on loopback, where the standard variable says."""
    with otlp_receiver.receiving() as (address, spans):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
        yield spans


def traced(tracer, traceparent=None, status=200):
    """Finish a request that took 0.1 s and close the tracer; return when it started, in ns."""
    started_s = time.perf_counter() - 0.1
    started_ns = time.time_ns() - 100_000_000
    tracer.finish(head(traceparent), "/v1/predict", started_s, STAGES, status)
    tracer.close()
    return started_ns


def test_a_request_becomes_a_span_with_its_stages_at_their_times(receiver):
    started_ns = traced(Tracer(1.0))
    spans = {span.name: span for _, span in receiver}
    request = spans.pop("POST /v1/predict")
    assert list(spans) == list(STAGES) and all(said["service.name"] == "vigil" for said, _ in receiver)
    assert abs(request.start_time_unix_nano - started_ns) < 50_000_000
    for name, span in spans.items():
        assert span.trace_id == request.trace_id and span.parent_span_id == request.span_id
        assert span.end_time_unix_nano - span.start_time_unix_nano == pytest.approx(STAGES[name] * 1e9, abs=1000)
    assert spans["decode"].start_time_unix_nano == request.start_time_unix_nano
    assert spans["queue"].start_time_unix_nano == spans["decode"].end_time_unix_nano
    assert spans["infer"].start_time_unix_nano == spans["queue"].end_time_unix_nano
    assert spans["encode"].end_time_unix_nano == pytest.approx(request.end_time_unix_nano, abs=1000)


def test_a_span_joins_the_trace_of_its_caller_and_tells_a_failure(receiver):
    traced(Tracer(0.0), PARENT + b"01", status=500)
    request = next(span for _, span in receiver if span.name == "POST /v1/predict")
    assert request.trace_id.hex() == "0af7651916cd43dd8448eb211c80319c"
    assert request.parent_span_id.hex() == "b7ad6b7169203331"
    assert request.status.code == request.status.STATUS_CODE_ERROR
    attributes = {one.key: one.value.int_value or one.value.string_value for one in request.attributes}
    assert attributes == {
        "http.request.method": "POST", "http.route": "/v1/predict", "http.response.status_code": 500,
    }  # fmt: skip


@pytest.fixture
def tracer():
    made = []

    def start(*arguments):
        made.append(Tracer(*arguments))
        return made[-1]

    yield start
    for one in made:
        one.close()


@pytest.mark.parametrize(
    ("traceparent", "wanted"),
    [
        (PARENT + b"01", True),
        (PARENT + b"03", True),
        (PARENT + b"00", False),
        (PARENT, False),
        (b"", False),
        (b"01", False),
        (PARENT + b"01\xff", False),
    ],
)
def test_a_caller_decides_for_its_own_requests(tracer, traceparent, wanted):
    assert tracer(0.5).wants(head(traceparent)) is wanted


def test_about_the_share_of_the_other_requests_is_traced(tracer):
    share = tracer(0.25, float("inf"))
    assert sum(share.wants(head()) for _ in range(20_000)) == pytest.approx(5000, rel=0.1)
    assert not any(tracer(0.0).wants(head()) for _ in range(100))


def test_callers_cannot_have_more_traced_than_the_bound(tracer):
    bounded = tracer(0.0, 5.0)
    begun = time.monotonic()
    wanted = sum(bounded.wants(head(PARENT + b"01")) for _ in range(2000))
    assert 5 <= wanted <= 6 + 5 * (time.monotonic() - begun)


def test_a_share_that_cannot_be_is_an_error_that_says_what_to_do(monkeypatch):
    with pytest.raises(ConfigError, match="VIGIL_TRACE_SHARE must be from 0 to 1, got 2"):
        tracing.demand(2.0)
    monkeypatch.setitem(sys.modules, tracing.EXPORTER, None)
    with pytest.raises(ConfigError, match=r"VIGIL_TRACE_SHARE=0\.01 needs the package .*pip install 'vigil\[trace\]'"):
        tracing.demand(0.01)
    tracing.demand(0.0)
