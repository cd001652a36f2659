"""Where faults are planted: the real stack, its usual traffic, and releases with a fault made from the champion."""

import http.client
import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

import numpy as np

from demo import house
from demo.house import House
from demo.traffic import Rows, Sender
from registry import aliases, store
from registry.aliases import Pin
from registry.errors import StackError
from registry.release import MODEL, Draft

RATE_S = 10.0
LABEL_DELAY_S = 3.0
PASSES = 4  # over the known rows: more than any fault lasts
Body = dict[str, object]


@dataclass
class Stage:
    """known: rows of the writers the champion knows. good: its tag. log: of the predictions, on a disk of its own.

    ends_s: when the time for the faults is up, on the monotonic clock.
    """

    house: House
    known: Rows
    good: str
    log: Path
    sender: Sender
    begun_s: float = 0.0
    ends_s: float = math.inf
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    _made: dict[str, str] = field(default_factory=dict)

    def now(self) -> None:
        """Say that the fault begins."""
        self.begun_s = time.time()

    def usual(self) -> None:
        """Send the rows of known writers, shuffled anew, from now on."""
        every = np.tile(np.arange(len(self.known.truth)), (PASSES, 1))
        chosen = np.random.default_rng(int(time.time())).permuted(every, axis=1).ravel()
        self.sender.only(Rows(self.known.x[chosen], [self.known.truth[k] for k in chosen]))

    def promote(self, tag: str, force: bool = False) -> None:
        """Type `vigil promote`, as somebody does who does not know better."""
        more = ("--force",) if force else ()
        house.vigil(self.house, "promote", tag, "--why", "drill", *more)

    def rollback(self) -> None:
        """Type `vigil rollback`, and wait until the good release answers."""
        since = time.time()
        house.vigil(self.house, "rollback", "--model", house.MODEL, "--why", "drill")
        took = house.live(self.house, self.good, since, 60)
        self.notes.append(f"the good release answers {took:.1f} s after vigil rollback was typed")

    def variant(self, name: str, change: Callable[[bytes], bytes]) -> str:
        """Publish the good release with another model, once; return its tag."""
        if name not in self._made:
            good = store.open_release(self.good)
            files = self.house.folder / "made" / name
            files.mkdir(parents=True)
            for file in good.manifest.files:
                (files / file).write_bytes(good.read(file))
            (files / MODEL).write_bytes(change(good.read(MODEL)))
            draft = Draft(**{f.name: getattr(good.manifest, f.name) for f in fields(Draft)})
            created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
            self._made[name] = store.publish(replace(draft, created=created), files).tag
        return self._made[name]

    def renew(self, name: str) -> None:
        """Promote the good release anew, as after retraining: what was counted of the one before is not its own."""
        tag = self.variant(name, lambda content: content)
        since = time.time()
        self.promote(tag)
        self.good = tag
        house.live(self.house, tag, since, 60)

    def worse(self) -> str:
        """Train a release that is worse, once; return its tag."""
        if "worse" not in self._made:
            self._made["worse"] = house.train(self.house, "digits_worse")["tag"]
        return self._made["worse"]

    def post(self, said: Body, path: str = "/v1/predict", timeout_s: float | None = None) -> int:
        """Return the status of one request, 0 without an answer; timeout_s: the most that the caller asks for."""
        headers = {"Content-Type": "application/json"}
        headers |= {"X-Request-Timeout": f"{timeout_s:g}"} if timeout_s else {}
        connection = http.client.HTTPConnection("127.0.0.1", self.house.ports["service"], timeout=10)
        try:
            connection.request("POST", path, json.dumps(said), headers)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return 0
        finally:
            connection.close()

    @contextmanager
    def meanwhile(self, act: Callable[[], object], every_s: float, threads: int = 1) -> Iterator[None]:
        """Do something again and again beside the usual traffic."""
        over = threading.Event()

        def go_on() -> None:
            while not over.is_set():
                act()
                over.wait(every_s)

        workers = [threading.Thread(target=go_on, daemon=True) for _ in range(threads)]
        for worker in workers:
            worker.start()
        try:
            yield
        finally:
            over.set()
            for worker in workers:
                worker.join(20)

    def ask(self, query: str) -> float:
        """Return the sum of what Prometheus says to a query now, 0 without a word."""
        from oncall import api

        return sum(sample.value for sample in api.instant(f"http://127.0.0.1:{self.house.ports['prometheus']}", query))

    def processes(self, word: str) -> Iterator[int]:
        """Yield the processes of this stack that have `word` in their command line."""
        ours = f"BENTOML_HOME={self.house.stack.environment['BENTOML_HOME']}\0".encode()
        for place in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):  # it ended meanwhile
                theirs = ours in (place / "environ").read_bytes()
                if theirs and word.encode() in (place / "cmdline").read_bytes() and int(place.name) != os.getpid():
                    yield int(place.name)

    def kill_service(self) -> None:
        """Kill the service and its workers: one that hangs does not see that its parent is gone, and keeps the port."""
        if "service" in self.house.stack.processes:
            workers = [*self.processes("service:Vigil")]
            self.house.stack.kill("service")
            kill(workers)

    def recover(self) -> None:
        """Bring back what a fault that went wrong has left: programs, and the good release."""
        self.kill_service()
        if aliases.read(house.MODEL).champion != store_pin(self.good):
            self.promote(self.good, force=True)
        house.start_service(self.house)
        if (monitor := self.house.stack.processes.get("monitor")) is None or monitor.poll() is not None:
            self.house.stack.processes.pop("monitor", None)
            start_monitor(self.house, self.log)
        self.sender.holds_labels = False

    def watch_anew(self) -> None:
        """Start Prometheus and Alertmanager again, without what they remember; return when alerts arrive."""
        for name in ("prometheus", "alertmanager"):
            if name in self.house.stack.processes:
                self.house.stack.end(name)
        house.start_alerting(self.house)

    def serve_anew(self) -> None:
        """Start the service again, without what it has counted."""
        self.house.stack.end("service")
        house.start_service(self.house)


