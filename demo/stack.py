"""The real programs as child processes on free loopback ports, and a receiver for their alerts."""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, TypeVar

from registry.errors import StackError

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = {"prometheus": "prometheus", "prometheus-alertmanager": "prometheus-alertmanager"}
STOP_S = 15.0

T = TypeVar("T")


@dataclass(frozen=True)
class Notice:
    """One alert as Alertmanager delivered it. status: firing or resolved."""

    time_s: float
    status: str
    receiver: str
    name: str
    labels: dict[str, str]
    description: str


def missing_programs() -> list[str]:
    """Return the Debian packages of the programs that are not on this machine."""
    return [package for program, package in PACKAGES.items() if shutil.which(program) is None]


def wait_for(what: str, look: Callable[[], T | None], timeout_s: float) -> T:
    """Return what `look` gives once it gives something; raises StackError after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = look()
        if found is not None and found is not False:
            return found
        time.sleep(0.05)
    raise StackError(f"{what}: did not happen within {timeout_s:g} s")


def get(port: int, path: str, timeout_s: float = 5.0) -> tuple[int, bytes]:
    """Return status and body of a GET on loopback; status 0 if nothing answers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()


class Receiver:
    """Listens where Alertmanager sends, and remembers what came."""

    def __init__(self) -> None:
        self.notices: list[Notice] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:  # noqa: N802, the name http.server calls
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.take(json.loads(body))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Stay silent: the timeline tells what came."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def take(self, said: dict[str, Any]) -> None:
        """Remember the alerts of one delivery."""
        now = time.time()
        for alert in said["alerts"]:
            labels, text = alert["labels"], alert["annotations"].get("description", "")
            notice = Notice(now, alert["status"], said["receiver"], labels["alertname"], labels, text)
            self.notices.append(notice)

    def find(self, name: str, status: str, since_s: float) -> Notice | None:
        """Return the first notice of that alert after `since_s` (Unix time)."""
        found = (n for n in self.notices if n.name == name and n.status == status and n.time_s >= since_s)
        return next(found, None)

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()


@dataclass
class Stack:
    """Started programs by name; `folder` takes their files and logs."""

    folder: Path
    environment: dict[str, str]
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, command: Sequence[str]) -> None:
        """Start a program; its output goes to `folder`/logs/name.log."""
        logs = self.folder / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        with open(logs / f"{name}.log", "wb") as log:
            # A session of its own: bentoml has worker processes, and all of them must end with it.
            self.processes[name] = subprocess.Popen(
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=os.environ | self.environment,
                cwd=ROOT,
                start_new_session=True,
            )

    def kill(self, name: str) -> None:
        """End a program and its workers at once, by SIGKILL, as a crash or the kernel does."""
        process = self.processes.pop(name)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def end(self, name: str) -> None:
        """End one program as `stop` ends all."""
        _end([self.processes.pop(name)])

    def check(self) -> None:
        """Raise StackError naming a program that ended by itself, with the end of its log."""
        for name, process in self.processes.items():
            if process.poll() is not None:
                log = (self.folder / "logs" / f"{name}.log").read_text(errors="replace")[-2000:]
                raise StackError(f"{name}: ended with status {process.returncode}; its log ends:\n{log}")

    def ready(self, name: str, port: int, path: str, timeout_s: float = 60.0) -> float:
        """Wait until a program answers 200; returns the seconds it took."""
        started = time.monotonic()

        def look() -> bool:
            self.check()
            return get(port, path)[0] == 200

        wait_for(f"{name} answering {path}", lambda: look() or None, timeout_s)
        return time.monotonic() - started

    def stop(self) -> None:
        """End every program that was started here: SIGTERM, then SIGKILL to what is left of its group."""
        _end([*reversed(self.processes.values())])
        self.processes.clear()


def _end(processes: "list[subprocess.Popen[bytes]]") -> None:
    for process in processes:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + STOP_S
    for process in processes:
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.1, deadline - time.monotonic()))
        with suppress(ProcessLookupError):  # a worker that hangs may outlive its parent
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_ports(count: int) -> list[int]:
    """Return loopback ports that nothing listens on."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [int(each.getsockname()[1]) for each in sockets]
    finally:
        for each in sockets:
            each.close()


def server_command(port: int, target: str = "service:Vigil") -> list[str]:
    """Return how the service is started, as a user would: `bentoml serve` in the repository root."""
    return [sys.executable, "-m", "bentoml", "serve", target, "--host", "127.0.0.1", "--port", str(port)]


def prometheus_command(config: Path, data: Path, port: int) -> list[str]:
    """Return how Prometheus is started on a folder of generated files."""
    here = f"127.0.0.1:{port}"
    return [
        "prometheus", f"--config.file={config}", f"--storage.tsdb.path={data}", f"--web.listen-address={here}",
        f"--web.external-url=http://{here}", "--rules.alert.resend-delay=1s", "--log.level=warn",
    ]  # fmt: skip


def alertmanager_command(config: Path, data: Path, port: int) -> list[str]:
    """Return how Alertmanager is started on its generated file."""
    here = f"127.0.0.1:{port}"
    return [
        "prometheus-alertmanager", f"--config.file={config}", f"--storage.path={data}",
        f"--web.listen-address={here}", f"--web.external-url=http://{here}", "--cluster.listen-address=",
        "--log.level=warn",
    ]  # fmt: skip
