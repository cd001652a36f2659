"""Build the image of a Bento with whichever container engine is here: `make image`, or `python -m deploy.image.build`.

`bentoml containerize` does the work. This adds what it does not know: which engine answers, the format that keeps
a HEALTHCHECK, and the secrets of the build, which reach two RUN steps and no layer.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from registry.errors import ConfigError, StackError, UserError

ENGINES = {"docker": "version", "podman": "info", "buildah": "info"}  # each fails if it could not build
SECRETS = ("ca", "pip_conf", "apt_conf")
KEEPS_HEALTHCHECK = ("podman", "buildah")  # if asked for Docker's format: OCI's has no place for it
ANSWER_S = 30.0
# As `python -m bentoml`, but an engine that fails is told by its own words, not by where BentoML noticed it.
BENTOML = """
import logging, runpy, warnings
warnings.filterwarnings("ignore", "The parameter --quiet is used more than once", UserWarning)
logging.getLogger("bentoml._internal.container").addFilter(lambda one: setattr(one, "exc_info", None) or True)
runpy.run_module("bentoml", run_name="__main__", alter_sys=True)
"""
VIGIL = Path(__file__).resolve().parents[2] / "vigil.py"


@dataclass(frozen=True)
class Order:
    """What to build. base: empty for the one in the Containerfile. secrets: NAME to file, of `SECRETS`."""

    bento: str
    image: str
    base: str
    secrets: dict[str, Path]


def engine(asked: str = "") -> str:
    """Return the engine that is asked for, else the first that answers; raises StackError if there is none."""
    tried = []
    for name in (asked,) if asked else ENGINES:
        if not shutil.which(name):
            tried.append(f"{name}: not installed")
        elif failure := _failure(name):
            tried.append(f"{name}: {failure}")
        else:
            return name
    raise StackError(
        f"no container engine answers ({'; '.join(tried)}); accepted are {', '.join(ENGINES)}; "
        "start one, or on Debian: apt-get install buildah"
    )


def _failure(name: str) -> str:
    """Return the last line of what an engine says when it cannot work; empty if it can."""
    try:
        done = subprocess.run([name, ENGINES[name]], capture_output=True, text=True, timeout=ANSWER_S)
    except subprocess.TimeoutExpired:
        return f"no answer within {ANSWER_S:g} s"
    said = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
    return said[-1] if done.returncode else ""


def command(order: Order, by: str) -> list[str]:
    """Return the command that builds `order` with the engine `by`."""
    options = [f"build-arg=BASE_IMAGE={order.base}"] if order.base else []
    options += [f"secret=id={name},src={path}" for name, path in order.secrets.items()]
    options += ["format=docker"] if by in KEEPS_HEALTHCHECK else []
    words = [sys.executable, "-c", BENTOML, "containerize", order.bento, "--backend", by, "--image-tag", order.image]
    return words + [word for option in options for word in ("--opt", option)]


def build(order: Order, by: str) -> None:
    """Build it; raises StackError if that fails, with the log on stderr."""
    # BentoML reads its template from a copy in the temporary folder, and refuses files outside the current one.
    done = subprocess.run(command(order, by), stdout=sys.stderr, cwd=tempfile.gettempdir())
    if done.returncode:
        raise StackError(f"{by} could not build {order.image} from {order.bento}; what it said is above")


def make_bento(*options: str) -> str:
    """Return the tag of a new Bento; options: to `vigil build`. Raises StackError if it was not built."""
    done = subprocess.run([sys.executable, VIGIL, "build", "--json", *options], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise StackError("there is no Bento to build an image of; what `vigil build` said is above")
    return str(json.loads(done.stdout)["bento"])


@contextmanager
def dropped_if_unused(bento: str) -> Iterator[str]:
    """Give the tag of a Bento; if the block ends with an error or Ctrl-C, that Bento is removed from the store."""
    try:
        yield bento
    except BaseException:
        words = [sys.executable, "-c", BENTOML, "delete", "--yes", bento]
        subprocess.run(words, stdout=subprocess.DEVNULL, cwd=tempfile.gettempdir())
        raise


def secret(name: str, path: str) -> Path:
    """Return the absolute path of a secret; raises ConfigError unless the builders can take it."""
    found = Path(path).absolute()
    if not found.is_file() or "," in str(found):
        raise ConfigError(f"--{name.replace('_', '-')} {path}: accepted is a file, with no comma in its path")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the image the arguments ask for, and print its name."""
    parser = argparse.ArgumentParser(prog="deploy.image.build", description="Build the image of a Bento.")
    parser.add_argument("--bento", default="", help="name:version; built from the champion if left out")
    parser.add_argument("--image", default="", help="name:tag of the image; default: those of the Bento")
    for name, text in (("--gpu", "for an NVIDIA GPU"), ("--follow", "for a mounted store, whose champion it follows")):
        parser.add_argument(name, action="append_const", dest="kind", const=name, help=f"{text}; a --bento says itself")
    parser.add_argument("--engine", default="", choices=["", *ENGINES], help="default: the first that answers")
    parser.add_argument("--base", default="", help="instead of the base image in the Containerfile")
    for name in SECRETS:
        parser.add_argument(f"--{name.replace('_', '-')}", default="", metavar="FILE", help="seen by the build alone")
    options = parser.parse_args(arguments)
    try:
        secrets = {name: secret(name, path) for name in SECRETS if (path := getattr(options, name))}
        by = engine(options.engine)
        made = nullcontext(options.bento) if options.bento else dropped_if_unused(make_bento(*options.kind or ()))
        with made as bento:
            order = Order(bento, options.image or bento, options.base, secrets)
            build(order, by)
    except UserError as error:
        print(f"image: {error}", file=sys.stderr)
        return 2
    print(order.image)
    return 0


if __name__ == "__main__":
    sys.exit(main())
