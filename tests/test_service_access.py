"""Who may do what, asked of the real service: every route, by every kind of key, at every address and in both lanes."""

import http.client
import json
import re
import socket
import urllib.parse

import psutil
import pytest
from asked import ROWS, ask, status_of
from tiny_release import make_draft, make_files

from demo.stack import free_ports
from registry import aliases, store
from serving import keys
from serving.server import Server
from serving.settings import Settings

PICKLE = b"cos\nsystem\n(S'true'\ntR."
HOLDERS = ("no key", "wrong key", "expired key", *keys.ROLES)
PAGES = [("GET", path) for path in ("/docs.json", "/schema.json", "/static_content/index.css", "/nothing")]
PAGES += [("POST", "/nothing"), ("DELETE", "/docs.json"), ("PUT", "/predict/")]


def routes():
    """Return (method, pattern, role) of the whole table, and the pages that no route of ours takes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", "/nonexistent")
        table = Server(Settings(record=False)).routes.table
    return [(route.method, route.pattern, route.role) for route in table] + [(*page, "admin") for page in PAGES]


TABLE = routes()


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("access-home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(place))
        release = store.publish(make_draft(), make_files(place / "files"))
        aliases.promote(release.tag, "first")
    return place, release.version


@pytest.fixture(scope="module")
def held(tmp_path_factory):
    """The key file, and the secret of each holder in it."""
    file = tmp_path_factory.mktemp("access-keys") / "keys.json"
    secrets = {"no key": None, "wrong key": "vigil_" + "A" * 43}
    for role in keys.ROLES:
        secrets[role], key = keys.make(keys.Key(role, b"", (role,)))
        keys.add(file, key)
    gone = keys.expiry("2026-01-01")
    secrets["expired key"] = "vigil_" + "E" * 43
    keys.add(file, keys.Key("gone", keys.digest_of(secrets["expired key"].encode()), keys.ROLES, expires=gone))
    return file, secrets


@pytest.fixture(scope="module", params=["auto", "asgi"])
def guarded(request, place, held, start_service, eventually):
    """A service with keys, all of it at one address."""
    service = start_service(place[0], VIGIL_KEYS=str(held[0]), VIGIL_LANE=request.param)
    eventually("readiness", lambda: service.call("/readyz")[0] == 200)
    return service


@pytest.fixture(scope="module")
def split(place, held, start_service, eventually):
    """A service of two workers with keys and an admin address, and the root of that address."""
    port = free_ports(1)[0]
    service = start_service(
        place[0], VIGIL_KEYS=str(held[0]), VIGIL_ADMIN_ADDRESS=f"127.0.0.1:{port}", VIGIL_WORKERS="2"
    )
    eventually("readiness", lambda: service.call("/readyz")[0] == 200)
    return service, f"http://127.0.0.1:{port}"


def read_until(raw, end):
    """Return what comes until `end` was there; fails when the service hangs up before."""
    said = b""
    while end not in said:
        more = raw.recv(65536)
        assert more, said
        said += more
    return said


def filled(pattern, version):
    path = pattern.replace("{name}", "tiny").replace("{version}", version)
    return f"{path}?format=md" if path.endswith("/card") else path


def expected(role, holder):
    """Return the status that must come before anything else is looked at; None: the request is let in."""
    if role == "open" or holder in (role, "admin"):
        return None
    return 403 if holder in keys.ROLES else 401


def agrees(status, wanted):
    return status == wanted if wanted else status not in (0, 401, 403, 429, 500)


@pytest.mark.parametrize("holder", HOLDERS)
def test_every_route_lets_in_whom_the_table_names_and_nobody_else(guarded, held, place, holder):
    secret = held[1][holder]
    for header in ("Authorization", "X-Api-Key"):
        said = {
            (method, pattern): ask(guarded.url, method, filled(pattern, place[1]), secret, header)[0]
            for method, pattern, _ in TABLE
        }
        wanted = {(method, pattern): expected(role, holder) for method, pattern, role in TABLE}
        assert {one: status for one, status in said.items() if not agrees(status, wanted[one])} == {}


def test_the_right_key_gets_the_answer_and_not_only_past_the_door(guarded, held, place):
    for method, pattern, role in TABLE[: -len(PAGES)]:
        secret = held[1].get(role)
        assert ask(guarded.url, method, filled(pattern, place[1]), secret)[0] == 200, pattern
    for path in ("/docs.json", "/schema.json"):
        assert ask(guarded.url, "GET", path, held[1]["admin"])[0] == 200


def test_the_start_page_leads_to_metrics_for_those_who_get_them(guarded, held):
    for holder, leads in (("predict", False), ("admin", True)):
        status, page = guarded.call("/", headers={"X-Api-Key": held[1][holder]})
        assert (status, 'href="metrics"' in page) == (200, leads), holder
        for link in set(re.findall(r'href="([^"]*)"', page)) | {"readyz"}:
            assert ask(guarded.url, "GET", f"/{link}", held[1][holder])[0] == 200, (holder, link)


def test_a_refusal_says_how_to_come_back(guarded):
    status, headers = ask(guarded.url, "POST", "/v1/predict", None)
    assert (status, headers["WWW-Authenticate"]) == (401, 'Bearer realm="vigil"')
    status, said = guarded.call("/v1/predict", {"rows": ROWS})
    assert status == 401 and said == {"error": "access: a key is needed: send it as `Authorization: Bearer KEY`"}


def test_a_key_is_asked_for_before_the_body_is_read(guarded):
    """A refusal comes although most of the body never does, and the connection then goes on."""
    for kind in (b"application/json", b"application/x-python-pickle"):
        with socket.create_connection(("127.0.0.1", urllib.parse.urlparse(guarded.url).port), timeout=10) as raw:
            head = b"POST /v1/predict HTTP/1.1\r\nhost: x\r\ncontent-type: %s\r\ncontent-length: 100000\r\n\r\n" % kind
            raw.sendall(head + b"{")
            assert read_until(raw, b"}").startswith(b"HTTP/1.1 401 ")
            raw.sendall(b" " * 99_999 + b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n")
            assert read_until(raw, b"}").startswith(b"HTTP/1.1 200 ")


def test_requests_in_one_piece_are_each_judged_by_their_own_key(guarded, held):
    body = json.dumps({"rows": ROWS}).encode()
    piece = b""
    holders = ("predict", "no key", "label", "predict", "wrong key", "admin")
    for holder in holders:
        key = b"authorization: Bearer %s\r\n" % held[1][holder].encode() if held[1][holder] else b""
        head = b"POST /v1/predict HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%s\r\n"
        piece += head % (len(body), key) + body
    piece += b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    with socket.create_connection(("127.0.0.1", urllib.parse.urlparse(guarded.url).port), timeout=10) as raw:
        raw.sendall(piece)
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    said = [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:]]
    assert said == [expected("predict", holder) or 200 for holder in holders] + [200]


TRICKS = [
    b"GET /metrics HTTP/1.1\r\nhost: livez\r\n",
    b"GET /metrics HTTP/1.1\r\nhost: x/livez?\r\n",
    b"GET /metrics HTTP/1.1\r\nhost: x#/livez\r\n",
    b"GET http://x/metrics HTTP/1.1\r\nhost: livez\r\n",
    b"GET http://livez/metrics?/livez HTTP/1.1\r\nhost: x\r\n",
    b"GET http://x/livez/../metrics HTTP/1.1\r\nhost: x\r\n",
    b"GET //metrics HTTP/1.1\r\nhost: x\r\n",
    b"GET /metrics/ HTTP/1.1\r\nhost: x\r\n",
    b"GET /livez/..%2fmetrics HTTP/1.1\r\nhost: x\r\n",
    b"GET /livez/../metrics HTTP/1.1\r\nhost: x\r\n",
    b"GET /%6detrics HTTP/1.1\r\nhost: x\r\n",
    b"GET /metrics?path=/livez HTTP/1.1\r\nhost: x\r\n",
    b"GET /metrics;/livez HTTP/1.1\r\nhost: x\r\n",
    b"HEAD /metrics HTTP/1.1\r\nhost: x\r\n",
    b"GET /docs.json HTTP/1.1\r\nhost: livez\r\nx-original-url: /livez\r\nx-rewrite-url: /livez\r\n",
    b"GET /docs.json HTTP/1.1\r\nhost: x\r\nx-forwarded-prefix: /livez\r\nx-forwarded-host: livez\r\n",
    b"POST /livez HTTP/1.1\r\nhost: x\r\nx-http-method-override: GET\r\ncontent-length: 0\r\n",
    b"GET /v1/model HTTP/1.1\r\nhost: x\r\nauthorization: Bearer\r\nauthorization: \r\n",
]


@pytest.mark.parametrize("trick", TRICKS, ids=range(len(TRICKS)))
def test_no_host_header_or_way_to_write_a_path_opens_a_door(guarded, trick):
    with socket.create_connection(("127.0.0.1", urllib.parse.urlparse(guarded.url).port), timeout=10) as raw:
        raw.sendall(trick + b"connection: close\r\n\r\n")
        answer = b"".join(iter(lambda: raw.recv(65536), b""))
    assert int(answer[9:12]) in (400, 401, 404, 405), answer
    assert b"vigil_requests_total" not in answer and b'"paths"' not in answer


def test_a_key_that_is_removed_is_refused_on_an_open_connection_without_a_restart(guarded, held, eventually):
    secret, key = keys.make(keys.Key("guest", b"", ("predict",)))
    keys.add(held[0], key)
    connection = http.client.HTTPConnection(urllib.parse.urlparse(guarded.url).netloc, timeout=10)

    def status():
        headers = {"Content-Type": "application/json", "X-Api-Key": secret}
        connection.request("POST", "/v1/predict", json.dumps({"rows": ROWS}), headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status

    eventually("the new key", lambda: status() == 200)
    keys.remove(held[0], "guest")
    eventually("the end of the key", lambda: status() == 401)
    connection.close()


def test_a_burst_beyond_the_rate_gets_429_and_the_time_to_wait_and_others_are_not_touched(guarded, held, eventually):
    secret, key = keys.make(keys.Key("eager", b"", ("predict",), rate=0.01, burst=5))
    keys.add(held[0], key)
    eventually("the new key", lambda: status_of(guarded.url, "/v1/model", secret) == 200)
    said = [ask(guarded.url, "POST", "/v1/predict", secret) for _ in range(10)]
    assert [status for status, _ in said] == [200] * 4 + [429] * 6
    assert 90 <= int(said[-1][1]["Retry-After"]) <= 100
    assert ask(guarded.url, "POST", "/v1/predict", held[1]["predict"])[0] == 200


def test_refusals_are_counted_by_reason(guarded, held):
    def count(reason):
        headers = {"X-Api-Key": held[1]["metrics"]}
        text = guarded.scrape(headers)
        return sum(float(line.split()[-1]) for line in text.splitlines() if f'refused_total{{reason="{reason}"' in line)

    reasons = ("no_key", "unknown_key", "expired", "role")
    before = [count(reason) for reason in reasons]
    for holder in ("no key", "wrong key", "expired key", "label"):
        ask(guarded.url, "POST", "/v1/predict", held[1][holder])
    assert [count(reason) for reason in reasons] == [number + 1 for number in before]


def test_a_body_longer_than_a_head_may_be_is_taken_in_one_piece(guarded, held):
    labels = {"labels": [{"id": f"{'a' * 60}{i}", "label": "3"} for i in range(2000)]}
    for _ in range(3):
        said = guarded.call("/v1/labels", labels, {"X-Api-Key": held[1]["label"]})
        assert said == (200, {"accepted": 2000, "unknown": 2000})


@pytest.mark.parametrize("holder", HOLDERS)
def test_with_an_admin_address_each_route_is_at_one_of_the_two(split, held, place, holder):
    service, admin = split
    secret = held[1][holder]
    for method, pattern, role in TABLE:
        path = filled(pattern, place[1])
        outside, inside = (ask(root, method, path, secret)[0] for root in (service.url, admin))
        kept_in = role in ("metrics", "admin")
        assert outside == 404 if kept_in else agrees(outside, expected(role, holder)), (method, pattern)
        shut = role in ("predict", "label")
        assert inside == 404 if shut else agrees(inside, expected(role, holder)), (method, pattern)


def test_both_workers_listen_at_the_admin_address_and_it_outlives_a_rolling_restart(split, held, eventually):
    service, admin = split
    port = urllib.parse.urlparse(admin).port
    parent = psutil.Process(service.process.pid)

    def listening():
        return {one.pid for one in parent.children(recursive=True) if port in ports_of(one)}

    before = eventually("two workers", lambda: len(listening()) == 2 and listening())
    parent.send_signal(psutil.signal.SIGHUP)
    eventually("two new workers", lambda: len(listening()) == 2 and not listening() & before, 60)
    assert ask(admin, "GET", "/metrics", held[1]["metrics"])[0] == 200


def test_pickle_is_accepted_at_no_port(split, held):
    service, admin = split
    parent = psutil.Process(service.process.pid)
    ports = set().union(*map(ports_of, [parent, *parent.children(recursive=True)]))
    assert ports == {urllib.parse.urlparse(root).port for root in (service.url, admin)}
    inside = urllib.parse.urlparse(admin).port
    for port in ports:
        for method, pattern, _ in TABLE:
            if method == "POST":
                status = pickled(port, filled(pattern, "1"), held[1]["admin"])
                assert status == (404 if port == inside or "nothing" in pattern else 415), (port, pattern)


def ports_of(process):
    """Return the ports that a process listens on; none if it is gone."""
    try:
        return {c.laddr.port for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN}
    except psutil.NoSuchProcess:
        return set()


def pickled(port, path, secret):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    kinds = ("application/vnd.bentoml+pickle", "application/x-python-pickle", "application/python-pickle")
    said = set()
    for kind in kinds:
        connection.request("POST", path, PICKLE, {"Content-Type": kind, "X-Api-Key": secret})
        answer = connection.getresponse()
        answer.read()
        said.add(answer.status)
    connection.close()
    assert len(said) == 1, (path, said)
    return said.pop()
