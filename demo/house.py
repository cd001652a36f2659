"""Service, monitor, Prometheus, Alertmanager and a receiver of alerts on one store, in the demo profile."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from demo import stack
from demo.stack import Notice, Receiver, Stack, wait_for
from demo.traffic import Rows
from registry.errors import StackError

MODEL = "digits"
MONITOR = {"interval-s": "1", "window-s": "120", "min-rows": "50"}
PROGRAMS = ("service", "monitor", "prometheus", "alertmanager")
MARK = ".vigil-run"  # in a folder that was made here, so that nobody else's is ever emptied


@dataclass(frozen=True)
class House:
    """All that runs, or will; `folder` holds its files."""

    folder: Path
    stack: Stack
    receiver: Receiver
    ports: dict[str, int]

    def close(self) -> None:
        """End every program and stop listening."""
        self.stack.stop()
        self.receiver.close()


def make(folder: Path, **environment: str) -> House:
    """Return a house in `folder`, which is emptied; nothing runs yet. environment: of its programs, besides the usual.

    This process, too, then uses the store in it: the user's is not touched. Raises StackError for a folder that is
    not to be emptied: see `demand_ours`.
    """
    _empty(folder)
    home = str(folder / "bentoml")
    os.environ["BENTOML_HOME"] = home
    usual = {"BENTOML_HOME": home, "VIGIL_MODELS": MODEL, "BENTOML_DO_NOT_TRACK": "True", "VIGIL_DRAIN_S": "0"}
    ports = dict(zip(PROGRAMS, stack.free_ports(len(PROGRAMS)), strict=True))
    return House(folder, Stack(folder, usual | environment), Receiver(), ports)


def demand_ours(folder: Path) -> None:
    """Raise StackError unless `folder` is new, empty, or was made here before."""
    if not folder.exists() or (folder / MARK).is_file() or (folder.is_dir() and not any(folder.iterdir())):
        return
    raise StackError(
        f"{folder}: not emptied, since this is no folder of an earlier run (it has no file {MARK}); accepted are a new "
        f"or empty folder; choose another --out, or, if an older version left it: rm -r {shlex.quote(str(folder))}"
    )


def _empty(folder: Path) -> None:
    demand_ours(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / MARK).touch()
        for path in folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != MARK:  # it stays to the end: a run that is cut off here can be emptied by the next
                path.unlink()
    except OSError as error:
        raise StackError(f"{folder}: cannot be emptied: {error}; choose another --out") from error


def train(house: House, example: str) -> dict[str, Any]:
    """Train examples/<example>.toml and publish it; return what `vigil train --json` said."""
    run_folder = str(house.folder / "runs" / example)
    said = vigil(house, "train", f"examples/{example}.toml", "--json", "--run-folder", run_folder)
    outcome: dict[str, Any] = json.loads(said.stdout.splitlines()[-1])
    return outcome


def start_service(house: House) -> None:
    """Start the service and wait until it is ready."""
    house.stack.start("service", stack.server_command(house.ports["service"]))
    house.stack.ready("service", house.ports["service"], "/readyz")


def start_monitor(house: House, *more: str) -> None:
    """Start the monitor and wait until it answers; more: options of `vigil watch`."""
    settings = [part for key, value in MONITOR.items() for part in (f"--{key}", value)]
    watch = [sys.executable, "-m", "vigil", "watch", "--port", str(house.ports["monitor"]), *settings, *more]
    house.stack.start("monitor", watch)
    house.stack.ready("monitor", house.ports["monitor"], "/metrics")


def start_alerting(house: House) -> Notice:
    """Start Alertmanager and Prometheus, with no memory, and return the Watchdog that proves that alerts arrive."""
    from grafana import build
    from grafana.config import Addresses
    from grafana.profile import DEMO

    at = {name: f"127.0.0.1:{port}" for name, port in house.ports.items()}
    webhook = f"http://127.0.0.1:{house.receiver.port}"
    addresses = Addresses((at["service"],), at["monitor"], at["prometheus"], at["alertmanager"], webhook)
    config, data = house.folder / "config", house.folder / "data"
    shutil.rmtree(data, ignore_errors=True)
    build.write(DEMO, config, addresses)
    rules, routes = config / "prometheus" / "prometheus.yml", config / "alertmanager" / "alertmanager.yml"
    started = time.time()
    manager = stack.alertmanager_command(routes, data / "alertmanager", house.ports["alertmanager"])
    house.stack.start("alertmanager", manager)
    house.stack.start("prometheus", stack.prometheus_command(rules, data / "prometheus", house.ports["prometheus"]))
    house.stack.ready("prometheus", house.ports["prometheus"], "/-/ready")
    house.stack.ready("alertmanager", house.ports["alertmanager"], "/-/ready")
    return wait_for("Watchdog at the webhook", lambda: house.receiver.find("Watchdog", "firing", started), 60)


def vigil(house: House, *words: str, expect: int = 0) -> "subprocess.CompletedProcess[str]":
    """Run a command line of `vigil` on the store of the house; raises StackError for another exit status."""
    command = [sys.executable, "-m", "vigil", *words]
    environment = os.environ | house.stack.environment
    done = subprocess.run(command, capture_output=True, text=True, cwd=stack.ROOT, env=environment, check=False)
    if done.returncode != expect:
        raise StackError(f"vigil {' '.join(words)}: status {done.returncode}, expected {expect}: {done.stderr[-1500:]}")
    return done


def live(house: House, tag: str, since: float, timeout_s: float = 10.0) -> float:
    """Wait until `tag` answers; return the seconds since `since` (Unix time)."""
    version = tag.split(":")[1]

    def answers() -> bool | None:
        status, body = stack.get(house.ports["service"], "/v1/model")
        return True if status == 200 and json.loads(body)["version"] == version else None

    wait_for(f"{tag} going live", answers, timeout_s)
    return time.time() - since


def rows() -> tuple[Rows, Rows]:
    """Return the validation rows of the known writers, shuffled, and all rows of the new ones in file order."""
    from training import config
    from training.rows import data, split

    settings = config.load(stack.ROOT / "examples" / "digits.toml")
    table = data.load(settings.data, stack.ROOT / "examples")
    held = split.checked(table, settings.split).validation
    known = np.random.default_rng(7).permutation(held)
    whole = data.load(config.Data(source="digits"), stack.ROOT)
    new = np.arange(settings.data.first_rows, len(whole.y))
    names = whole.classes
    return (
        Rows(table.x[known], [names[k] for k in table.y[known]]),
        Rows(whole.x[new], [names[k] for k in whole.y[new]]),
    )


def known_rows() -> Rows:
    """Return all rows of the known writers, in file order."""
    from training import config
    from training.rows import data

    settings = config.load(stack.ROOT / "examples" / "digits.toml")
    table = data.load(settings.data, stack.ROOT / "examples")
    return Rows(table.x, [table.classes[k] for k in table.y])
