"""Write the locks of the image: the exact version and the SHA-256 of every package in it, and no address.

`python -m deploy.image.lock` asks the package index for what pyproject.toml and constraints.txt say. What only
the GPU image has is not in constraints.txt: it keeps the version its lock has, until `--upgrade`.
"""

import argparse
import re
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
HERE = ROOT / "deploy" / "image"
PYTHON = "3.11"  # of the base image
LEFT_OUT = ("uv",)  # an installer, which BentoML runs when it builds and never when it serves
HEADER = "# What runs in the image; install with --no-deps --require-hashes. Written by `make lock`."


@dataclass(frozen=True)
class Lock:
    """One file: the extras of pyproject.toml it holds, and the platforms whose wheels it accepts."""

    file: str
    extras: tuple[str, ...]
    platforms: tuple[str, ...]


@dataclass
class Pin:
    version: str
    hashes: set[str] = field(default_factory=set)


LOCKS = (
    Lock("requirements.txt", ("cpu", "sign"), ("x86_64-manylinux_2_28", "aarch64-manylinux_2_28")),
    Lock("requirements.gpu.txt", ("gpu", "sign"), ("x86_64-manylinux_2_28",)),
)


def pins(lock: Path) -> dict[str, Pin]:
    """Return the pin of each package in a lock file; empty if there is no such file."""
    found: dict[str, Pin] = {}
    for line in lock.read_text().splitlines() if lock.exists() else ():
        if named := re.match(r"([a-z0-9-]+)==(\S+)", line):
            pin = found[named[1]] = Pin(named[2])
        elif hashed := re.search(r"--hash=sha256:([0-9a-f]{64})", line):
            pin.hashes.add(hashed[1])
    return found


def text(found: dict[str, Pin]) -> str:
    """Return the lock file that says `found`."""
    blocks = [[f"{name}=={pin.version}", *sorted(pin.hashes)] for name, pin in sorted(found.items())]
    lines = [" \\\n    --hash=sha256:".join(block) for block in blocks]
    return "\n".join([HEADER, *lines]) + "\n"


def resolve(lock: Lock, upgrade: bool) -> dict[str, Pin]:
    """Return what the package index has for `lock`, at the versions that are fixed already."""
    found: dict[str, Pin] = {}
    for platform in lock.platforms:
        for package in _compile(lock, platform, upgrade):
            pin = found.setdefault(package["name"], Pin(package["version"]))
            pin.hashes |= {wheel["hashes"]["sha256"] for wheel in package["wheels"]}
    return found


def _compile(lock: Lock, platform: str, upgrade: bool) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        kept = Path(folder) / "kept.txt"
        kept.write_text("" if upgrade else _kept(lock))
        out = Path(folder) / "pylock.toml"
        command = [sys.executable, "-m", "uv", "pip", "compile", "--quiet", str(ROOT / "pyproject.toml")]
        command += [word for extra in lock.extras for word in ("--extra", extra)]
        command += [word for file in (ROOT / "constraints.txt", kept) for word in ("--constraint", str(file))]
        command += [word for name in LEFT_OUT for word in ("--no-emit-package", name)]
        command += ["--python-version", PYTHON, "--python-platform", platform, "--only-binary", ":all:"]
        subprocess.run([*command, "--format", "pylock.toml", "--output-file", str(out)], check=True)
        return list(tomllib.loads(out.read_text())["packages"])


def _kept(lock: Lock) -> str:
    fixed = {line.split("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().split()}
    found = pins(HERE / lock.file)
    return "".join(f"{name}=={pin.version}\n" for name, pin in found.items() if name not in fixed)


def main() -> None:
    """Write every lock."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--upgrade", action="store_true", help="take the newest of what constraints.txt does not fix")
    upgrade: bool = parser.parse_args().upgrade
    for lock in LOCKS:
        (HERE / lock.file).write_text(text(resolve(lock, upgrade)))


if __name__ == "__main__":
    main()
