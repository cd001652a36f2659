"""A place to build and run containers in that touches nothing else of the machine, and leaves nothing mounted."""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from registry.errors import StackError

PROGRAMS = ("debootstrap", "podman", "buildah", "runc")
PAUSE = "localhost/vigil-pause:bookworm"  # instead of one that podman would make of a program of its own
CONTAINERS = f'[containers]\ndefault_ulimits = []\n[engine]\ninfra_image = "{PAUSE}"\n'
ROOT = Path(__file__).resolve().parents[3]
STORAGE = '[storage]\ndriver = "{driver}"\ngraphroot = "{folder}/graph"\nrunroot = "{folder}/run"\n'
MOUNTS = Path("/proc/self/mounts")


@dataclass
class Workshop:
    """A folder with an image store of its own. seconds: how long each step took."""

    folder: Path
    environment: dict[str, str]
    seconds: dict[str, float] = field(default_factory=dict)

    def run(self, *words: str, timeout_s: float = 600.0, said: dict[str, str] | None = None) -> str:
        """Return what a program writes to stdout; said: more of its environment. Raises StackError if it fails."""
        environment = self.environment | (said or {})
        done = subprocess.run(words, env=environment, stdout=subprocess.PIPE, text=True, timeout=timeout_s)
        if done.returncode:
            raise StackError(f"{' '.join(words[:4])} ...: exit status {done.returncode}; what it said is above")
        return done.stdout

    def vigil(self, *words: str, said: dict[str, str] | None = None) -> str:
        """Return what `vigil` says, run on the store of the workshop."""
        return self.run(sys.executable, str(ROOT / "vigil.py"), *words, said=said)

    @contextmanager
    def timed(self, step: str) -> Iterator[None]:
        """Note how long the step takes, and say so."""
        begun_s = time.monotonic()
        print(f"{step} ...", file=sys.stderr, flush=True)
        yield
        self.seconds[step] = round(time.monotonic() - begun_s, 1)
        print(f"  {self.seconds[step]} s", file=sys.stderr, flush=True)


def demand() -> None:
    """Raise StackError unless this is a machine on which the proof can run."""
    missing = [name for name in PROGRAMS if not shutil.which(name)]
    if os.geteuid() != 0:
        raise StackError("the proof builds a root file system and runs containers in it: run it as root, on Debian")
    if missing:
        raise StackError(f"missing: {', '.join(missing)}; on Debian: apt-get install {' '.join(missing)}")
    if not shutil.which("kubectl"):
        raise StackError("missing: kubectl, which renders deploy/kubernetes: https://kubernetes.io/docs/tasks/tools")


@contextmanager
def opened() -> Iterator[Workshop]:
    """Give a workshop; what it mounted is unmounted and its folder removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="vigil-proof-"))
    try:
        yield _furnished(folder)
    finally:
        for place in reversed(mounted(folder)):
            subprocess.run(["umount", "--lazy", place], check=False)
        shutil.rmtree(folder, ignore_errors=bool(mounted(folder)))


def mounted(folder: Path) -> list[str]:
    """Return what is mounted in `folder`, outermost first."""
    places = (line.split()[1] for line in MOUNTS.read_text().splitlines())
    return sorted(place for place in places if Path(place).is_relative_to(folder))


def _furnished(folder: Path) -> Workshop:
    kernel = Path("/proc/filesystems").read_text().split()
    driver = "overlay" if "overlay" in kernel else "vfs"
    (folder / "storage.conf").write_text(STORAGE.format(driver=driver, folder=folder))
    (folder / "containers.conf").write_text(CONTAINERS)
    more = {
        "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
        "CONTAINERS_CONF": str(folder / "containers.conf"),
        "BUILDAH_ISOLATION": "chroot",  # needs no namespaces, which a machine may not give
        "BENTOML_HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
    }
    (folder / "tmp").mkdir()
    left_out = [name for name in os.environ if name.startswith("VIGIL_")]
    return Workshop(folder, {k: v for k, v in os.environ.items() if k not in left_out} | more)


def root_file_system(shop: Workshop, packages: Sequence[str], mirror: str) -> Path:
    """Return the folder of a minimal Debian with `packages`, without what Debian's slim images leave out."""
    root = shop.folder / "rootfs"
    words = ["debootstrap", "--variant=minbase", f"--include={','.join(packages)}", "bookworm", str(root)]
    with (shop.folder / "debootstrap.log").open("w") as log:
        done = subprocess.run([*words, *([mirror] if mirror else [])], stdout=log, stderr=log, env=shop.environment)
    if done.returncode:
        raise StackError(f"debootstrap failed: {(shop.folder / 'debootstrap.log').read_text()[-500:]}")
    return root
