"""What a connection may not do, in raw bytes, on the real service; the same in both lanes."""

import contextlib
import json
import re
import socket
import time
import urllib.parse

import pytest
from tiny_release import IMAGE, make_draft, make_files, rows_of

from registry import aliases, store

LANES = ("fast", "asgi")
RECEIVE_S = "1"
MOST = 12
BODY = json.dumps({"rows": rows_of(IMAGE, 1).tolist()}).encode()
START = b"POST /v1/predict HTTP/1.1\r\nHost: x\r\n"
JSON = b"Content-Type: application/json\r\n"
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
CHUNKED = b"Transfer-Encoding: chunked\r\n"
CHUNKS = b"%x\r\n%s\r\n0\r\n\r\n" % (len(BODY), BODY)
PREDICT = START + JSON + LENGTH + b"\r\n" + BODY
LIVE = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = LIVE.replace(b"Host", b"Connection: close\r\nHost")
HIDDEN = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(scope="module")
def lanes(tmp_path_factory, start_service, eventually):
    """Return one service per lane, with little patience and few connections."""
    home = tmp_path_factory.mktemp("guard")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(home))
        aliases.promote(store.publish(make_draft(), make_files(home / "files")).tag, "first")
    limits = {"VIGIL_RECEIVE_S": RECEIVE_S, "VIGIL_IDLE_S": "4", "VIGIL_MAX_CONNECTIONS": str(MOST)}
    started = {
        lane: start_service(home, VIGIL_LANE=lane, VIGIL_LOG=str(home / f"{lane}.sqlite"), **limits) for lane in LANES
    }
    for service in started.values():
        eventually("readiness", lambda s=service: s.call("/readyz")[0] == 200)
    return started


@pytest.fixture(params=LANES)
def service(request, lanes):
    return lanes[request.param]


def connect(service):
    place = urllib.parse.urlparse(service.url)
    return socket.create_connection((place.hostname, place.port), timeout=20)


def statuses(said):
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", said)]


def until_closed(client):
    """Return what a server says until it closes the connection."""
    said = b""
    while piece := client.recv(65536):
        said += piece
    return said


def one_answer(client):
    """Return what a server says up to the end of one answer of JSON."""
    said = b""
    while not said.endswith(b"}"):
        piece = client.recv(65536)
        assert piece, "closed before the answer"
        said += piece
    return said


def said_by(service, *pieces):
    """Return what the service says to `pieces`, sent one after the other, until it closes the connection."""
    with connect(service) as client:
        for piece in pieces:
            client.sendall(piece)
        return until_closed(client)


def drip(service, first, piece):
    """Send `first`, then `piece` again and again until the service has enough; returns what it says."""
    with connect(service) as client:
        client.sendall(first)
        client.settimeout(0.05)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with contextlib.suppress(TimeoutError):
                return client.recv(65536)
            client.sendall(piece)
    raise AssertionError("the service was patient for 20 s")


@pytest.mark.parametrize(
    ("first", "piece"),
    [
        (START, b"a"),
        (START, b"X: a\r\n"),
        (PREDICT[:-10], b""),
        (START + JSON + b"Content-Length: 100000\r\n\r\n", b"a"),
        (START + JSON + CHUNKED + b"\r\n", b"1\r\na\r\n"),
        (START + JSON + CHUNKED + b"\r\n1;", b"a"),
    ],
    ids=["head by the byte", "head by the line", "body that stops", "body by the byte", "chunks", "chunk extension"],
)
def test_a_request_that_does_not_arrive_in_time_is_answered_408_however_it_drips(service, first, piece):
    assert statuses(drip(service, first, piece)) == [408]


def test_silent_and_idle_connections_are_closed_without_a_word(service):
    sent = {b"": [], b"\r\n\r\n": [], PREDICT: [200], LIVE: [200]}
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(service)) for _ in sent]
        for client, content in zip(clients, sent, strict=True):
            client.sendall(content)
        assert [statuses(until_closed(client)) for client in clients] == list(sent.values())


def test_a_slow_request_after_a_good_one_does_not_get_more_time(service):
    assert statuses(said_by(service, PREDICT, START)) == [200, 408]


@pytest.mark.parametrize(
    "head",
    [
        START + b"X: " + b"a" * 40_000 + b"\r\n" + JSON + LENGTH + b"\r\n" + BODY,
        START + b"X: " + b"a" * 4_000_000,
        START + b"X: a\r\n" * 8_000 + b"\r\n",
        b"GET /" + b"a" * 40_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        PREDICT + START + b"X: " + b"a" * 400_000,
    ],
    ids=["one header", "a header without end", "many headers", "address", "second request"],
)
def test_a_head_above_its_limit_is_refused_431_and_the_client_can_read_it(service, head):
    assert statuses(said_by(service, head))[-1] == 431