def prepare(folder: Path, good: str | None = None, disk_mb: int = 0) -> Stage:
    """Return the running stack with its usual traffic, all but Prometheus and Alertmanager.

    good: a BENTOML_HOME whose champion is taken; None trains it. disk_mb: of a disk for the log alone, if not 0 and
    this process may mount one; `close` takes it away. Raises StackError for a folder that is not to be emptied.
    """
    disk = folder / "disk"
    house.demand_ours(folder)
    _unmount(disk)  # a drill that was killed has left it
    made = house.make(folder, VIGIL_LOG=str(disk / "log.sqlite"), VIGIL_RECORD_ROWS_PER_S="1e9")
    disk.mkdir()
    if disk_mb:
        _mount(disk, disk_mb)
    try:
        tag = _taken(made, Path(good)) if good else house.train(made, "digits")["tag"]
        house.vigil(made, "promote", tag, "--why", "the drill begins")
        house.start_service(made)
        start_monitor(made, disk / "log.sqlite")
        known = house.known_rows()
        stage = Stage(made, known, tag, disk / "log.sqlite", Sender(made.ports["service"], RATE_S, LABEL_DELAY_S))
        stage.usual()
    except BaseException:
        made.close()
        _unmount(disk)
        raise
    return stage


def close(stage: Stage) -> None:
    """End all that runs."""
    stage.sender.close()
    ours = [*stage.processes("")]
    stage.house.close()
    kill(ours)
    _unmount(stage.log.parent)


def _mount(place: Path, size_mb: int) -> None:
    if os.getuid() == 0:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size_mb}m", "tmpfs", str(place)]
        subprocess.run(command, capture_output=True, check=False)  # a container may not: then there is another way


def _unmount(place: Path) -> None:
    if os.path.ismount(place):
        done = subprocess.run(["umount", "-l", str(place)], capture_output=True, text=True, check=False)
        if done.returncode:
            cure = f"sudo umount {shlex.quote(str(place))}"
            raise StackError(f"{place}: {done.stderr.strip()}; a run of root left it: {cure}")


def start_monitor(made: House, log: Path) -> None:
    """Start the monitor on the log of the stage; what it remembers is on another disk."""
    house.start_monitor(made, "--log", str(log), "--state", str(made.folder / "state.sqlite"))


def kill(processes: Iterable[int]) -> None:
    """Send SIGKILL to those that there still are."""
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def store_pin(tag: str) -> Pin:
    """Return the pin of a release in the store."""
    release = store.open_release(tag)
    return Pin(release.version, release.digest)


def _taken(made: House, home: Path) -> str:
    name, version = house.MODEL, json.loads((home / "vigil" / "aliases" / f"{house.MODEL}.json").read_text())["line"][0]
    place = store.models() / name
    place.mkdir(parents=True, exist_ok=True)
    shutil.copytree(home / "models" / name / version["version"], place / version["version"])
    return f"{name}:{version['version']}"
