"""Where the real service can be reached: without keys, at an address for administration, and when that is taken."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from asked import ROWS, ask, status_of
from tiny_release import make_draft, make_files

from demo.stack import free_ports
from registry import aliases, store
from registry.errors import ConfigError
from serving.lanes import admin
from serving.settings import Address

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("addresses-home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(place))
        release = store.publish(make_draft(), make_files(place / "files"))
        aliases.promote(release.tag, "first")
    return place


def test_without_a_key_file_all_is_open_and_an_admin_address_still_splits(place, start_service, eventually):
    port = free_ports(1)[0]
    service = start_service(place, VIGIL_ADMIN_ADDRESS=f"127.0.0.1:{port}")
    eventually("readiness", lambda: service.call("/readyz")[0] == 200)
    assert service.call("/v1/predict", {"rows": ROWS})[0] == 200
    assert service.call("/metrics")[0] == service.call("/docs.json")[0] == 404
    assert ask(f"http://127.0.0.1:{port}", "GET", "/metrics", None)[0] == 200
    assert ask(f"http://127.0.0.1:{port}", "GET", "/docs.json", None)[0] == 200
    assert ask(f"http://127.0.0.1:{port}", "POST", "/v1/predict", None)[0] == 404
    assert "no_keys" not in service.log.read_text()
    assert service.stop() == 0
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


def test_a_service_without_keys_that_others_can_reach_says_so_once(place, start_service, eventually):
    service = start_service(place, arguments=["--host", "0.0.0.0"])
    eventually("readiness", lambda: service.call("/readyz")[0] == 200)
    lines = [line for line in service.log.read_text().splitlines() if "no_keys" in line]
    assert len(lines) == 1 and json.loads(lines[0])["host"] == "0.0.0.0"


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"VIGIL_KEYS": "/nonexistent/keys.json"}, "vigil: /nonexistent/keys.json: no such key file"),
        ({"VIGIL_ADMIN_ADDRESS": "9400"}, "VIGIL_ADMIN_ADDRESS must be HOST:PORT, as 127.0.0.1:9400, got '9400'"),
        ({"VIGIL_ADMIN_ADDRESS": "192.0.2.1:9400"}, "VIGIL_ADMIN_ADDRESS: 192.0.2.1:9400 cannot be listened on"),
    ],
)
def test_a_start_that_cannot_keep_its_promise_ends_with_one_line(place, serve_once, variables, message):
    status, said = serve_once(place, **variables)
    assert status != 0 and message in said and "Traceback" not in said


def test_an_admin_address_that_is_taken_ends_the_start(place, serve_once):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        status, said = serve_once(place, VIGIL_ADMIN_ADDRESS=address)
    assert status != 0 and f"vigil: VIGIL_ADMIN_ADDRESS: {address} cannot be listened on" in said


def test_an_admin_address_of_another_service_ends_the_start_and_is_free_once_that_one_is_gone(
    place, start_service, serve_once, eventually
):
    address = f"127.0.0.1:{free_ports(1)[0]}"
    first = start_service(place, VIGIL_ADMIN_ADDRESS=address, VIGIL_WORKERS="2")
    eventually("the admin address", lambda: status_of(f"http://{address}", "/readyz") == 200)
    for near in (address, address.replace("127.0.0.1", "0.0.0.0")):
        status, said = serve_once(place, VIGIL_ADMIN_ADDRESS=near)
        assert status != 0 and f"vigil: VIGIL_ADMIN_ADDRESS: {near} cannot be listened on" in said
        assert "Traceback" not in said
    assert first.stop() == 0
    second = start_service(place, VIGIL_ADMIN_ADDRESS=address)
    eventually("the admin address", lambda: status_of(f"http://{address}", "/readyz") == 200)
    assert second.stop() == 0


def test_a_claim_holds_before_anything_listens_and_lets_the_workers_in():
    address = Address("127.0.0.1", free_ports(1)[0])
    with admin.claim(address):
        with pytest.raises(ConfigError, match="cannot be listened on: Address already in use"):
            admin.claim(address)
        with admin.bind(address) as one, admin.bind(address) as other:
            for worker in (one, other):
                worker.listen()
            with socket.create_connection(address):
                pass
            with pytest.raises(ConfigError, match="stop the service or program that has it"):
                admin.claim(address)
    admin.claim(address).close()


@pytest.fixture
def serve_once():
    """Return a function that runs `bentoml serve` to its end and gives (status, what it printed)."""

    def run(home, **variables):
        command = [sys.executable, "-m", "bentoml", "serve", "service:Vigil", "--port", str(free_ports(1)[0])]
        environment = os.environ | {"BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True"} | variables
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
        return done.returncode, done.stdout + done.stderr

    return run
