"""Runs on the event loop that do not end, and workers whose loop does not go on."""

import asyncio
import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from ending import gone
from load import address
from odd_release import endless_for_bright, release_with
from tiny_release import IMAGE, rows_of

from registry import aliases
from serving.batcher import Batcher, Job
from serving.engine import Stopped
from serving.watchdog import Inline, Watchdog

ROOT = Path(__file__).resolve().parents[2]
ROWS = rows_of(IMAGE, 2).tolist()
BRIGHT = [[[200.0] * 8] * 8]
FROZEN = "import signal, time\nfrom service import *\nsignal.signal(signal.SIGUSR1, lambda *_: time.sleep(600))\n"


class Held:
    """Stands where an engine stands: expected to be quick; a run of a row below 0 lasts until it is stopped."""

    def __init__(self, wait=lambda: None):
        self.loops = []
        self._wait = wait

    def expected_s(self, rows):
        return 0.0

    def join(self, parts):
        return np.concatenate(parts)

    def run(self, rows, names=(), options=None):
        self.loops.append(threading.current_thread() is threading.main_thread())
        until = time.monotonic() + 20
        while (rows < 0).any() and time.monotonic() < until:
            self._wait()
            if options.terminate:
                raise Stopped("held")
        return [rows * 2]


class Refusing(Held):
    """Does not begin what is stopped already, as ONNX Runtime."""

    def run(self, rows, names=(), options=None):
        if options.terminate:
            raise Stopped("stopped before it began")
        return [rows * 2]


def answers(engine, *rounds, before=lambda inline: None):
    """Return the jobs, of which those of one round are sent together and the next when they are settled."""

    async def ask():
        inline, made = Inline(), []
        watchdog = Watchdog(inline, 0, 0, 0)
        watchdog.start()
        batcher = Batcher(engine, ("main",), 64, lambda rows: None, inline)
        for jobs in rounds:
            before(inline)
            left = [asyncio.get_running_loop().create_future() for _ in jobs]
            for job, future in zip(jobs, left, strict=True):
                job.done = lambda _, future=future: future.set_result(None)
                batcher.submit(job)
            await asyncio.wait_for(asyncio.gather(*left), 20)
            made += jobs
        batcher.close()
        watchdog.stop()
        return made

    return asyncio.run(ask())


def job(value, timeout_s=20.0):
    made = Job(np.array([[value]], np.float32), None)
    made.deadline = time.perf_counter() + timeout_s
    return made


def test_a_run_that_does_not_end_is_stopped_and_made_again_off_the_loop_until_its_deadline():
    engine = Held()
    first, bad, after = answers(engine, [job(1)], [job(-1, 1.0)], [job(2)])
    assert (bad.error.status, bad.error.reason) == (503, "deadline")
    assert [one.answers["main"][0, 0] for one in (first, after)] == [2, 4]
    assert engine.loops == [True, True, False, False]


def test_those_who_share_a_run_that_is_stopped_still_have_their_own_deadlines():
    good, bad = answers(Held(), [job(1, 0.4), job(-1, 0.8)])
    assert [one.error.reason for one in (good, bad)] == ["deadline", "deadline"]


@pytest.mark.skipif(not hasattr(time, "pthread_getcpuclockid"), reason="needs the clock of a thread: Linux")
def test_a_run_that_only_waits_for_the_machine_is_left_alone_until_its_deadline():
    engine = Held(lambda: time.sleep(0.01))
    (waited,) = answers(engine, [job(-1, 0.7)])
    assert waited.error.reason == "deadline" and waited.infer_s == 0
    assert engine.loops[0]


def test_a_stop_that_meets_the_next_run_costs_nobody_an_answer():
    stopped = []

    def stop(inline):
        inline.stop()
        stopped.append(inline.options)

    got = answers(Refusing(), [job(1)], [job(2)], before=stop)
    assert [one.answers["main"][0, 0] for one in got] == [2, 4] and len(stopped) == 2


def test_one_that_is_run_at_once_and_stopped_is_to_be_submitted_and_then_runs_off_the_loop():
    engine, one, next_one, observed = Held(), job(-1, 1.0), job(2), []

    async def ask():
        inline, settled = Inline(), asyncio.get_running_loop().create_future()
        watchdog = Watchdog(inline, 0, 0, 0)
        watchdog.start()
        batcher = Batcher(engine, ("main",), 64, observed.append, inline)
        one.done = settled.set_result
        assert not batcher.run_now(one) and one.error is None and batcher.idle
        batcher.submit(one)
        await asyncio.wait_for(settled, 20)
        while not batcher.idle:
            await asyncio.sleep(0.001)
        assert not batcher.run_now(next_one)  # what was measured at load does not hold for this model
        batcher.close()
        watchdog.stop()

    asyncio.run(ask())
    assert one.error.reason == "deadline" and engine.loops == [True, False] and observed == [1]


def test_short_runs_on_a_device_share_no_options():
    on_device = Inline(stops=False)
    on_device.stop()
    assert on_device.options is None  # those of a run there name its graph; changing it writes a warning each time
    on_device.renew()
    assert on_device.options is None and not on_device.stopped


def test_a_row_that_makes_a_quick_model_run_for_ever_costs_only_its_own_request(home, tmp_path, start_ready):
    aliases.promote(release_with(tmp_path, endless_for_bright).tag, "first")
    service = start_ready(home, VIGIL_THREADS="1")
    ask = {"X-Request-Timeout": "3"}
    assert service.call("/v1/predict", {"rows": ROWS}, ask)[0] == 200
    with ThreadPoolExecutor(1) as pool:
        endless = pool.submit(service.call, "/v1/predict", {"rows": BRIGHT}, ask)
        alive = [service.call("/livez")[0]]
        while not endless.done():
            alive.append(service.call("/livez")[0])
        assert set(alive) == {200} and len(alive) > 3  # while the run went on off the loop
    status, said = endless.result()
    assert status == 503 and "deadline" in said["error"]
    assert service.call("/v1/predict", {"rows": ROWS}, ask)[0] == 200
    assert service.log.read_text().count("runs_leave_the_loop") == 1
    assert service.metric("vigil_requests_rejected_total", reason="deadline") == 1


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux")
def test_a_worker_whose_loop_is_blocked_does_not_outlive_its_killed_parent(
    home, tmp_path, publish, start_ready, eventually
):
    aliases.promote(publish().tag, "first")
    (tmp_path / "frozen.py").write_text(FROZEN)
    service = start_ready(home, target="frozen:Vigil", PYTHONPATH=f"{tmp_path}{os.pathsep}{ROOT}")
    parent = service.process.pid
    (worker,) = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    os.kill(int(worker), signal.SIGUSR1)
    with socket.create_connection(address(service), timeout=0.5) as silent:
        silent.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n")
        with pytest.raises(TimeoutError):
            silent.recv(1)
    service.process.kill()
    service.process.wait()
    eventually("the worker being gone", lambda: gone(worker))
    with socket.create_server(address(service)):
        assert "frozen_without_parent" in service.log.read_text()
