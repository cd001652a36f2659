"""The trial of the Pod: `podman kube play`, the service with its side process and the monitor, `podman kube down`."""

import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from demo.stack import free_ports
from deploy.image.proof import pod, traffic
from deploy.image.proof.containers import WAYS, Container, confinement, eventually, podman
from deploy.image.proof.pod import PROBES, Here, Manifest
from deploy.image.proof.traffic import Load
from deploy.image.proof.trial import ALONE, Expected, demand
from deploy.image.proof.workshop import Workshop
from registry.errors import StackError

JUDGED_S = 120.0  # the monitor of the manifests runs each 30 s
SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.M)


@dataclass(frozen=True)
class Played:
    """A Pod that runs. spec: of the manifests; containers: by their names there; key: for its service."""

    shop: Workshop
    spec: Manifest
    containers: dict[str, Container]
    key: str

    @property
    def port(self) -> int:
        return self.containers["vigil"].port


def played(shop: Workshop, way: str, images: dict[str, str], expected: Expected) -> dict[str, Any]:
    """Return what was seen of the Pod of deploy/kubernetes; images: by their names in the manifests."""
    with _up(shop, way, images) as running:
        seen: dict[str, Any] = {"ready_s": _asked(running), "confinement": _confined(running)}
        seen |= _followed(running, expected)
        seen["monitor"] = _judged(running, seen["answers_equal_bit_for_bit"] + seen["requests"])
        seen["exit_statuses"] = _stopped(running)
        shop.run(*_kube(way, "down"), str(shop.folder / "pod.yaml"))
    left = [*shop.run("podman", "ps", "--all", "--quiet").split(), *shop.run("podman", "pod", "ps", "--quiet").split()]
    demand("containers are left after `podman kube down`:", not left, left)
    return seen | {"left_out": pod.LEFT_OUT, "replaced": pod.REPLACED}


@contextmanager
def _up(shop: Workshop, way: str, images: dict[str, str]) -> Iterator[Played]:
    service, monitor = free_ports(2)
    key, here = _furnished(shop, images, {"vigil": service, "monitor": monitor})
    objects = pod.rendered()
    spec = pod.template(objects)["spec"]
    file = shop.folder / "pod.yaml"
    file.write_text(pod.written(pod.made(objects, here)))
    names = [one["name"] for one in pod.containers(spec)]
    containers = {name: Container(shop, way, f"{pod.NAME}-{name}", here.ports.get(name, 0)) for name in names}
    try:
        shop.run(*_kube(way, "play"), str(file))
        yield Played(shop, spec, containers, key)
    except StackError:
        for name, container in containers.items():
            print(f"{name}:\n{container.log()[-3000:]}", file=sys.stderr)
        raise
    finally:  # whatever state it is in
        words = [*podman(WAYS[way], "pod"), "rm", "--force", "--ignore", "--time", "5", pod.NAME]
        subprocess.run(words, env=shop.environment, capture_output=True, timeout=60)


def _kube(way: str, verb: str) -> list[str]:
    return [*podman(WAYS[way], "kube"), verb]


def _furnished(shop: Workshop, images: dict[str, str], ports: dict[str, int]) -> tuple[str, Here]:
    """Return a key for the service, and what the Pod gets: the file of keys, and the place with the champion."""
    keys, place = shop.folder / "pod-keys", shop.folder / "releases"
    keys.mkdir()
    key = shop.vigil("keys", "add", "proof", "--role", "predict", said={"VIGIL_KEYS": str(keys / "keys.json")}).strip()
    (keys / "keys.json").chmod(0o444)  # the folder that it lies in is root's
    shop.vigil("models", "push", f"file://{place}")
    return key, Here(images, ports, keys, place)


def _asked(running: Played) -> dict[str, float]:
    """Ask what the probes of the manifests ask, the first until it has the answer; return the seconds of each."""
    return {
        f"{one['name']}: {name}": _asked_until(one[name], running.containers[one["name"]], f"{one['name']}: {name}")
        for one in pod.containers(running.spec)
        for name in PROBES
        if name in one
    }


def _asked_until(probe: Manifest, container: Container, what: str) -> float:
    most_s = float(probe.get("periodSeconds", 10) * probe.get("failureThreshold", 3))  # the defaults of Kubernetes
    return eventually(what, lambda: _answers(probe, container), most_s)


def _answers(probe: Manifest, container: Container) -> bool:
    if "exec" in probe:
        words = [*podman(WAYS[container.way], "exec"), container.name, *probe["exec"]["command"]]
        return subprocess.run(words, env=container.shop.environment, capture_output=True).returncode == 0
    return traffic.call(container.port, probe["httpGet"]["path"])[0] == 200


