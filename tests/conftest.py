"""What every test may use: a store of its own, tiny real releases, and the real service."""

import functools
import http.client
import json
import os
import signal
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import hypothesis
import pytest
from tiny_release import DIGITS, IMAGE, make_draft, make_files

from demo.stack import free_ports
from registry import aliases, store

hypothesis.settings.register_profile("vigil", deadline=None)  # this tests what is true, not how fast
hypothesis.settings.load_profile("vigil")
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Give each test its own BENTOML_HOME and cache of images; return the first."""
    place = tmp_path / "bentoml"
    monkeypatch.setenv("BENTOML_HOME", str(place))
    for name in [name for name in os.environ if name.startswith("VIGIL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return place


def until(what, look, timeout_s=20.0):
    """Return what `look` gives once it is true; fails with its name after a deadline.

    `look` is asked at least twice however slow it is, and what it raises ends the test: who looks at a running program
    looks through `Service.metric`, `Service.version` and `Service.reason`, which a request without an answer does not
    mislead.
    """
    deadline, asked = time.monotonic() + timeout_s, 0
    while time.monotonic() < deadline or asked < 2:
        found = look()
        if found:
            return found
        asked += 1
        time.sleep(0.02)
    pytest.fail(f"{what}: not within {timeout_s} s")


@pytest.fixture(scope="session")
def eventually():
    """Return the function that polls until something is true."""
    return until


@pytest.fixture
def publish(tmp_path):
    """Return a function that publishes a tiny real release into the store of BENTOML_HOME."""

    def make(name="tiny", seed=0, right=1.0, spec=IMAGE, classes=DIGITS, truth=None, **changed):
        files = make_files(tmp_path / f"files-{name}-{seed}-{time.monotonic_ns()}", spec, classes, seed, right, truth)
        draft = make_draft(name, spec, classes, right, **changed)
        return store.publish(draft, files)

    return make


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return the BENTOML_HOME that the services of a module share."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def live(place, start_ready):
    """A service that follows the champion of one store, and the tags of two releases in it; the first is live."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(place))
        tags = [store.publish(make_draft(), make_files(place / f"files-{seed}", seed=seed)).tag for seed in (1, 2)]
        aliases.promote(tags[0], "first")
    return start_ready(place), tags


@pytest.fixture
def started(home, publish, start_ready):
    """Return a function that starts a service with a live release, on the test's own store."""
    aliases.promote(publish().tag, "first")
    return functools.partial(start_ready, home)


@pytest.fixture(scope="module")
def start_ready(start_service, eventually):
    """Return a function that starts the real service on a store and waits until it is ready."""

    def start(home, **variables):
        service = start_service(home, **variables)
        eventually("readiness", lambda: service.call("/readyz")[0] == 200)
        return service

    return start


@dataclass
class Service:
    """A running `bentoml serve`; `url` is its root. tls: what the client shows and trusts, of an https service."""

    command: list
    url: str
    log: Path
    environment: dict = field(default_factory=dict)
    tls: ssl.SSLContext | None = None
    process: subprocess.Popen = None

    def start(self):
        """Start it; again, if it has ended."""
        with open(self.log, "ab") as stream:
            self.process = subprocess.Popen(
                self.command, cwd=ROOT, env=self.environment, stdout=stream, stderr=stream, start_new_session=True
            )

    def call(self, path, body=None, headers=None, method=None):
        """Return (status, JSON or text) of one request; (0, None) where no whole answer came."""
        data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        kind = {"Content-Type": "application/json"} if data is not None else {}
        request = urllib.request.Request(self.url + path, data, kind | (headers or {}), method=method)
        try:
            with _opened(request, self.tls) as answer:
                return answer.status, _parsed(answer)
        except (OSError, http.client.HTTPException):
            return 0, None

    def headers(self, path):
        """Return the headers of the reply to a GET."""
        with urllib.request.urlopen(self.url + path, timeout=10, context=self.tls) as answer:
            return answer.headers

    def version(self):
        """Return the version that is live; "" where none is, or no answer came."""
        status, said = self.call("/v1/model")
        return said["version"] if status == 200 else ""

    def reason(self):
        """Return why it is not ready; "" where it is, or no answer came."""
        status, said = self.call("/readyz")
        return said["reason"] if status == 503 else ""

    def scrape(self, headers=None):
        """Return the page of metrics; one that does not come is asked for again, until a deadline."""

        def page():
            status, text = self.call("/metrics", headers=headers)
            return text if status == 200 else ""

        return until("a page of metrics", page)

    def metric(self, name, **labels):
        """Return the sum of the samples of a metric that have these labels: 0 only if a whole page says so."""
        total = 0.0
        for line in self.scrape().splitlines():
            if line.startswith((name + "{", name + " ")) and all(f'{k}="{v}"' in line for k, v in labels.items()):
                total += float(line.rsplit(" ", 1)[1])
        return total

    def stop(self):
        """Send SIGTERM, wait, and kill what is left of the group; returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            return self.process.wait()


def _opened(request, context):
    try:
        return urllib.request.urlopen(request, timeout=10, context=context)
    except urllib.error.HTTPError as error:
        return error  # an answer like any other


def _parsed(answer):
    content = answer.read()
    return json.loads(content) if answer.headers.get_content_type() == "application/json" else content.decode()


@pytest.fixture(scope="module")
def start_service(tmp_path_factory, eventually):
    """Return a function that starts the real service on a store; all are stopped when the module ends."""
    running = []

    def start(home, target="service:Vigil", arguments=(), tls=None, **variables):
        port = free_ports(1)[0]
        usual = {"BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True", "VIGIL_DRAIN_S": "0"}
        environment = {name: value for name, value in (os.environ | usual | variables).items() if value is not None}
        log = tmp_path_factory.mktemp("service") / "log"
        command = [sys.executable, "-m", "bentoml", "serve", target, "--host", "127.0.0.1", "--port", str(port)]
        command += arguments
        service = Service(command, f"http{'s' if tls else ''}://127.0.0.1:{port}", log, environment, tls)
        service.start()
        running.append(service)
        eventually("the service answering /livez", lambda: service.call("/livez")[0] == 200, 60)
        return service

    yield start
    for service in running:
        service.stop()
