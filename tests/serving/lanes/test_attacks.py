"""Attacks of real size on a service with its limits as they come, and how a good client fares meanwhile."""

import contextlib
import gzip
import json
import re
import selectors
import socket
import threading
import time
from pathlib import Path

import pytest
from load import Load, address, request
from tiny_release import IMAGE, rows_of

from registry import aliases

BODY = json.dumps({"rows": rows_of(IMAGE, 1).tolist()}).encode()
START = b"POST /v1/predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
LIVE = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
MB = 1_000_000
pytestmark = pytest.mark.proof


@pytest.fixture
def service(home, publish, start_service, eventually):
    aliases.promote(publish().tag, "first")
    started = start_service(home)
    eventually("readiness", lambda: started.call("/readyz")[0] == 200)
    return started


def size_mb(service):
    pid = service.process.pid
    worker = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0]
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{worker}/status").read_text())[1]) / 1e3


class Watched:
    """From `with` to its end: the most memory of the service, and how long /livez took."""

    def __init__(self, service):
        self._service, self._stop = service, threading.Event()
        self._load = Load(address(service), LIVE, 1, every_s=0.01)
        self._thread = threading.Thread(target=self._look)

    def __enter__(self):
        self.before_mb = self.most_mb = size_mb(self._service)
        self._thread.start()
        self.live = self._load.__enter__()
        return self

    def __exit__(self, *_):
        time.sleep(0.3)
        self._load.__exit__()
        self._stop.set()
        self._thread.join()

    def _look(self):
        while not self._stop.is_set():
            self.most_mb = max(self.most_mb, size_mb(self._service))
            self._stop.wait(0.005)

    def __str__(self):
        grown = self.most_mb - self.before_mb
        return f"memory +{grown:.1f} MB, livez p99 {self.live.quantile(0.99) * 1e3:.1f} ms, failed {self.live.failed}"


def send(service, pieces):
    """Send `pieces`, read all along, and return the status of the first answer and the seconds until it came."""
    with socket.create_connection(address(service), timeout=30) as client:
        started, found = time.perf_counter(), []

        def read():
            with contextlib.suppress(OSError):
                found.append((int(client.recv(65536).split()[1]), time.perf_counter() - started))
                while client.recv(65536):
                    pass

        reader = threading.Thread(target=read)
        reader.start()
        with contextlib.suppress(OSError):
            for piece in pieces:
                client.sendall(piece)
            client.shutdown(socket.SHUT_WR)
        reader.join()
        return found[0]


@pytest.mark.parametrize(
    ("name", "status", "head", "size_mb"),
    [
        ("body, declared", 413, START + b"Content-Length: 100000000\r\n\r\n", 100),
        ("body, chunked", 413, START + b"Transfer-Encoding: chunked\r\n\r\n5f5e100\r\n", 100),
        ("header", 431, START + b"X: ", 64),
    ],
    ids=["declared", "chunked", "header"],
)
def test_a_huge_request_is_refused_at_once_in_little_memory(service, name, status, head, size_mb):
    send(service, [head, b"a" * 9 * MB])  # what is allocated once
    with Watched(service) as watched:
        found, seconds = send(service, [head, *[b"a" * MB] * size_mb])
    print(f"{size_mb} MB {name}: {found} after {seconds * 1e3:.1f} ms; {watched}")
    assert found == status and watched.live.failed is None and watched.most_mb - watched.before_mb < 16


def test_requests_without_end_on_one_connection_take_little_memory_and_are_answered(service):
    answered, stop = 0, threading.Event()
    with Watched(service) as watched, socket.create_connection(address(service)) as client:

        def flood():
            with contextlib.suppress(OSError):
                while not stop.is_set():
                    client.sendall(LIVE * 7000)

        sender = threading.Thread(target=flood)
        sender.start()
        until = time.monotonic() + 5
        while time.monotonic() < until:
            answered += client.recv(1 << 20).count(b"alive")
        stop.set()
        client.shutdown(socket.SHUT_RDWR)
        sender.join()
    print(f"requests in one stream for 5 s: {answered} answered; {watched}")
    assert answered > 1000 and watched.live.failed is None and watched.most_mb - watched.before_mb < 100