def test_a_body_of_any_accepted_size_is_no_head(service):
    body = b'{"rows": ' + b" " * 3_000_000 + b"[]}"
    end = b"Connection: close\r\n\r\n"
    for how in (b"Content-Length: %d\r\n" % len(body) + end + body, CHUNKED + end + b"%x\r\n" % len(body) + body):
        assert statuses(said_by(service, START + JSON + how + b"\r\n0\r\n\r\n" * (CHUNKED in how))) == [422]


@pytest.mark.parametrize("how", ["declared", "chunked"])
def test_a_body_above_its_limit_is_refused_413_before_it_is_read(service, how):
    size = 9_000_000
    head = b"Content-Length: %d\r\n\r\n" % size if how == "declared" else CHUNKED + b"\r\n%x\r\n" % size
    with connect(service) as client:
        client.sendall(START + JSON + head)
        if how == "chunked":
            client.sendall(b"a" * size)
        assert statuses(client.recv(65536)) == [413]


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (b"Content-Type: text/plain\r\n", 415),
        (b"Content-Type: multipart/form-data; boundary=x\r\n", 415),
        (b"Content-Type: multipart/form-data\r\n", 415),
        (b"Content-Type: application/x-www-form-urlencoded\r\n", 415),
        (b"Content-Type: \r\n", 415),
        (b"", 415),
        (JSON + b"Content-Type: text/plain\r\n", 415),
        (JSON + b"Content-Encoding: gzip\r\n", 415),
        (JSON + b"Content-Encoding: identity\r\n", 415),
    ],
)
def test_a_kind_of_body_nobody_asked_for_is_refused_415(service, kind, status):
    for path in (b"/v1/predict", b"/predict", b"/v1/labels"):
        sent = (START + kind + LENGTH + b"Connection: close\r\n\r\n" + BODY).replace(b"/v1/predict", path)
        assert statuses(said_by(service, sent)) == [status]


SHAPES = {
    "CL and TE": START + JSON + LENGTH + CHUNKED + b"\r\n0\r\n\r\n" + HIDDEN,
    "TE and CL": START + JSON + CHUNKED + b"Content-Length: 4\r\n\r\n0\r\n\r\n" + HIDDEN,
    "CL twice": START + JSON + LENGTH + LENGTH + b"\r\n" + BODY,
    "two CL": START + JSON + LENGTH + b"Content-Length: 0\r\n\r\n" + BODY,
    "CL list": START + JSON + b"Content-Length: %d, %d\r\n\r\n" % (len(BODY), len(BODY)) + BODY,
    "CL plus": START + JSON + b"Content-Length: +%d\r\n\r\n" % len(BODY) + BODY,
    "CL below 0": START + JSON + b"Content-Length: -1\r\n\r\n" + HIDDEN,
    "CL hex": START + JSON + b"Content-Length: 0x10\r\n\r\n" + BODY,
    "CL underscore": START + JSON + b"Content-Length: 1_0\r\n\r\n" + BODY,
    "CL space": START + JSON + b"Content-Length : %d\r\n\r\n" % len(BODY) + BODY,
    "CL huge": START + JSON + b"Content-Length: 99999999999999999999999\r\n\r\n" + BODY,
    "CL folded": START + JSON + b"Content-Length:\r\n %d\r\n\r\n" % len(BODY) + BODY,
    "folded": START + JSON + b"X: a\r\n folded\r\n" + LENGTH + b"\r\n" + BODY,
    "bare LF": START + JSON + b"X: a\n" + LENGTH + b"\r\n" + BODY,
    "bare CR": START + JSON + b"X: a\rContent-Length: 0\r\n" + LENGTH + b"\r\n" + BODY,
    "LF for the end": START + JSON + LENGTH + b"\n" + BODY + b"\r\n\r\n" + HIDDEN,
    "LF alone": (START + JSON + LENGTH + b"\r\n").replace(b"\r\n", b"\n") + BODY,
    "TE tab": START + JSON + b"Transfer-Encoding:\x0bchunked\r\n" + LENGTH + b"\r\n" + CHUNKS,
    "TE other": START + JSON + b"Transfer-Encoding: xchunked\r\n\r\n" + CHUNKS,
    "TE identity": START + JSON + b"Transfer-Encoding: identity\r\n\r\n" + BODY,
    "two TE": START + JSON + CHUNKED + b"Transfer-Encoding: identity\r\n\r\n" + CHUNKS,
    "LF in chunk": START + JSON + CHUNKED + b"\r\n" + CHUNKS.replace(b"\r\n", b"\n", 1),
    "chunk huge": START + JSON + CHUNKED + b"\r\nfffffffffffffffff\r\n" + HIDDEN,
    "chunk not hex": START + JSON + CHUNKED + b"\r\nzz\r\n" + HIDDEN,
    "NUL": START + JSON + b"X: a\x00b\r\n" + LENGTH + b"\r\n" + BODY,
    "no name": START + JSON + b": x\r\n" + LENGTH + b"\r\n" + BODY,
    "no colon": START + JSON + b"no colon\r\n" + LENGTH + b"\r\n" + BODY,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    "NUL in the path": b"GET /livez\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
    "small letters": b"get /livez HTTP/1.1\r\nHost: x\r\n\r\n",
}


