"""Images and containers of the proof: podman with everything taken away that a container can do without."""

import json
import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from deploy.image.proof.workshop import PAUSE, Workshop
from registry.errors import StackError

LOCKED = ("--cap-drop", "all", "--security-opt", "no-new-privileges", "--read-only", "--network", "host")
WAYS = {  # most locked first; a machine may not let us have it
    "podman, runc, memory limit": ("--runtime", "runc", "--memory", "1g", "--pids-limit", "200"),
    "podman, runc": ("--runtime", "runc",),
    "podman, runc, without a control group of its own": ("--runtime", "runc", "--cgroups", "no-conmon"),
    "podman, crun": ("--runtime", "crun",),
}  # fmt: skip
SLIM = (
    "usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale", "var/cache", "var/lib/apt/lists", "var/log",
)  # fmt: skip
POLL_S = 0.02


def import_base(shop: Workshop, root: Path, name: str) -> None:
    """Make an image of a root file system, without what Debian's slim images leave out."""
    words = ["tar", "-C", str(root), *(f"--exclude=./{folder}/*" for folder in SLIM), "-c", "."]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as packed:
        subprocess.run(
            ["podman", "import", "--quiet", "-", name],
            stdin=packed.stdout, env=shop.environment, check=True, stdout=subprocess.DEVNULL,
        )  # fmt: skip


def pause(shop: Workshop, base: str) -> None:
    """Make the image whose one process holds a Pod together, as containers.conf names it."""
    folder = shop.folder / "pause"
    folder.mkdir()
    # The first process of a container does not end by a signal that it does not handle.
    (folder / "Containerfile").write_text(f'FROM {base}\nCMD ["sleep", "infinity"]\nSTOPSIGNAL SIGKILL\n')
    shop.run("podman", "build", "--quiet", "--format", "docker", "--tag", PAUSE, str(folder))


def way(shop: Workshop, image: str) -> str:
    """Return the name of the most locked way in `WAYS` that works here; raises StackError if none does."""
    for name, words in WAYS.items():
        tried = [*podman(words, "run"), "--rm", *LOCKED, "--entrypoint", "/bin/true", image]
        if subprocess.run(tried, env=shop.environment, capture_output=True, timeout=60).returncode == 0:
            return name
    raise StackError(f"no container runs here; tried: {'; '.join(WAYS)}")


def podman(options: tuple[str, ...], verb: str) -> list[str]:
    """Return the beginning of a command to podman; options: one of `WAYS`."""
    return ["podman", *options[:2], verb, *(options[2:] if verb == "run" else ())]


@dataclass
class Container:
    """A running container; `url` is the root of its service."""

    shop: Workshop
    way: str
    name: str
    port: int

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, image: str, *arguments: str, options: tuple[str, ...] = ()) -> None:
        """Start it; arguments: to `bentoml serve`, options: to `podman run`."""
        words = [*podman(WAYS[self.way], "run"), "--detach", "--name", self.name, *LOCKED, *options]
        words += ["--env", f"BENTOML_PORT={self.port}", "--env", "VIGIL_DRAIN_S=3", image, *arguments]
        self.shop.run(*words)

    def do(self, *words: str) -> str:
        """Return what a program run inside says."""
        return self.shop.run(*podman(WAYS[self.way], "exec"), self.name, *words)

    def terminate(self) -> None:
        """Send SIGTERM and return at once."""
        self.shop.run("podman", "kill", "--signal", "TERM", self.name)

    def ended(self) -> int:
        """Wait for the end and return the exit status."""
        return int(self.shop.run("podman", "wait", self.name, timeout_s=60.0))

    def log(self) -> str:
        done = subprocess.run(["podman", "logs", self.name], env=self.shop.environment, capture_output=True, text=True)
        return done.stdout + done.stderr

    def remove(self) -> None:
        """End and remove it, whatever state it is in."""
        words = [*podman(WAYS[self.way], "rm"), "--force", "--volumes", "--time", "5", self.name]
        subprocess.run(words, env=self.shop.environment, capture_output=True, timeout=60)


def confinement(container: Container) -> dict[str, str]:
    """Return what the kernel says of the first process: user, capabilities, no_new_privs, seccomp."""
    said = dict(re.findall(r"^(\w+):\s*(.*)$", container.do("cat", "/proc/1/status"), flags=re.M))
    return {name: said[name].split()[0] for name in ("Uid", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp")}


def labels(shop: Workshop, image: str) -> dict[str, str]:
    """Return the labels of an image."""
    return dict(json.loads(shop.run("podman", "inspect", "--format", "{{json .Config.Labels}}", image)))


def eventually(what: str, look: Callable[[], bool], timeout_s: float = 60.0) -> float:
    """Return the seconds until `look()` is true; raises StackError after `timeout_s`."""
    begun_s = time.monotonic()
    while time.monotonic() < begun_s + timeout_s:
        if look():
            return round(time.monotonic() - begun_s, 3)
        time.sleep(POLL_S)
    raise StackError(f"{what}: not within {timeout_s:g} s")
