"""A refusal waits for its turn: no answer to an earlier request of the connection is lost to it. In both lanes."""

import contextlib
import json
import re
import socket
import urllib.parse
from concurrent.futures import ThreadPoolExecutor

import pytest
from slow_release import publish_slow
from tiny_release import IMAGE, rows_of

from registry import aliases

LANES = ("fast", "asgi")
RUN_S = 0.6
RECEIVE_S = "0.4"
BODY = json.dumps({"rows": rows_of(IMAGE, 1).tolist()}).encode()
START = b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
PREDICT = START + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY
LIVE = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = PREDICT.replace(b"Host", b"Connection: close\r\nHost")
CHUNKED = START + b"Transfer-Encoding: chunked\r\n\r\n"
BAD = {
    "not HTTP": (b"\x00garbage\r\n\r\n", 400),
    "a header that is none": (START + b"a b\r\n\r\n", 400),
    "an address that is none": (b"GET http://[ HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "a chunk that is none": (CHUNKED + b"zz\r\n", 400),
    "a head that is too long": (START + b"X: " + b"a" * 400_000, 431),
    "many headers": (START + b"X: a\r\n" * 8_000, 431),
    "a head that stops": (START, 408),
    "a body that stops": (PREDICT[:-5], 408),
    "chunks that stop": (CHUNKED + b"5\r\nab", 408),
}


@pytest.fixture(scope="module")
def lanes(place, start_service, eventually):
    """Return one service per lane, whose model takes longer than it waits for a request."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(place))
        aliases.promote(publish_slow(place, RUN_S).tag, "first")
    said = {"VIGIL_RECEIVE_S": RECEIVE_S, "VIGIL_THREADS": "1"}
    started = {lane: start_service(place, VIGIL_LANE=lane, VIGIL_RECORD="false", **said) for lane in LANES}
    for service in started.values():
        eventually("readiness", lambda s=service: s.call("/readyz")[0] == 200)
    return started


@pytest.fixture(params=LANES)
def service(request, lanes):
    return lanes[request.param]


def statuses(service, *contents):
    """Return for each connection the statuses of all that is answered to its content, until it is closed."""
    address = urllib.parse.urlparse(service.url)

    def ask(content):
        said = b""
        with socket.create_connection((address.hostname, address.port), timeout=20) as client:
            with contextlib.suppress(ConnectionError):
                client.sendall(content)
            while piece := client.recv(65536):
                said += piece
        whole = sum(said.count(start) for start in (b'{"error"', b'{"model"', b'{"alive"'))
        assert whole == len(re.findall(rb"^content-length", said, re.MULTILINE))
        return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", said)]

    with ThreadPoolExecutor(len(contents)) as pool:
        return list(pool.map(ask, contents))


@pytest.mark.parametrize(
    ("earlier", "answers"),
    [(PREDICT, [200]), (LIVE + PREDICT + LIVE, [200] * 3), (LIVE + LIVE, [200] * 2)],
    ids=["one", "several", "quick ones"],
)
def test_a_refusal_follows_the_answers_to_the_requests_before_it(service, earlier, answers):
    found = statuses(service, *(earlier + content for content, _ in BAD.values()))
    assert dict(zip(BAD, found, strict=True)) == {name: [*answers, status] for name, (_, status) in BAD.items()}


def test_behind_an_answer_that_closes_the_connection_nothing_is_said(service):
    assert statuses(service, *(LAST + content for content, _ in BAD.values())) == [[200]] * len(BAD)


def test_what_comes_behind_a_refusal_is_not_answered(service):
    assert statuses(service, PREDICT + BAD["not HTTP"][0] + PREDICT + LIVE) == [[200, 400]]


def test_a_request_that_is_not_read_because_others_are_answered_is_not_called_slow(service):
    rows = json.dumps({"rows": rows_of(IMAGE, 6000).tolist()}).encode()  # more than is read in one piece
    large = START + b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(rows) + rows
    assert statuses(service, PREDICT + PREDICT + large) == [[200, 200, 413]]


def test_a_client_that_goes_while_its_refusal_waits_leaves_nothing_behind(service, eventually):
    address = urllib.parse.urlparse(service.url)
    with socket.create_connection((address.hostname, address.port), timeout=20) as client:
        client.sendall(PREDICT + BAD["not HTTP"][0])
    eventually("the end of the connection", lambda: service.metric("vigil_connections") == 1)
    eventually("no row in flight", lambda: service.metric("vigil_inflight_rows") == 0)
    assert statuses(service, LAST) == [[200]]