@pytest.mark.parametrize("shape", SHAPES)
def test_a_request_that_two_parsers_could_read_differently_is_refused_400_and_closed(service, shape):
    assert statuses(said_by(service, SHAPES[shape])) == [400]


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /livez HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN,
        b"GET /livez HTTP/1.1\r\nHost: x\r\n" + CHUNKED + b"\r\n%x\r\n" % len(HIDDEN) + HIDDEN + b"\r\n0\r\n\r\n",
        START.replace(b"/v1/predict", b"/x") + b"Content-Length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN,
        START + b"Content-Length: %d\r\n\r\n" % len(HIDDEN) + HIDDEN,
    ],
    ids=["GET with a body", "GET with chunks", "no such page", "415"],
)
def test_a_body_is_never_taken_for_the_next_request(service, sent):
    said = said_by(service, sent + LAST)
    assert len(statuses(said)) == 2 and b"vigil_" not in said and said.endswith(b'{"alive":true}')


def test_what_comes_after_close_is_not_answered(service):
    sent = START + JSON + LENGTH + b"Connection: close\r\n\r\n" + BODY
    assert statuses(said_by(service, sent + LIVE)) == [200]


def test_a_body_after_an_upgrade_is_never_taken_for_the_next_request(service):
    sent = START + JSON + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: %d\r\n\r\n" % len(HIDDEN)
    with connect(service) as client:
        client.sendall(sent)
        said = one_answer(client)
        with contextlib.suppress(OSError):
            client.sendall(HIDDEN)
            said += until_closed(client)
    assert statuses(said) == [400] and b"connection: close" in said


@pytest.mark.parametrize(
    ("host", "address"),
    [
        (b"Host: x/../metrics?", b"/livez"),
        (b"Host: x\r\nHost: y", b"/livez"),
        (b"Host: x@127.0.0.1:1/metrics#", b"/livez"),
        (b"Host: x\r\nX-Forwarded-Path: /metrics\r\nX-Original-URL: /metrics", b"/livez"),
        (b"Host: x", b"http://elsewhere/livez"),
    ],
)
def test_the_address_alone_decides_the_route(service, host, address):
    said = said_by(service, b"GET " + address + b" HTTP/1.1\r\n" + host + b"\r\nConnection: close\r\n\r\n")
    assert statuses(said) == [200] and b'{"alive":true}' in said


def test_pipelined_requests_of_both_kinds_are_answered_in_their_order(service):
    said = said_by(service, PREDICT + LIVE + PREDICT + PREDICT + LIVE + LAST)
    assert statuses(said) == [200] * 6
    assert re.findall(rb"alive|predictions", said) == [
        b"predictions", b"alive", b"predictions", b"predictions", b"alive", b"alive",
    ]  # fmt: skip


def test_a_client_that_reads_nothing_is_not_read_from_and_then_let_go(service):
    place = urllib.parse.urlparse(service.url)
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # few answers fill it
        client.connect((place.hostname, place.port))
        client.settimeout(0.5)
        sent = 0
        with pytest.raises(TimeoutError):  # so that what is held for it stays bounded
            while sent < 400_000_000:
                sent += client.send(PREDICT * 100)
        client.settimeout(20)
        with pytest.raises(ConnectionError):
            while True:
                client.sendall(b"a" * 65536)


def test_more_connections_than_allowed_are_told_503_and_those_inside_go_on(service, eventually):
    with contextlib.ExitStack() as stack:
        inside = [stack.enter_context(connect(service)) for _ in range(MOST)]
        for client in inside:
            client.sendall(PREDICT)
            assert statuses(one_answer(client)) == [200]
        refused = said_by(service, LIVE)
        assert statuses(refused) == [503] and b"retry-after: 1\r\n" in refused
        for client in inside:
            client.sendall(PREDICT)
            assert statuses(one_answer(client)) == [200]
    eventually("room again", lambda: service.call("/livez")[0] == 200)
    counted = service.metric("vigil_connections_rejected_total", reason="connections")
    assert counted >= 1


def test_what_a_client_sends_never_becomes_a_label(service):
    def send(i):
        for path in (
            f"/x{i}",
            f"/v1/models/m{i}/predict",
            f"/v2/models/m{i}/versions/{i}/infer",
            f"/v1/models/m{i}/card",
        ):
            assert service.call(path, {"rows": i})[0] in (404, 405, 415), path
        assert service.call("/v1/predict", {f"k{i}": i}, {"X-Request-Id": f"r{i}", "User-Agent": f"a{i}"})[0] == 422

    def series():
        lines = service.scrape().splitlines()
        return {line.rpartition(" ")[0] for line in lines if not line.startswith("#")}

    send(1000)
    series()
    before = series()
    for i in range(40):
        send(i)
    assert series() == before
    assert not any(re.search(r"[xmkra]1?\d\b", one) for one in before if "other" in one)
