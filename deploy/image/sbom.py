"""Write what an image is made of as a CycloneDX 1.6 document: Python and Debian packages, and the release.

Runs while the image is built, in it, on the standard library alone. Equal images give equal documents: no time and
no random number is in them. https://cyclonedx.org/docs/1.6/json/
"""

import hashlib
import json
import sys
import uuid
from collections.abc import Iterator
from email.message import Message
from email.parser import Parser
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any
from urllib.parse import quote

DPKG = Path("/var/lib/dpkg/status")
MODELS = Path("/app/bento/models")
NAMESPACE = uuid.UUID("6ba7b811-9dad-11d1-80b4-00c04fd430c8")  # of URLs, RFC 4122

Component = dict[str, Any]


def document(packages: list[Component], releases: list[Component]) -> dict[str, Any]:
    """Return the whole document; its serial number follows from what is in it."""
    components = sorted([*packages, *releases], key=lambda one: one["bom-ref"])
    content = json.dumps(components, sort_keys=True)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{uuid.uuid5(NAMESPACE, content)}",
        "version": 1,
        "metadata": {"component": {"type": "container", "bom-ref": "image", "name": "vigil"}},
        "components": components,
        "dependencies": [{"ref": "image", "dependsOn": [one["bom-ref"] for one in components]}],
    }


def python_packages(path: list[str]) -> Iterator[Component]:
    """Return a component for each package installed in the folders of `path`."""
    for found in distributions(path=path):
        name = found.metadata["Name"].lower().replace("_", "-").replace(".", "-")
        yield _package(found.metadata["Name"], found.version, f"pkg:pypi/{name}@{quote(found.version)}") | _licence(
            found
        )


def debian_packages(status: Path) -> Iterator[Component]:
    """Return a component for each installed package in dpkg's status file; none if there is no such file."""
    for block in status.read_text().split("\n\n") if status.exists() else ():
        said: Message = Parser().parsestr(block.lstrip())
        if said["Status"] == "install ok installed":
            version = quote(said["Version"], safe="")
            where = f"arch={said['Architecture']}&distro=debian-12"
            yield _package(said["Package"], said["Version"], f"pkg:deb/debian/{said['Package']}@{version}?{where}")


def releases(models: Path) -> Iterator[Component]:
    """Return a component for each release in a store, with the digest of its manifest and of each of its files."""
    for manifest in sorted(models.glob("*/*/manifest.json")):
        content = manifest.read_bytes()
        said = json.loads(content)
        files = said["files"] | {"manifest.json": {"sha256": hashlib.sha256(content).hexdigest()}}
        if (signature := manifest.parent / "model.sig").exists():
            files["model.sig"] = {"sha256": hashlib.sha256(signature.read_bytes()).hexdigest()}
        tag = f"{manifest.parent.parent.name}:{manifest.parent.name}"
        yield {
            "type": "machine-learning-model",
            "bom-ref": tag,
            "name": said["name"],
            "version": manifest.parent.name,
            "description": said["purpose"],
            "hashes": _hashes(files["manifest.json"]["sha256"]),
            "components": [_file(tag, name, entry["sha256"]) for name, entry in sorted(files.items())],
        }


def _package(name: str, version: str, purl: str) -> Component:
    return {"type": "library", "bom-ref": purl, "name": name, "version": version, "purl": purl}


def _licence(found: Distribution) -> Component:
    if "License-Expression" not in found.metadata:
        return {}
    return {"licenses": [{"expression": found.metadata["License-Expression"]}]}


def _file(tag: str, name: str, sha256: str) -> Component:
    return {"type": "file", "bom-ref": f"{tag}/{name}", "name": name, "hashes": _hashes(sha256)}


def _hashes(sha256: str) -> list[dict[str, str]]:
    return [{"alg": "SHA-256", "content": sha256}]


def main(out: str) -> None:
    """Write the document of the image this runs in to `out`."""
    packages = [*python_packages([one for one in sys.path if one.endswith("site-packages")]), *debian_packages(DPKG)]
    Path(out).write_text(json.dumps(document(packages, list(releases(MODELS))), indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
