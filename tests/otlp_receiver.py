"""A real OTLP receiver over HTTP on loopback, which keeps the spans it is sent."""

import contextlib

from listening import Quiet, listening
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@contextlib.contextmanager
def receiving():
    """Yield (address, list of (attributes of the resource, span))."""
    spans = []

    class Handler(Quiet):
        def do_POST(self):  # noqa: N802
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/v1/traces":
                for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                    said = {one.key: one.value.string_value for one in resource.resource.attributes}
                    spans.extend((said, span) for scope in resource.scope_spans for span in scope.spans)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

    with listening(Handler) as address:
        yield f"http://{address}", spans
