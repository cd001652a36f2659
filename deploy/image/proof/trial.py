"""The trials of a running image: the answers, the end by SIGTERM, and the way back inside the container."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from demo.stack import free_ports
from deploy.image.proof import traffic
from deploy.image.proof.containers import Container, confinement, eventually
from deploy.image.proof.traffic import Halfway, Load
from deploy.image.proof.workshop import Workshop
from registry.errors import StackError

ROOT = Path(__file__).resolve().parents[3]
USER = 10001
HEALTH = ("/app/venv/bin/python", "-I", "/app/bento/src/deploy/image/health.py")
ALONE = {"Uid": str(USER), "CapEff": "0" * 16, "CapBnd": "0" * 16, "NoNewPrivs": "1", "Seccomp": "2"}


@dataclass(frozen=True)
class Expected:
    """tags: two releases, the first is carried by the Bento. x: rows; answers: to them, of each release, outside."""

    tags: list[str]
    x: np.ndarray
    answers: dict[str, bytes]


def outside(shop: Workshop, bento: str, tags: list[str]) -> Expected:
    """Return what the service answers on this machine, from the Bento and from the store."""
    x = traffic.rows(shop.folder / "home/models" / tags[0].replace(":", "/"))
    answers = {}
    store = ["service:Vigil", "--working-dir", str(ROOT), "--arg"]
    for tag, words in ((tags[0], [bento]), (tags[1], [*store, f"model_tag={tags[1]}"])):
        with _served(shop, words) as port:
            answers[tag] = traffic.answers(port, x)
    if answers[tags[0]] == answers[tags[1]]:
        raise StackError("two releases answer alike: equal predictions would show nothing")
    return Expected(tags, x, answers)


@contextmanager
def _served(shop: Workshop, words: list[str]) -> Iterator[int]:
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "bentoml", "serve", *words, "--port", str(port)]
    said = {"VIGIL_DRAIN_S": "0", "VIGIL_RECORD": "false"}
    with (shop.folder / "outside.log").open("ab") as log:
        process = subprocess.Popen(command, env=shop.environment | said, stdout=log, stderr=log, start_new_session=True)
    try:
        eventually("the service outside", lambda: traffic.ready(port))
        yield port
    finally:
        _end(process)


def _end(process: "subprocess.Popen[bytes]", patience_s: float = 60.0) -> None:
    try:
        os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(patience_s)
    finally:
        with suppress(ProcessLookupError):  # a worker that hangs may outlive its parent
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@contextmanager
def _running(
    shop: Workshop, way: str, image: str, *arguments: str, options: tuple[str, ...] = ()
) -> Iterator[Container]:
    (port,) = free_ports(1)
    container = Container(shop, way, f"vigil-proof-{port}", port)
    try:
        container.start(image, *arguments, options=options)
        yield container
    except StackError:
        print(container.log()[-4000:], file=sys.stderr)
        raise
    finally:
        container.remove()


def pinned(shop: Workshop, way: str, image: str, expected: Expected) -> dict[str, Any]:
    """Return what was seen of the image with the release it carries, whose signature is demanded."""
    mount = ("--volume", f"{shop.folder / 'keys/key.pub.pem'}:/keys/key.pub.pem:ro")
    signed = ("--env", "VIGIL_REQUIRE_SIGNATURE=/keys/key.pub.pem")
    with _running(shop, way, image, options=(*mount, *signed)) as container:
        ready_s = eventually("readiness", lambda: traffic.ready(container.port))
        alone = confinement(container)
        demand("it is not as confined as it was told to be", alone == ALONE, alone)
        container.do(*HEALTH)
        container.do("sh", "-c", "! touch /owned && ! touch /app/owned && touch /var/lib/vigil/mine")
        same = traffic.answers(container.port, expected.x) == expected.answers[expected.tags[0]]
        demand("its answers are not the ones outside", same)
        drained = _drain(container, expected.x)
    rows = 2 * len(expected.x)
    return {"ready_s": ready_s, "confinement": alone, "answers_equal_bit_for_bit": rows, "sigterm": drained}


def _drain(container: Container, x: np.ndarray) -> dict[str, Any]:
    """Return what happens from SIGTERM on: to a request under way, to new ones, and at the end."""
    halfway = Halfway(container.port, x[:64].tobytes())
    with Load(container.port, x[0].tobytes()).running() as load:
        container.terminate()
        unready_s = eventually("readyz says no", lambda: traffic.call(container.port, "/readyz")[0] == 503)
        answered = len(load.statuses)
        under_way = halfway.finish()
        eventually("requests answered while it drains", lambda: len(load.statuses) >= answered + 20)
        served, failed = len(load.statuses), load.failed
    status = container.ended()
    demand("the request under way was not answered", under_way == 200, under_way)
    demand("requests failed while it drained", failed == 0, failed)
    demand("it did not end with 0", status == 0, status)
    return {"unready_s": unready_s, "under_way": under_way, "served": served, "failed": failed, "status": status}


def follow(shop: Workshop, way: str, image: str, expected: Expected) -> dict[str, Any]:
    """Return what was seen of the image on a mounted registry: it follows a promotion, and a rollback made inside."""
    volume = _volume(shop)
    first, second = expected.tags
    options = ("--volume", f"{volume}:/var/lib/vigil")
    with _running(shop, way, image, options=options) as container:
        eventually("the champion", lambda: traffic.live_version(container.port) == first.split(":")[1])
        with Load(container.port, expected.x[0].tobytes()).running() as load:
            promoted_s = _change(container, second, "promote", second, "--why", "a mistake", "--force")
            other = traffic.answers(container.port, expected.x) == expected.answers[second]
            back_s = _change(container, first, "rollback", "--why", "looked worse")
            back = traffic.answers(container.port, expected.x) == expected.answers[first]
        demand("its answers are not the ones outside", other and back)
        demand("requests failed", load.failed == 0, load.failed)
        container.terminate()
        status = container.ended()
    demand("it did not end with 0", status == 0, status)
    return {"promotion_s": promoted_s, "rollback_s": back_s, "requests": len(load.statuses), "failed": load.failed}


def _change(container: Container, tag: str, *words: str) -> float:
    """Return the seconds from the end of `vigil ...`, run in the container, until it answers with `tag`."""
    container.do("vigil", *words)
    return eventually(f"{tag} live", lambda: traffic.live_version(container.port) == tag.split(":")[1], 10.0)


def _volume(shop: Workshop) -> Path:
    """Return a copy of the store that belongs to the user of the image."""
    place = shop.folder / "volume"
    for part in ("models", "vigil"):
        shutil.copytree(shop.folder / "home" / part, place / part)
    for path in (place, *place.rglob("*")):
        os.chown(path, USER, USER)
    return place


def demand(text: str, right: bool, found: object = "") -> None:
    """Raise StackError with `text` and what was found unless it is right."""
    if not right:
        raise StackError(f"{text} {found}".strip())
