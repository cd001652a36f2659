"""One Pod for `podman kube play`, made of the Deployment that deploy/kubernetes renders to.

What podman cannot carry out is left out or replaced, each by name and with the reason, so that the record tells it.
"""

import copy
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from registry.errors import StackError

ROOT = Path(__file__).resolve().parents[3]
OVERLAY = ROOT / "deploy/kubernetes/overlays/monitoring"  # that of `cpu`, with the monitor in the Pod
Manifest = dict[str, Any]
NAME = "vigil"  # of the Pod; podman calls its containers NAME-CONTAINER
PLACE = "/releases"  # of the containers: where the shared place is mounted
PROBES = ("startupProbe", "readinessProbe", "livenessProbe")
LEFT_OUT = {
    "topologySpreadConstraints": "there is one machine to be on",
    "lifecycle": "podman sends SIGTERM at once, and nothing routes requests here that must be led away before",
    "ports": "the Pod has the network of the machine, of which no port is mapped",
    **dict.fromkeys(PROBES, "podman would ask with curl, from inside, where none is; the proof asks what it asks"),
}
REPLACED = {
    "hostNetwork": "true, as in the other trials; the ports are free ones of the machine",
    "initContainers": "with restartPolicy Always one is beside the others, the first: podman would wait for its end",
    "args": "$(NAME) is filled in, which podman hands on as it is",
    "Secret": "its volume is a folder of the machine with the same file, mounted to be read",
    "ConfigMap": "`releases` is file:///releases, a folder of the machine, mounted to be read",
    "image": "those that the proof has built",
}


@dataclass(frozen=True)
class Here:
    """What the Pod gets of this machine. images, ports: by name in the manifests, of an image and of a container."""

    images: dict[str, str]
    ports: dict[str, int]
    keys: Path
    releases: Path


def rendered() -> list[Manifest]:
    """Return the objects of `OVERLAY`; raises StackError where `kubectl` refuses."""
    done = subprocess.run(["kubectl", "kustomize", str(OVERLAY)], capture_output=True, text=True)
    if done.returncode:
        raise StackError(f"kubectl kustomize {OVERLAY}: {done.stderr.strip()}")
    return [one for one in yaml.safe_load_all(done.stdout) if one]


def template(objects: list[Manifest]) -> Manifest:
    """Return the template of the one Deployment among `objects`."""
    (found,) = (one["spec"]["template"] for one in objects if one["kind"] == "Deployment")
    return dict(found)


def containers(spec: Manifest) -> list[Manifest]:
    """Return the containers of a Pod, those that start before the others first."""
    return [*spec.get("initContainers", []), *spec["containers"]]


def made(objects: list[Manifest], here: Here) -> list[Manifest]:
    """Return the ConfigMap and the Pod of the Deployment among `objects`, as podman takes them."""
    said = copy.deepcopy(template(objects))
    (config,) = (copy.deepcopy(o) for o in objects if o["kind"] == "ConfigMap" and "releases" in o["data"])
    config["data"]["releases"] = f"file://{PLACE}"
    spec = {name: value for name, value in said["spec"].items() if name not in LEFT_OUT}
    if ending := [one["name"] for one in spec.get("initContainers", []) if one.get("restartPolicy") != "Always"]:
        raise StackError(f"{ending[0]}: a container that ends before the others start is not known to this proof")
    spec["containers"] = [_container(one, config["data"], here) for one in containers(spec)]
    spec.pop("initContainers", None)
    spec["volumes"] = [_volume(one, here) for one in spec["volumes"]] + [_folder("releases", here.releases)]
    spec["hostNetwork"] = True
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": NAME, **said["metadata"]}, "spec": spec}
    return [config, pod]


def written(objects: list[Manifest]) -> str:
    """Return the file that holds `objects`."""
    return str(yaml.safe_dump_all(objects, sort_keys=False))


def _container(container: Manifest, settings: dict[str, str], here: Here) -> Manifest:
    left = {name: value for name, value in container.items() if name not in LEFT_OUT and name != "restartPolicy"}
    left["image"] = here.images[container["image"].rsplit("/", 1)[-1].split(":")[0]]
    left["volumeMounts"] = [*container["volumeMounts"], {"name": "releases", "mountPath": PLACE, "readOnly": True}]
    if container["name"] in here.ports:
        _move(left, container["ports"][0]["containerPort"], here.ports[container["name"]])
    if "args" in left:
        left["args"] = [_filled(word, left.get("env", []), settings) for word in left["args"]]
    return left


def _move(container: Manifest, port: int, to: int) -> None:
    """Have a container listen on another port: by its argument, or as the image of the service is told."""
    if "args" in container:
        container["args"] = [str(to) if word == str(port) else word for word in container["args"]]
    else:
        container["env"] = [*container.get("env", []), {"name": "BENTOML_PORT", "value": str(to)}]


def _filled(word: str, environment: list[Manifest], settings: dict[str, str]) -> str:
    for one in environment:
        value = one["value"] if "value" in one else settings[one["valueFrom"]["configMapKeyRef"]["key"]]
        word = word.replace(f"$({one['name']})", value)
    return word


def _volume(volume: Manifest, here: Here) -> Manifest:
    return _folder(volume["name"], here.keys) if "secret" in volume else volume


def _folder(name: str, place: Path) -> Manifest:
    return {"name": name, "hostPath": {"path": str(place), "type": "Directory"}}
