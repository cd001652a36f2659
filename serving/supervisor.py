"""The parent of the workers under `bentoml serve`: it replaces those that die, and rolls them on SIGHUP.

BentoML runs its workers under circus, which looks for dead ones every ten seconds, in a container replaces
none, restarts one that cannot start for ever, and on SIGHUP ends the old ones before the new ones serve.
`prepare` runs before circus starts and takes over once it does, through attributes that circus documents as
options. Where they are missing a warning says so, and the workers are left to circus.
"""

import asyncio
import logging
import operator
import os
import signal
import sys
from typing import Any

from tornado.ioloop import IOLoop
from zmq import ZMQError

from monitoring.metrics import REPLACE, ROLL, START
from serving.lifecycle import CLEAN_UP_S, READY, SUPERVISOR, WAIT_S
from serving.settings import Settings

log = logging.getLogger(__name__)

GIVE_UP = 3  # workers in a row that ended before they were up
RETRY_S = 30.0  # after that many, while others serve
START_S = WAIT_S  # for one worker to come up in a roll, ready where others are
BUSY_S = 0.05  # until circus is asked again when it was busy


def prepare(settings: Settings) -> None:
    """Arrange that the workers say when they are up, and take over when the event loop runs."""
    heard, said = os.pipe()
    os.set_inheritable(said, True)
    os.set_blocking(heard, False)
    os.environ[SUPERVISOR] = f"{os.getpid()}:{said}:{START}:0"
    IOLoop.current().add_callback(take_over, settings, heard)


def take_over(settings: Settings, heard: int) -> "Supervisor | None":
    """Return the supervisor of the running arbiter, at work; None, with a warning, if it is not as expected."""
    holder = getattr(signal.getsignal(signal.SIGTERM), "__self__", None)
    try:
        arbiter = holder.controller.arbiter  # type: ignore[union-attr]
        (watcher,) = arbiter.watchers
        supervisor = Supervisor(settings, arbiter, watcher)
    except (AttributeError, ValueError) as error:
        log.warning("workers_left_to_circus", extra={"error": str(error)})
        return None
    close_controls(arbiter)
    supervisor.start(heard)
    return supervisor


def close_controls(arbiter: Any) -> None:
    """Stop listening for commands: circus opens two ports on loopback, and runs what any program there sends it."""
    for name, bound, endpoint in (
        ("control", "ctrl.ctrl_socket", "endpoint"),
        ("events", "evpub_socket", "pubsub_endpoint"),
    ):
        try:
            operator.attrgetter(bound)(arbiter).unbind(getattr(arbiter, endpoint))
        except (AttributeError, ZMQError) as error:
            log.warning("circus_port_open", extra={"port": name, "error": str(error)})


