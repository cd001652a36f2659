"""What lies in an image: every file of every layer, so also what a later layer hides."""

import hashlib
import json
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from deploy.image.proof.workshop import Workshop

UNWANTED = ("gcc", "cc", "g++", "make", "git", "pip", "pip3", "uv", "curl", "wget")
GROUPS = (  # the first that a path begins with
    ("bytecode of packages", "app/venv", ".pyc"),
    ("onnxruntime", "app/venv/lib/python3.11/site-packages/onnxruntime", ""),
    ("numpy", "app/venv/lib/python3.11/site-packages/numpy", ""),
    ("other packages", "app/venv", ""),
    ("release", "app/bento/models", ""),
    ("Bento", "app/bento", ""),
    ("packages of the tools", "venv", ""),
    ("SBOM", "app/sbom", ""),
    ("Debian's Python", "usr/lib/python3", ""),
)


def layers(shop: Workshop, image: str) -> Iterator[tuple[str, tarfile.TarInfo, IO[bytes] | None]]:
    """Give the layer, the entry and, of a plain file, the content of everything in the image and its configuration."""
    archive = shop.folder / "image.tar"
    archive.unlink(missing_ok=True)
    shop.run("podman", "save", "--quiet", "--format", "docker-archive", "--output", str(archive), image)
    with tarfile.open(archive) as outer:
        for member in outer:
            stream = outer.extractfile(member) if member.isfile() else None
            if stream and member.name.endswith(".tar"):
                with tarfile.open(fileobj=stream) as layer:
                    yield from ((member.name, one, layer.extractfile(one) if one.isfile() else None) for one in layer)
            elif stream:
                yield "", member, stream  # the configuration: environment, labels, history
    archive.unlink()


def holding(shop: Workshop, image: str, needles: dict[str, bytes], whole: dict[str, str]) -> list[str]:
    """Return the paths that hold one of the `needles`, or are a file whose SHA-256 is in `whole`; both by name."""
    found = []
    for _, entry, stream in layers(shop, image):
        content = stream.read() if stream else b""
        digest = hashlib.sha256(content).hexdigest()
        found += [f"{entry.name}: {name}" for name, needle in needles.items() if needle in content]
        found += [f"{entry.name}: {name}" for name, one in whole.items() if one == digest]
    return found


def unwanted(shop: Workshop, image: str) -> list[str]:
    """Return the programs of `UNWANTED` and the copies of pip and setuptools that are in any layer."""
    found = []
    for _, entry, _ in layers(shop, image):
        path = Path(entry.name)
        if path.name in UNWANTED and path.parent.name in ("bin", "sbin"):
            found.append(entry.name)
        if path.name in ("pip", "setuptools", "ensurepip") and path.parent.name in ("site-packages", "dist-packages"):
            found.append(entry.name)
    return found


def space(shop: Workshop, image: str) -> dict[str, float]:
    """Return the MB of each part of the image, and of all of it."""
    sizes: Counter[str] = Counter()
    for layer, entry, _ in layers(shop, image):
        if layer:
            sizes[_group(entry.name.removeprefix("./"))] += entry.size
    said = {name: round(size / 1e6, 1) for name, size in sizes.most_common()}
    return said | {"all": round(sum(sizes.values()) / 1e6, 1)}


def _group(path: str) -> str:
    for name, start, end in GROUPS:
        if path.startswith(start) and path.endswith(end):
            return name
    return "Debian"


def sbom(shop: Workshop, image: str) -> dict[str, dict[str, object]]:
    """Return the components of the SBOM in the image, by reference."""
    for _, entry, stream in layers(shop, image):
        if stream and entry.name.removeprefix("./") == "app/sbom.cdx.json":
            return {one["bom-ref"]: one for one in json.load(stream)["components"]}
    return {}
