"""One suite over every lane: what a client sees must not depend on the way its request came in."""

import contextlib
import json
import re
import socket
import sqlite3
import urllib.parse

import numpy as np
import pytest
from tiny_release import IMAGE, TABLE, make_draft, make_files, rows_of

from registry import aliases, store

LANES = ("fast", "asgi")
ROWS = rows_of(IMAGE, 5, seed=3)
BODY = json.dumps({"rows": ROWS[:1].tolist(), "ids": ["a"]}).encode()
JSON = (("Content-Type", "application/json"),)
RAW = (("Content-Type", "application/octet-stream"), ("X-Request-Id", "same"))


@pytest.fixture(scope="module")
def services(tmp_path_factory, start_service, eventually):
    """Return a service per model and lane, on one store."""
    home = tmp_path_factory.mktemp("lanes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(home))
        for name, spec, classes in (("tiny", IMAGE, tuple("0123456789")), ("people", TABLE, ("no", "yes"))):
            tag = store.publish(make_draft(name, spec, classes), make_files(home / name, spec, classes)).tag
            aliases.promote(tag, "first")
    return {
        model: {lane: serve(start_service, eventually, home, lane, model) for lane in LANES}
        for model in ("tiny", "people")
    }


@pytest.fixture(scope="module")
def lanes(services):
    """Return a service of images per lane."""
    return services["tiny"]


@pytest.fixture(scope="module")
def people(services):
    """Return a service of a table per lane."""
    return services["people"]


def serve(start_service, eventually, home, lane, model):
    log = str(home / f"{model}-{lane}.sqlite")
    service = start_service(home, VIGIL_LANE=lane, VIGIL_MODELS=model, VIGIL_LOG=log)
    eventually("readiness", lambda: service.call("/readyz")[0] == 200)
    return service


def connect(service):
    place = urllib.parse.urlparse(service.url)
    return socket.create_connection((place.hostname, place.port), timeout=10)


def request(path="/v1/predict", body=BODY, headers=JSON, method="POST", length=True):
    lines = [f"{method} {path} HTTP/1.1", "Host: x", *(f"{name}: {value}" for name, value in headers)]
    lines += [f"Content-Length: {len(body)}"] if length else []
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def answers(stream, count):
    """Return (status, headers, body) of `count` answers read from a socket's file."""
    found = []
    for _ in range(count):
        status, headers = int(stream.readline().split()[1]), {}
        while line := stream.readline().strip():
            name, _, value = line.partition(b":")
            headers[name.strip().lower().decode()] = value.strip().decode()
        found.append((status, headers, stream.read(int(headers["content-length"]))))
    return found


def ask(service, content, count=1):
    with connect(service) as client, client.makefile("rb") as stream:
        client.sendall(content)
        return answers(stream, count)


def comparable(answer):
    """Return an answer without what differs by right: the time, and ids that were made."""
    status, headers, body = answer
    kept = {name: value for name, value in headers.items() if name != "date"}
    if re.fullmatch("[0-9a-f]{17,}", kept.get("vigil-id", "")):
        kept["vigil-id"] = "made"
    return status, kept, re.sub(rb'"id":"[0-9a-f]{17,}', b'"id":"made', body)


REQUESTS = {
    "JSON": request(),
    "JSON with a charset": request(headers=(("Content-Type", "application/json; charset=utf-8"),)),
    "without ids": request(body=json.dumps({"rows": ROWS.tolist()}).encode()),
    "raw": request(body=ROWS.tobytes(), headers=RAW),
    "for BentoML's clients": request("/predict"),
    "by the name of the model": request("/v1/models/tiny/predict"),
    "a model that is not served": request("/v1/models/other/predict"),
    "a bad row": request(body=b'{"rows": [[1, 2]]}'),
    "no JSON": request(body=b"{"),
    "an empty body": request(body=b""),
    "no length": request(body=b"", length=False),
    "an unknown type": request(headers=(("Content-Type", "text/plain"),)),
    "no type": request(headers=()),
    "pickle": request(headers=(("Content-Type", "application/vnd.bentoml+pickle"),)),
    "compressed": request(headers=(*JSON, ("Content-Encoding", "gzip"))),
    "raw with a byte too few": request(body=ROWS.tobytes()[:-1], headers=RAW),
    "a deadline": request(headers=(*JSON, ("X-Request-Timeout", "5"))),
    "a deadline that is no number": request(headers=(*JSON, ("X-Request-Timeout", "soon"))),
    "an id of the client": request(headers=(*JSON, ("X-Request-Id", "mine"))),
    "a query": request("/v1/predict?x=1"),
    "an escaped address": request("/v1/%70redict"),
    "another method": request(method="PUT"),
    "GET": request(method="GET", body=b"", length=False),
    "a header twice": request(headers=(*JSON, ("X-Other", "1"), ("X-Other", "2"))),
    "closing": request(headers=(*JSON, ("Connection", "close"))),
    "expecting": request(headers=(*JSON, ("X-A", "b"))),
    "an address of authority alone": request("http://x"),
    "an unknown address": request("/nosuch", b"", (), "GET", length=False),
    "labels": request("/v1/labels", b'{"labels": [{"id": "a", "label": "1"}]}'),
    "the start page": request("/", b"", (), "GET", length=False),
    "health": request("/readyz", b"", (), "GET", length=False),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_every_lane_gives_the_same_answer(lanes, name):
    fast, asgi = (comparable(ask(lanes[lane], REQUESTS[name])[0]) for lane in LANES)
    assert fast == asgi
    assert fast[0] < 500


@pytest.mark.parametrize("lane", LANES)
def test_the_lane_in_use_is_the_one_asked_for(lanes, lane):
    assert lanes[lane].metric("vigil_lane_info", lane=lane) == 1
    assert lanes[lane].metric("vigil_lane_info") == 1


@pytest.mark.parametrize("lane", LANES)
def test_requests_in_one_piece_are_answered_in_order(lanes, lane):
    several = [request(body=json.dumps({"rows": ROWS[:1].tolist(), "ids": [str(i)]}).encode()) for i in range(30)]
    several[10] = request("/livez", b"", (), "GET", length=False)
    several[20] = request(body=b"no")
    found = ask(lanes[lane], b"".join(several), len(several))
    assert [status for status, _, _ in found] == [200] * 20 + [400] + [200] * 9
    ids = [json.loads(body)["predictions"][0]["id"] for _, _, body in found if b"predictions" in body]
    assert ids == [str(i) for i in range(30) if i not in (10, 20)]


@pytest.mark.parametrize("lane", LANES)
def test_a_request_may_come_in_any_pieces(lanes, lane):
    content = request(body=ROWS.tobytes(), headers=RAW)
    expected = comparable(ask(lanes[lane], content)[0])[2]
    generator = np.random.default_rng(0)
    with connect(lanes[lane]) as client, client.makefile("rb") as stream:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(25):
            cuts = sorted(generator.integers(0, len(content), 3).tolist())
            for start, stop in zip([0, *cuts], [*cuts, len(content)], strict=True):
                client.sendall(content[start:stop])
            assert answers(stream, 1)[0][2] == expected


@pytest.mark.parametrize("lane", LANES)
def test_a_client_that_hangs_up_before_its_answer_costs_nobody_else_theirs(lanes, lane, eventually):
    for _ in range(30):
        client = connect(lanes[lane])
        client.sendall(request())
        client.close()
    assert ask(lanes[lane], request())[0][0] == 200
    eventually("nothing in flight", lambda: lanes[lane].metric("vigil_inflight_rows") == 0)


@pytest.mark.parametrize("lane", LANES)
def test_every_answer_is_counted_once_by_route_and_code(lanes, lane):
    service = lanes[lane]

    def counted(code):
        return service.metric("vigil_requests_total", route="/v1/models/{name}/predict", code=code)

    before = counted("200"), counted("422"), service.metric("vigil_input_rows_total")
    for body in (BODY, BODY, b'{"rows": [[1]]}'):
        ask(service, request("/v1/models/tiny/predict", body))
    after = counted("200"), counted("422"), service.metric("vigil_input_rows_total")
    assert [b - a for a, b in zip(before, after, strict=True)] == [2, 1, 2]
    assert service.metric("vigil_request_seconds_count", route="/v1/models/{name}/predict") >= 3


@pytest.mark.parametrize("lane", LANES)
def test_neither_a_body_nor_a_long_conversation_counts_as_a_head(lanes, lane):
    labels = json.dumps({"labels": [{"id": f"row-{i:040}", "label": "1"} for i in range(1000)]}).encode()
    assert len(labels) > 40_000
    probe = request("/livez", b"", (), "GET", length=False)
    turns = 40_000 // len(probe)
    with connect(lanes[lane]) as client, client.makefile("rb") as stream:
        for content in (request("/v1/labels", labels), *[probe] * turns, request()):
            client.sendall(content)
            assert answers(stream, 1)[0][0] == 200


@pytest.mark.parametrize("lane", LANES)
def test_a_head_and_a_body_beyond_their_limits_are_refused(lanes, lane):
    long_head = request(headers=(*JSON, ("X-Long", "x" * 40_000)))
    assert ask(lanes[lane], long_head)[0][0] == 431
    many = request(headers=(*JSON, *((f"X-{i}", "y" * 100) for i in range(400))))
    assert ask(lanes[lane], many)[0][0] == 431
    declared = request(body=b"", length=False, headers=(*JSON, ("Content-Length", str(8 * 1024 * 1024 + 1))))
    assert ask(lanes[lane], declared)[0][0] == 413
    assert lanes[lane].call("/livez")[0] == 200


def at_once(service, contents):
    """Send one request on each of as many connections, all before an answer is read; return the answers."""
    clients = [connect(service) for _ in contents]
    try:
        for client, content in zip(clients, contents, strict=True):
            client.sendall(content)
        return [answers(client.makefile("rb"), 1)[0] for client in clients]
    finally:
        for client in clients:
            client.close()


@pytest.mark.parametrize("count", [1, 3], ids=["a row each", "three rows each"])
@pytest.mark.parametrize("lane", LANES)
def test_requests_that_come_together_get_each_the_answer_to_its_own_rows(lanes, lane, count):
    service, rows = lanes[lane], rows_of(IMAGE, 40 * count, seed=9).reshape(40, count, *IMAGE.shape)
    headers = RAW[:1]
    alone = [ask(service, request(body=one.tobytes(), headers=headers))[0] for one in rows]
    before = service.metric("vigil_input_rows_total"), service.metric("vigil_requests_total", code="200")
    for _ in range(5):
        together = at_once(service, [request(body=one.tobytes(), headers=headers) for one in rows])
        for (_, told, one), (status, said, body) in zip(alone, together, strict=True):
            assert status == 200
            assert said["vigil-shape"] == f"{count},10" and said["content-type"] == told["content-type"]
            np.testing.assert_allclose(np.frombuffer(body, "<f4"), np.frombuffer(one, "<f4"), atol=1e-6)
        assert len({said["vigil-id"] for _, said, _ in together}) == 40
    after = service.metric("vigil_input_rows_total"), service.metric("vigil_requests_total", code="200")
    assert after[0] - before[0] == 5 * 40 * count
    assert after[1] - before[1] >= 5 * 40  # and the scrapes


@pytest.mark.parametrize("lane", LANES)
def test_a_bad_request_among_others_of_its_head_is_refused_alone(people, lane):
    service = people[lane]
    rows = rows_of(TABLE, 30, seed=4)
    rows[7, 1] = np.nan
    rows[20, 0] = np.inf
    together = at_once(service, [request(body=one.tobytes(), headers=RAW[:1]) for one in rows])
    assert [i for i, (status, _, _) in enumerate(together) if status != 200] == [7, 20]
    assert json.loads(together[7][2])["error"] == "rows[0]['height']: must be a finite float32, found nan"
    assert all(len(body) == 8 for status, _, body in together if status == 200)


@pytest.mark.parametrize("lane", LANES)
def test_requests_together_are_recorded_each_under_its_own_id(lanes, lane, eventually):
    service, rows = lanes[lane], rows_of(IMAGE, 20, seed=5)
    together = at_once(service, [request(body=one.tobytes(), headers=RAW[:1]) for one in rows])
    sent = {f"{said['vigil-id']}-0": one.tobytes() for one, (_, said, _) in zip(rows, together, strict=True)}

    def recorded():
        log = sqlite3.connect(service.environment["VIGIL_LOG"])
        with contextlib.closing(log), contextlib.suppress(sqlite3.OperationalError):  # no table before the first row
            return {ident: row for ident, row in log.execute("SELECT id, row FROM predictions") if ident in sent}

    assert eventually("twenty rows on the log", lambda: (found := recorded()) and len(found) == 20 and found) == sent


@pytest.mark.parametrize("lane", LANES)
def test_a_long_body_behind_a_request_that_is_being_answered_is_read_to_its_end(lanes, lane):
    many = rows_of(IMAGE, 2000, seed=2)
    contents = [request(body=ROWS.tobytes(), headers=RAW), request(body=many.tobytes(), headers=RAW)] * 3
    found = ask(lanes[lane], b"".join(contents), len(contents))
    assert [(status, len(body)) for status, _, body in found] == [(200, 5 * 40), (200, 2000 * 40)] * 3


def test_an_unknown_address_is_refused_in_json(lanes):
    for path in ("/nosuch", "/v3/x", "/v2/models/tiny/config"):
        status, said = lanes["fast"].call(path)
        assert status == 404 and said["error"].startswith("no such address")