class Supervisor:
    """Keeps as many workers up as the settings say."""

    def __init__(self, settings: Settings, arbiter: Any, watcher: Any) -> None:
        self._settings = settings
        self._arbiter = arbiter
        self._watcher = watcher
        self._workers: int = watcher.numprocesses
        self._up: set[int] = set()
        self._ready: set[int] = set()
        self._failed = 0
        self._lost = False
        self._stopping = False
        self._rolling: asyncio.Task[None] | None = None
        watcher.hooks["after_reap"] = self._ended
        watcher.hooks["before_spawn"] = self._starts
        watcher.respawn = True
        watcher.graceful_timeout = settings.drain_s + settings.grace_s + CLEAN_UP_S

    def start(self, heard: int) -> None:
        """Listen to the workers on the pipe `heard`, and to signals."""
        loop = asyncio.get_running_loop()
        loop.add_reader(heard, self._hear, heard)
        loop.add_signal_handler(signal.SIGCHLD, self._tend)
        loop.add_signal_handler(signal.SIGHUP, self._roll_once)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        log.info("supervising", extra={"workers": self._workers})

    def _hear(self, heard: int) -> None:
        for line in os.read(heard, 4096).splitlines():  # a line is far shorter than what a pipe writes in one piece
            worker, what = line.decode().split()
            if what == READY:
                self._ready.add(int(worker))
                continue
            self._up.add(int(worker))
            self._failed = 0
            log.info("worker_up", extra={"worker": int(worker)})

    def _tend(self) -> None:
        if not self._stopping:
            self._ask(self._arbiter.manage_watchers)

    def _ask(self, command: Any, *then: Any) -> None:
        # Circus refuses a command while it carries out another one; on SIGTERM it would forget about it.
        from circus.exc import ConflictError

        try:
            future = command()
        except ConflictError:
            asyncio.get_running_loop().call_later(BUSY_S, self._ask, command, *then)
            return
        for callback in then:
            future.add_done_callback(callback)

    def _starts(self, **_: object) -> bool:
        # before_spawn of circus, which goes on if it is true: the worker is told why it is started.
        reason = ROLL if self._rolling is not None else REPLACE if self._lost else START
        waits = int(reason == ROLL and bool(self._ready))
        pid, said = os.environ[SUPERVISOR].split(":")[:2]
        self._watcher.env = {
            **(self._watcher.env or os.environ), SUPERVISOR: f"{pid}:{said}:{reason}:{waits}"
        }  # fmt: skip
        return True

    def _ended(self, process_pid: int, exit_code: int, **_: object) -> None:
        # after_reap of circus; exit_code: as subprocess has it
        self._lost = True
        was_up = process_pid in self._up
        self._up.discard(process_pid)
        self._ready.discard(process_pid)
        expected = self._stopping or (was_up and self._rolling is not None)
        level = logging.INFO if expected else logging.ERROR
        log.log(level, "worker_ended", extra={"worker": process_pid, "status": exit_code, "was_up": was_up})
        if was_up or self._stopping:
            return
        self._failed += 1
        if self._failed >= GIVE_UP:
            self._give_up()

    def _give_up(self) -> None:
        serving = len(self._up & set(self._watcher.processes))
        if serving:
            log.error("workers_cannot_start", extra={"serving": serving, "again_in_s": RETRY_S})
            self._watcher.numprocesses = serving
            asyncio.get_running_loop().call_later(RETRY_S, self._try_again)
        else:
            log.critical("no_worker_can_start", extra={"tried": self._failed})
            self._stopping = True
            self._ask(self._arbiter.stop, lambda _: sys.exit(1))

    def _try_again(self) -> None:
        self._failed = 0
        self._watcher.numprocesses = self._workers
        self._tend()

    def _stop(self, number: signal.Signals) -> None:
        if self._stopping:  # asked twice: at once
            for pid in list(self._watcher.processes):
                os.kill(pid, signal.SIGKILL)
            return
        self._stopping = True
        drain_s = self._settings.drain_s
        if number == signal.SIGINT:  # someone at a terminal; no balancer has to be waited for
            self._watcher.stop_signal = signal.SIGHUP
            drain_s = 0.0
        # Held open here, the port would take connections that nobody answers once the workers have closed it.
        asyncio.get_running_loop().call_later(drain_s, self._arbiter.sockets.close_all)
        self._ask(self._arbiter.stop)

    def _roll_once(self) -> None:
        if not self._stopping and self._rolling is None:
            self._rolling = asyncio.get_running_loop().create_task(self._roll())
            self._rolling.add_done_callback(self._rolled)

    def _rolled(self, task: asyncio.Task[None]) -> None:
        self._rolling = None
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("roll_stopped", exc_info=error)
        self._watcher.numprocesses = self._workers

    async def _roll(self) -> None:
        """Replace each worker by a new one: the old one retires once the new one is up, and ready if any was."""
        old = {process.pid for process in self._watcher.get_active_processes()}
        log.info("rolling", extra={"workers": len(old)})
        while left := sorted((p for p in self._alive() if p.pid in old), key=lambda p: p.started):
            self._watcher.numprocesses = self._workers + 1
            self._tend()
            if not await self._one_more(old, self._workers + 1 - len(left)):
                break
            self._watcher.numprocesses = self._workers
            await self._watcher.kill_process(left[0], stop_signal=signal.SIGHUP)
            self._tend()
        log.log(logging.ERROR if left else logging.INFO, "rolled", extra={"old_left": len(left)})

    async def _one_more(self, old: set[int], wanted: int) -> bool:
        # Wait for `wanted` new workers to be up; False when they cannot be in time, or the service stops.
        deadline = asyncio.get_running_loop().time() + START_S
        while not self._stopping and self._failed < GIVE_UP and asyncio.get_running_loop().time() < deadline:
            if len([p for p in self._alive() if p.pid in self._up - old]) >= wanted:
                return True
            await asyncio.sleep(BUSY_S)
        late = [process.pid for process in self._alive() if process.pid not in old | self._up]
        if late and not self._stopping:
            log.error("new_worker_not_ready", extra={"workers": late, "within_s": START_S, "old": "serve on"})
        for pid in late:  # also where the service stops: it serves nobody, and hears no signal before it is up
            os.kill(pid, signal.SIGKILL)
        return False

    def _alive(self) -> list[Any]:
        alive: list[Any] = self._watcher.get_active_processes()
        return alive
