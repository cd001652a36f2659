"""Faults of programs and disks: something is killed, stands still, or has no room."""

import os
import random
import resource
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from demo import house
from drill.fault import Fault
from drill.stage import Stage, start_monitor

BATCH_ROWS = 250
DISK_MB = 48
LIMIT_BYTES = 200_000  # below what the log has by then, where no disk of its own can be had
FLOOD_S = 0.15


@contextmanager
def _server_killed(stage: Stage) -> Iterator[None]:
    stage.now()
    stage.kill_service()
    yield
    house.start_service(stage.house)


@contextmanager
def _server_frozen(stage: Stage) -> Iterator[None]:
    stage.now()
    for process in [*stage.processes("bentoml"), *stage.processes("service:Vigil")]:
        os.kill(process, signal.SIGSTOP)
    yield
    stage.kill_service()
    house.start_service(stage.house)


@contextmanager
def _monitor_killed(stage: Stage) -> Iterator[None]:
    stage.now()
    stage.house.stack.kill("monitor")
    yield
    start_monitor(stage.house, stage.log)


@contextmanager
def _disk_full(stage: Stage) -> Iterator[None]:
    def load() -> None:  # other rows each time: the same ones again and again are drift
        chosen = random.sample(range(len(stage.known.x)), BATCH_ROWS)
        stage.post({"rows": stage.known.x[chosen].tolist()})

    with _no_room(stage), stage.meanwhile(load, FLOOD_S, threads=2):
        yield


@contextmanager
def _no_room(stage: Stage) -> Iterator[None]:
    if os.path.ismount(stage.log.parent):
        filler = stage.log.parent / "filler"
        stage.now()
        with filler.open("wb") as file:
            subprocess.run(["head", "-c", f"{2 * DISK_MB}M", "/dev/zero"], stdout=file, stderr=subprocess.DEVNULL)
        stage.notes.append(f"a tmpfs of {DISK_MB} MB was filled")
        yield
        filler.unlink()
        return
    stage.now()
    _limit(stage, LIMIT_BYTES)
    stage.notes.append(f"RLIMIT_FSIZE of {LIMIT_BYTES:,} bytes, since only root can mount a small disk")
    yield
    _limit(stage, resource.RLIM_INFINITY)


def _limit(stage: Stage, most_bytes: int) -> None:
    for process in stage.processes("bentoml"):
        resource.prlimit(process, resource.RLIMIT_FSIZE, (most_bytes, resource.RLIM_INFINITY))


FAULTS = (
    Fault(
        "server-killed", "kill -9 of the service and its workers", "it is started again",
        _server_killed, "VigilAbsent", companions=("VigilInstanceDown",),
    ),
    Fault(
        "server-frozen", "SIGSTOP of the service and its workers: they take connections and answer nothing",
        "kill -9, and a start", _server_frozen, "VigilAbsent", companions=("VigilInstanceDown",),
    ),
    Fault(
        "monitor-killed", "kill -9 of the monitor", "it is started again",
        _monitor_killed, "VigilMonitorAbsent", "warning",
    ),
    Fault(
        "disk-full", "the disk of the prediction log is full, under load", "room is made",
        _disk_full, "VigilRecordsLost", "warning",
        # Labels cannot be written either: those requests are answered 503, and count as errors. The monitor opens the
        # log on the same disk, which takes room.
        (
            "VigilErrorBurn", "VigilLatencyBurn", "VigilLabelsLate", "VigilMonitorBehind", "VigilMonitorStale",
            "VigilQueueWaitHigh",
        ),
        watch_s=90,
    ),
)  # fmt: skip