def test_a_compression_bomb_and_strange_bodies_are_refused_unread(service):
    bomb = gzip.compress(bytes(1000 * MB), 9)
    fields = b"&".join(b"k%d=v" % i for i in range(100_000))
    parts = b"".join(b'--x\r\nContent-Disposition: form-data; name="f%d"\r\n\r\nv\r\n' % i for i in range(5_000))
    kinds = {
        "1 GB of zeros as gzip": (b"application/json\r\nContent-Encoding: gzip", bomb),
        "100,000 urlencoded fields": (b"application/x-www-form-urlencoded", fields),
        "5,000 parts": (b"multipart/form-data; boundary=x", parts + b"--x--\r\n"),
        "parts without a boundary": (b"multipart/form-data", parts),
    }
    for name, (kind, body) in kinds.items():
        head = START.replace(b"application/json", kind) + b"Content-Length: %d\r\n\r\n" % len(body)
        with Watched(service) as watched:
            status, seconds = send(service, [head + body])
        print(f"{name}: {status} after {seconds * 1e3:.1f} ms; {watched}")
        assert status == 415


@pytest.mark.parametrize("how", ["slow heads", "slow bodies", "silent"])
def test_eight_hundred_slow_connections_are_closed_and_a_good_client_does_not_notice(service, how):
    def load(seconds):
        with Load(address(service), request(BODY), 2, every_s=0.005) as tally:
            time.sleep(seconds)
        assert tally.failed is None
        return tally.quantile(0.99) * 1e3

    idle_ms = load(5)
    start = {"slow heads": START, "slow bodies": START + b"Content-Length: 5000\r\n\r\n", "silent": b""}[how]
    piece = {"slow heads": b"X: a\r\n", "slow bodies": b"a", "silent": b""}[how]
    clients, closed_s = [socket.create_connection(address(service)) for _ in range(800)], []
    opened = time.monotonic()
    for client in clients:
        client.setblocking(False)
        client.sendall(start)
    attack = threading.Thread(target=lambda: _drip(clients, piece, opened, closed_s))
    attack.start()
    attacked_ms = load(8)
    attack.join()
    print(
        f"800 connections, {how}: {len(closed_s)} closed, the last after {max(closed_s):.1f} s; good client p99 "
        f"{idle_ms:.1f} ms alone, {attacked_ms:.1f} ms beside them, {attacked_ms / idle_ms:.2f} x"
    )
    assert len(closed_s) == 800 and max(closed_s) < 20


def _drip(clients, piece, opened, closed_s):
    due = opened
    with selectors.DefaultSelector() as selector:
        for client in clients:
            selector.register(client, selectors.EVENT_READ)
        while selector.get_map() and time.monotonic() < opened + 40:
            if piece and time.monotonic() >= due:
                due += 0.5
                for key in list(selector.get_map().values()):
                    with contextlib.suppress(OSError):
                        key.fileobj.sendall(piece)
            for key, _ in selector.select(0.1):
                with contextlib.suppress(ConnectionError):
                    if key.fileobj.recv(4096):
                        continue
                closed_s.append(time.monotonic() - opened)
                selector.unregister(key.fileobj)
                key.fileobj.close()


def test_ten_thousand_addresses_and_names_leave_the_scrape_as_it_was(service, eventually):
    def scrape():
        started = time.perf_counter()
        text = service.scrape()
        lines = {line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")}
        return lines, len(text), time.perf_counter() - started

    def burst(count, start):
        content = b"".join(
            b"GET /%d/x?%d HTTP/1.1\r\nHost: h%d\r\n\r\n" % (i, i, i)
            + b"POST /v1/models/m%d/predict HTTP/1.1\r\nHost: x\r\nX-Request-Id: r%d\r\nContent-Length: 2\r\n\r\n{}"
            % (i, i)
            for i in range(start, start + count)
        )
        with socket.create_connection(address(service), timeout=60) as client:
            client.sendall(content + LIVE.replace(b"Host", b"Connection: close\r\nHost"))
            with client.makefile("rb") as stream:
                return stream.read().count(b"HTTP/1.1 ")

    burst(5, 0)
    service.call("/v1/predict", BODY)
    eventually("the row on the log", lambda: service.metric("vigil_records_total") == 1)
    before = scrape()
    answers = sum(burst(100, start) for start in range(10_000, 15_000, 100))
    after = scrape()
    print(
        f"{answers} requests to 10,000 addresses: {len(after[0])} series, {len(after[0] - before[0])} new; scrape "
        f"{after[1] / 1e3:.0f} kB in {after[2] * 1e3:.0f} ms"
    )
    assert after[0] == before[0] and after[1] < 200_000
