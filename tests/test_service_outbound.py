"""The service calls nobody: no telemetry, no download, no address that a request could make it visit."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from tiny_release import IMAGE, rows_of

from registry import aliases

HOOK = Path(__file__).resolve().parent / "outbound"
ROWS = rows_of(IMAGE, 3, seed=3).tolist()


@pytest.fixture
def watched(tmp_path):
    """Return the variables that make a Python process write down where it connects to, and the file."""
    file = tmp_path / "outbound"
    path = os.pathsep.join(filter(None, (str(HOOK), os.environ.get("PYTHONPATH"))))
    return {"PYTHONPATH": path, "OUTBOUND_FILE": str(file)}, file


def outside(file):
    return [line for line in file.read_text().splitlines() if line.startswith("outside")]


@pytest.mark.parametrize(
    ("code", "seen"),
    [
        ("s.connect(('192.0.2.1', 9))", "outside: socket.connect ('192.0.2.1', 9)"),
        ("socket.getaddrinfo('vigil.invalid', 80)", "outside: socket.getaddrinfo vigil.invalid"),
        ("s.connect(('127.0.0.1', 9))", None),
    ],
)
def test_the_watcher_sees_what_leaves_the_machine(watched, code, seen):
    variables, file = watched
    program = (
        f"import contextlib, socket\ns = socket.socket()\ns.settimeout(0.01)\nwith contextlib.suppress(OSError): {code}"
    )
    subprocess.run([sys.executable, "-c", program], env=os.environ | variables, check=True, timeout=60)
    assert outside(file) == [seen] * (seen is not None)


def test_a_service_that_is_started_used_swapped_and_stopped_connects_to_nobody(
    home, publish, start_service, eventually, watched
):
    variables, file = watched
    aliases.promote(publish(seed=1).tag, "first")
    service = start_service(home, BENTOML_DO_NOT_TRACK=None, **variables)
    eventually("readiness", lambda: service.call("/readyz")[0] == 200)
    for path in ("/", "/docs.json", "/schema.json", "/v1/model", "/livez", "/metrics"):
        assert service.call(path)[0] == 200, path
    assert service.call("/v1/predict", {"rows": ROWS, "ids": ["a", "b", "c"]})[0] == 200
    assert service.call("/v1/labels", {"labels": [{"id": "a", "label": "3"}]})[0] == 200
    for body in ({"rows": "http://192.0.2.1/rows.npy"}, {"rows": ["https://vigil.invalid/"]}, {"url": "ftp://x"}):
        assert service.call("/v1/predict", body, {"Referer": "http://192.0.2.1/"})[0] == 422
    second = publish(seed=2)
    aliases.promote(second.tag, "second", force=True)
    eventually("the second release", lambda: service.version() == second.version)
    family = [psutil.Process(service.process.pid), *psutil.Process(service.process.pid).children(recursive=True)]
    peers = {c.raddr.ip for one in family for c in one.net_connections("inet") if c.raddr}
    assert peers <= {"127.0.0.1"}
    service.stop()
    assert len({line.split()[1] for line in file.read_text().splitlines() if line.startswith("watched")}) >= 2
    assert outside(file) == []
