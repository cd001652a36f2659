"""The servers that are compared: how each is started on a free port with one model, and which wires it speaks.

Peers live in virtual environments of their own (benchmarks/peers/install.sh); one that is not there is left out.
"""

import contextlib
import http.client
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil

from benchmarks import load, models, wires
from benchmarks.models import Model
from benchmarks.wires import Wire
from demo import stack
from demo.stack import ROOT
from registry.errors import StackError

PEERS = ROOT / "benchmarks" / "peers"
READY_S = 90.0
TOLERANCE = 1e-3
ROWS_CHECKED = 3


@dataclass(frozen=True)
class Place:
    """Where a server finds what it needs. folder: its own, empty at first. peers: the virtual environments."""

    folder: Path
    peers: Path
    model: Model
    port: int

    @property
    def file(self) -> Path:
        """Return the ONNX file, written if it is not there."""
        path = self.folder / "model.onnx"
        if not path.exists():
            path.write_bytes(self.model.content)
        return path

    def python(self, peer: str) -> str:
        """Return the interpreter of a peer; that of the project where the peer's package is the project's too."""
        own = self.peers / peer / "bin" / "python"
        return sys.executable if peer == "bentoml" and not own.exists() else str(own)


@dataclass(frozen=True)
class Launch:
    command: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    folder: Path = ROOT


@dataclass(frozen=True)
class Server:
    """peer: the virtual environment it lives in, empty for ours. ready: a path that answers 200.

    lane: of ours, the one that must be in use: a service that fell back to another is not what is named.
    """

    launch: Callable[[Place], Launch]
    ready: str
    wires: Mapping[str, Wire]
    peer: str = ""
    lane: str = ""

    def missing(self, peers: Path) -> bool:
        """Return whether the peer is not installed."""
        return self.peer not in ("", "bentoml") and not (peers / self.peer / "bin" / "python").exists()


def _peer(threads: int) -> dict[str, str]:
    return {"THREADS": str(threads)}


def _fastapi(threads: int) -> Callable[[Place], Launch]:
    def launch(place: Place) -> Launch:
        command = [place.python("fastapi"), "-m", "uvicorn", "app:app", "--no-access-log", "--log-level", "warning"]
        environment = _peer(threads) | {"MODEL": str(place.file)}
        return Launch([*command, "--port", str(place.port)], environment, PEERS / "fastapi")

    return launch


def _bare(pause_us: int) -> Callable[[Place], Launch]:
    def launch(place: Place) -> Launch:
        environment = _peer(1) | {"MODEL": str(place.file), "PAUSE_US": str(pause_us)}
        return Launch([sys.executable, "server.py", str(place.port)], environment, PEERS / "bare")

    return launch


def _bentoml(place: Place) -> Launch:
    command = [place.python("bentoml"), "-m", "bentoml", "serve", "service:Plain", "--host", "127.0.0.1"]
    environment = _peer(1) | {"MODEL": str(place.file), "BENTOML_DO_NOT_TRACK": "True"}
    home = {"BENTOML_HOME": str(place.folder / "bentoml")}
    return Launch([*command, "--port", str(place.port)], environment | home, PEERS / "bentoml")


def _litserve(place: Place) -> Launch:
    command = [place.python("litserve"), "server.py", str(place.port)]
    return Launch(command, _peer(1) | {"MODEL": str(place.file)}, PEERS / "litserve")


def _mlserver(place: Place) -> Launch:
    ports = stack.free_ports(2)
    shutil.copy(PEERS / "mlserver" / "runtime.py", place.folder)
    (place.folder / "model-settings.json").write_text(
        f'{{"name": "{place.model.name}", "implementation": "runtime.Onnx"}}'
    )
    (place.folder / "settings.json").write_text(
        f'{{"host": "127.0.0.1", "http_port": {place.port}, "grpc_port": {ports[0]}, "metrics_port": {ports[1]}, '
        '"parallel_workers": 0, "debug": false}'
    )
    program = place.peers / "mlserver" / "bin" / "mlserver"
    return Launch([str(program), "start", str(place.folder)], _peer(1) | {"MODEL": str(place.file)}, place.folder)


