"""A worker that may come up only when it is ready does not wait for ever where nothing will ever make it ready."""

import asyncio
import json
import os
import signal
from pathlib import Path

import pytest

from registry import aliases
from serving import lifecycle
from serving.server import Server
from serving.settings import Settings

ROOT = Path(__file__).resolve().parents[2]


def started(settings):
    """Start a server in this process and stop it again; return whether it was ready."""

    async def run():
        server = Server(settings)
        try:
            await server.start()
            return server.hosts.ready
        finally:
            await server.stop()

    return asyncio.run(asyncio.wait_for(run(), 60))


@pytest.fixture
def waits(monkeypatch):
    """Make this process a worker of a roll that waits to be ready, and is its own parent."""
    monkeypatch.setenv(lifecycle.SUPERVISOR, f"{os.getpid()}:0:roll:1")


def test_it_ends_when_its_time_is_over(waits, monkeypatch, home):
    monkeypatch.setattr(lifecycle, "WAIT_S", 0.1)
    with pytest.raises(TimeoutError):
        started(Settings(threads=1, record=False, rehearsal_mb=0))


def test_it_comes_up_once_it_is_ready(waits, publish):
    aliases.promote(publish().tag, "first")
    assert started(Settings(threads=1, record=False, rehearsal_mb=0))


@pytest.mark.proof
def test_workers_that_give_up_are_told_and_the_old_one_serves_on(home, publish, start_ready, tmp_path, eventually):
    (tmp_path / "brief.py").write_text(
        "from serving import lifecycle\nlifecycle.WAIT_S = 1.0\nfrom service import Vigil\n"
    )
    made = publish()
    aliases.promote(made.tag, "first")
    service = start_ready(home, target="brief:Vigil", PYTHONPATH=f"{tmp_path}:{ROOT}")
    (made.path / "model.onnx").write_bytes(b"damaged")
    service.process.send_signal(signal.SIGHUP)

    def told(event):
        return [json.loads(line) for line in service.log.read_text().splitlines() if f'"event": "{event}"' in line]

    (rolled,) = eventually("the end of the roll", lambda: told("rolled"), 120)
    assert rolled["old_left"] == 1 and [one["was_up"] for one in told("worker_ended")] == [False] * 3
    assert service.call("/readyz")[0] == 200
    print(f"\n{len(told('waits_to_be_ready'))} new workers gave up after a second each; the old one serves on")
