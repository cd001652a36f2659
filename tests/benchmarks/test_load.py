"""The load generator against small servers that do what it must tell: count, stall, break, shrink."""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from benchmarks import load
from benchmarks.load import Traffic
from registry.errors import StackError

BODY = b"x" * 40
STALL_S = 0.3


class Behaviour:
    """What the server does with its n-th request, and how many it has seen."""

    def __init__(self, act):
        self.seen = 0
        self._act = act
        self._lock = threading.Lock()

    def __call__(self, handler):
        with self._lock:
            self.seen += 1
            n = self.seen
        self._act(handler, n)


def reply(handler, status=200, body=BODY, **headers):
    handler.send_response(status)
    for name, value in ({"Content-Length": len(body)} | headers).items():
        handler.send_header(name.replace("_", "-"), str(value))
    handler.end_headers()
    handler.wfile.write(body)


@pytest.fixture
def serve():
    """Return a function that starts a server with a behaviour and returns its port."""
    started = []

    def start(behaviour):
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self):  # noqa: N802, the name http.server calls
                self.rfile.read(int(self.headers["Content-Length"]))
                behaviour(self)

            def log_message(self, *_):
                """Say nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        started.append(server)
        return server.server_address[1]

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


def traffic(**changed):
    request = b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 3\r\n\r\nrow"
    said = {"requests": [request], "connections": 2, "seconds": 0.3, "warmup_s": 0.0}
    return Traffic(**said | changed)


def test_every_answer_is_counted_once_and_none_is_made_up(serve):
    behaviour = Behaviour(lambda handler, n: reply(handler))
    found = load.send(serve(behaviour), traffic(least_bytes=40, most_bytes=40))
    assert found.failed == 0 and found.statuses == {"200": found.ok}
    # What was under way at the end, one on each connection, is seen by the server and not counted.
    assert behaviour.seen - 2 <= found.ok <= behaviour.seen
    assert found.last_body_bytes == 40 and 0 < found.p50_us <= found.p99_us <= found.max_us


def test_other_statuses_and_wrong_sizes_are_failures(serve):
    def act(handler, n):
        reply(handler, 503 if n % 3 == 0 else 200, b"short" if n % 3 == 1 else BODY)

    found = load.send(serve(Behaviour(act)), traffic(least_bytes=40, most_bytes=40))
    assert found.statuses["503"] > 0 and found.wrong_size > 0
    assert found.failed == found.statuses["503"] + found.wrong_size
    assert found.ok == found.statuses["200"]


def test_a_connection_that_ends_under_a_request_is_broken_and_opened_again(serve):
    def act(handler, n):
        if n % 5 == 0:
            handler.close_connection = True
        else:
            reply(handler)

    behaviour = Behaviour(act)
    found = load.send(serve(behaviour), traffic())
    assert found.broken > 1 and found.ok > 3 * found.broken
    assert found.broken <= behaviour.seen // 5


def test_a_server_that_says_close_breaks_nothing(serve):
    found = load.send(serve(Behaviour(lambda handler, n: reply(handler, Connection="close"))), traffic())
    assert found.ok > 0 and found.failed == 0


def test_a_chunked_answer_is_measured_by_what_its_chunks_hold(serve):
    def act(handler, n):
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"19\r\n" + b"x" * 25 + b"\r\nf\r\n" + b"x" * 15 + b"\r\n0\r\n\r\n")

    found = load.send(serve(Behaviour(act)), traffic(least_bytes=40, most_bytes=40))
    assert found.ok > 0 and found.failed == 0 and found.last_body_bytes == 40


def test_in_the_open_loop_the_requests_that_a_stall_keeps_waiting_count_their_wait(serve):
    def act(handler, n):
        if n == 20:
            time.sleep(STALL_S)
        reply(handler)

    port = serve(Behaviour(act))
    found = load.send(port, traffic(connections=1, seconds=1.0, rate=200))
    # 60 of the 200 came while the server stood still: one of ten waited at least two thirds of that time.
    assert found.p90_us > STALL_S * 1e6 / 4
    patient = load.send(serve(Behaviour(act)), traffic(connections=1, seconds=1.0))
    assert patient.max_us > STALL_S * 1e6 and patient.p90_us < found.p90_us


def test_in_the_open_loop_as_many_are_sent_as_the_rate_says(serve):
    found = load.send(serve(Behaviour(lambda handler, n: reply(handler))), traffic(seconds=2.0, rate=300))
    assert found.failed == 0
    assert abs(found.ok - 600) < 5 * 600**0.5  # gaps are exponential: five standard deviations


def test_what_never_gets_an_answer_is_told(serve):
    gate = threading.Event()
    found = load.send(serve(Behaviour(lambda handler, n: gate.wait(10))), traffic(rate=20))
    gate.set()
    assert found.ok == 0 and found.unfinished > 0 and found.failed == found.unfinished


def test_a_port_without_a_server_is_an_error_that_says_so(serve):
    with pytest.raises(StackError, match="connect: Connection refused"):
        load.send(1, traffic())