def _confined(running: Played) -> dict[str, str]:
    """Return what the kernel says of each container, which is the same; none can write to its own files."""
    for name, container in running.containers.items():
        alone = confinement(container)
        demand(f"{name} is not as confined as the manifest says", alone == ALONE, alone)
        container.do("sh", "-c", "! touch /owned && ! touch /usr/owned && touch /tmp/mine /var/lib/vigil/mine")
    return ALONE


def _followed(running: Played, expected: Expected) -> dict[str, Any]:
    """Return what was seen of the answers, and of a promotion and a rollback that were sent to the shared place."""
    first, second = expected.tags
    same = [_same(running, expected, first)]
    with Load(running.port, expected.x[0].tobytes(), running.key).running() as load:
        promoted_s = _change(running, second, "promote", second, "--why", "a mistake", "--force")
        same.append(_same(running, expected, second))
        back_s = _change(running, first, "rollback", "--why", "looked worse")
        same.append(_same(running, expected, first))
    demand("its answers are not the ones outside", all(same), same)
    demand("requests failed", load.failed == 0, load.failed)
    refused = traffic.call(running.port, "/v1/predict", expected.x[0].tobytes())[0]
    demand("a request without a key was not refused", refused == 401, refused)
    return {
        "answers_equal_bit_for_bit": 2 * len(expected.x) * len(same),
        "promotion_s": promoted_s, "rollback_s": back_s, "requests": len(load.statuses), "failed": load.failed,
    }  # fmt: skip


def _same(running: Played, expected: Expected, tag: str) -> bool:
    return traffic.answers(running.port, expected.x, running.key) == expected.answers[tag]


def _change(running: Played, tag: str, *words: str) -> float:
    """Return the seconds from the end of `vigil ...`, typed outside, until the Pod answers with `tag`."""
    running.shop.vigil(*words, said={"VIGIL_RELEASES": f"file://{running.shop.folder / 'releases'}"})
    version = tag.split(":")[1]
    return eventually(f"{tag} live", lambda: traffic.live_version(running.port, running.key) == version, 15.0)


def _judged(running: Played, rows: int) -> dict[str, Any]:
    """Return what the monitor says of the log of the service, once it has read all `rows` of it and judged them."""
    port, since_s = running.containers["monitor"].port, time.time()
    seconds = eventually("the monitor has judged the log", lambda: _has_judged(port, rows, since_s), JUDGED_S)
    said = samples(traffic.call(port, "/metrics")[1].decode())
    read, judged = said["vigil_monitor_log_rows"], _sum(said, "vigil_quality_estimate_rows")
    demand("not every row that was answered was read and judged:", read == judged == rows, (rows, read, judged))
    failed = _sum(said, "vigil_monitor_failures_total")
    demand("runs of the monitor failed:", failed == 0, failed)
    return {"seconds": seconds, "rows": rows, "parts": len(_parts(said))}


def _sum(said: dict[str, float], name: str) -> float:
    return sum(value for one, value in said.items() if one.partition("{")[0] == name)


def _has_judged(port: int, rows: int, since_s: float) -> bool:
    """Return whether the monitor is well, and every part of it has looked at so many rows since then."""
    status, body = traffic.call(port, "/healthz")
    if status != 200 or json.loads(body)["status"] != "ok":
        return False
    said = samples(traffic.call(port, "/metrics")[1].decode())
    looked_s = _parts(said)
    return said["vigil_monitor_log_rows"] >= rows and min(looked_s, default=0.0) > since_s


def _parts(said: dict[str, float]) -> list[float]:
    return [value for name, value in said.items() if name.startswith("vigil_monitor_part_last_success")]


def samples(text: str) -> dict[str, float]:
    """Return the value of each sample of a page of metrics, by its name with its labels."""
    return {f"{name}{{{labels}}}" if labels else name: float(value) for name, labels, value in SAMPLE.findall(text)}


def _stopped(running: Played) -> dict[str, int]:
    """End the Pod in the time that the manifest gives it; return the exit status of each container."""
    grace_s = running.spec["terminationGracePeriodSeconds"]
    words = [*podman(WAYS[running.containers["vigil"].way], "pod"), "stop", "--time", str(grace_s), pod.NAME]
    running.shop.run(*words)
    asked = ("podman", "inspect", "--format", "{{.State.ExitCode}}")
    statuses = {name: int(running.shop.run(*asked, one.name)) for name, one in running.containers.items()}
    demand("a container did not end with 0", not any(statuses.values()), statuses)
    return statuses