CONFIG = """name: "{name}"
backend: "{backend}"
max_batch_size: 256
input [{{ name: "input" data_type: TYPE_FP32 dims: {shape} }}]
output [{{ name: "probabilities" data_type: TYPE_FP32 dims: [10] }}]
instance_group [{{ count: 1 kind: KIND_CPU }}]
dynamic_batching {{ }}
"""


def _triton(backend: str, threads: int) -> Callable[[Place], Launch]:
    def launch(place: Place) -> Launch:
        packages = next((place.peers / "triton" / "lib").glob("python3*")) / "site-packages"
        backends, served = place.folder / "backends", place.folder / "models" / place.model.name
        (served / "1").mkdir(parents=True)
        shutil.copy(place.file, served / "1" / "model.onnx")
        shutil.copy(PEERS / "triton" / "python" / "model.py", served / "1" / "model.py")
        shape = str(list(place.model.shape))
        (served / "config.pbtxt").write_text(CONFIG.format(name=place.model.name, backend=backend, shape=shape))
        (_python_backend if backend == "python" else _native_backend)(packages, backends / backend)
        command = [str(packages / "pytriton" / "tritonserver" / "bin" / "tritonserver")]
        command += [f"--model-repository={place.folder / 'models'}", f"--backend-directory={backends}"]
        command += ["--http-address=127.0.0.1", f"--http-port={place.port}", "--allow-grpc=false", "--log-info=false"]
        command += [f"--metrics-port={stack.free_ports(1)[0]}", "--allow-gpu-metrics=false"]
        interpreter = Path(os.path.realpath(place.python("triton"))).parents[1] / "lib"
        libraries = f"{packages / 'nvidia_pytriton.libs'}:{interpreter}"
        environment = {"MODEL": str(place.file), "PACKAGES": str(packages), "LD_LIBRARY_PATH": libraries}
        return Launch(command, _peer(threads) | environment, place.folder)

    return launch


def _python_backend(packages: Path, to: Path) -> None:
    version = packages.parent.name.removeprefix("python")
    carried = packages / "pytriton" / "tritonserver"
    shutil.copytree(carried / "backends" / "python", to)
    shutil.copy(carried / "python_backend_stubs" / version / "triton_python_backend_stub", to)


def _native_backend(packages: Path, to: Path) -> None:
    runtime = packages / "onnxruntime" / "capi"
    library = next(runtime.glob("libonnxruntime.so.*"))
    options = ["-shared", "-fPIC", str(library), "-Wl,-rpath,$ORIGIN"]
    made = load.compiled(PEERS / "triton" / "onnxruntime_backend.c", "libtriton_onnxruntime.so", *options)
    to.mkdir(parents=True)
    shutil.copy(made, to)
    (to / "libonnxruntime.so.1").symlink_to(library)


def _vigil(**variables: str) -> Callable[[Place], Launch]:
    def launch(place: Place) -> Launch:
        models.publish_and_promote(place.model, place.folder / "bentoml")
        return Launch(stack.server_command(place.port), vigil_environment(place, **variables))

    return launch


def vigil_environment(place: Place, **variables: str) -> dict[str, str]:
    """Return the variables of our service on the store of `place`; a setting that does not exist is left out."""
    from serving.settings import Settings

    asked = {"drain_s": "0"} | variables
    known = {name: value for name, value in asked.items() if name in Settings.__dataclass_fields__}
    named = {f"VIGIL_{name.upper()}": value for name, value in known.items()}
    return {"BENTOML_HOME": str(place.folder / "bentoml"), "BENTOML_DO_NOT_TRACK": "True"} | named


OFF = {"record": "false", "signal_rows_per_s": "0"}
_FASTAPI = {"raw": wires.RAW, "json": wires.JSON}
_V2 = {"v2": wires.V2, "v2json": wires.V2_JSON}
_OURS = {"raw": wires.OURS_RAW, "v2": wires.V2, "json": wires.OURS_JSON}

SERVERS: dict[str, Server] = {
    "fastapi": Server(_fastapi(1), "/ready", _FASTAPI, "fastapi"),
    "fastapi-2": Server(_fastapi(0), "/ready", _FASTAPI, "fastapi"),
    "triton": Server(_triton("onnxruntime", 1), "/v2/health/ready", _V2, "triton"),
    "triton-2": Server(_triton("onnxruntime", 2), "/v2/health/ready", _V2, "triton"),
    "triton-python": Server(_triton("python", 1), "/v2/health/ready", {"v2": wires.V2}, "triton"),
    "bentoml": Server(_bentoml, "/readyz", {"json": wires.PREDICT}, "bentoml"),
    "litserve": Server(_litserve, "/health", {"json": wires.PREDICT}, "litserve"),
    "mlserver": Server(_mlserver, "/v2/health/ready", {"v2json": wires.V2_JSON}, "mlserver"),
    "bare": Server(_bare(0), "/ready", {"raw": wires.RAW}),
    "bare-40": Server(_bare(40), "/ready", {"raw": wires.RAW}),
    "vigil-fast": Server(_vigil(lane="fast"), "/readyz", _OURS, lane="fast"),
    "vigil-asgi": Server(_vigil(lane="asgi"), "/readyz", _OURS, lane="asgi"),
    "vigil-off": Server(_vigil(lane="fast", **OFF), "/readyz", _OURS, lane="fast"),
}


@dataclass
class Running:
    """A started server."""

    name: str
    process: subprocess.Popen[bytes]
    place: Place
    log: Path

    def ready(self, path: str, timeout_s: float = READY_S) -> None:
        """Wait until `path` answers 200; raises StackError with the end of the log."""
        deadline = time.monotonic() + timeout_s
        while stack.get(self.place.port, path)[0] != 200:
            if self.process.poll() is not None or time.monotonic() > deadline:
                end = self.log.read_text(errors="replace")[-2000:]
                raise StackError(f"{self.name}: does not answer {path}; its log ends:\n{end}")
            time.sleep(0.02)

    def pause(self) -> None:
        """Stop its processes where they are: what idles does not disturb what is measured."""
        _signal(self._family(), signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it run again."""
        _signal(self._family(), signal.SIGCONT)

    def stop(self) -> None:
        """End it with all its processes."""
        family = self._family()
        _signal(family, signal.SIGCONT)
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(15)
        _signal(family, signal.SIGKILL)
        self.process.wait()

    def _family(self) -> list[psutil.Process]:
        # Not the process group: BentoML gives each worker a session of its own.
        try:
            first = psutil.Process(self.process.pid)
            return [first, *first.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []


def _signal(family: list[psutil.Process], what: signal.Signals) -> None:
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.send_signal(what)


def start(name: str, place: Place, server: Server | None = None) -> Running:
    """Start a server and return it; `Running.ready` waits for it."""
    place.folder.mkdir(parents=True, exist_ok=True)
    launch = (server or SERVERS[name]).launch(place)
    log = place.folder / "log"
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("VIGIL_", "OMP_", "PYTHONPATH"))}
    with open(log, "wb") as stream:
        process = subprocess.Popen(
            launch.command,
            cwd=launch.folder,
            env=inherited | launch.environment,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return Running(name, process, place, log)


def other_lane(running: Running, server: Server) -> str:
    """Return what is wrong with the lane of our service, empty if it is the one that was asked for."""
    if not server.lane:
        return ""
    text = stack.get(running.place.port, "/metrics")[1].decode()
    return "" if f'vigil_lane_info{{lane="{server.lane}"}} 1.0' in text else f"does not use the lane {server.lane}"


def check(running: Running, wire: Wire) -> str:
    """Return why the server does not answer what ONNX Runtime answers in this process; empty if it does."""
    rows = running.place.model.rows(ROWS_CHECKED)
    headers, body = wire.encode(rows)
    connection = http.client.HTTPConnection("127.0.0.1", running.place.port, timeout=20)
    try:
        connection.request("POST", wire.path.format(model=running.place.model.name), body, headers)
        answer = connection.getresponse()
        content = answer.read()
    except (OSError, http.client.HTTPException) as error:
        return f"no answer: {error!r}"
    finally:
        connection.close()
    if answer.status != 200:
        return f"status {answer.status}: {content[:200].decode(errors='replace')}"
    try:
        got = wire.decode({name.lower(): value for name, value in answer.getheaders()}, content)
    except (ValueError, KeyError, TypeError) as error:
        return f"an answer that cannot be read: {error!r}"
    worst = float(np.abs(got - running.place.model.answers(rows)).max())
    return "" if worst <= TOLERANCE else f"differs from ONNX Runtime by {worst:.3g}"
