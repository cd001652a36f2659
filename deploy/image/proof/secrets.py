"""The settings of this machine that a build may use and an image must not keep, each with a mark to look for."""

import hashlib
import os
import re
import subprocess
import sys
import uuid
from dataclasses import dataclass
from pathlib import Path

from deploy.image.proof.workshop import Workshop

CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
INDEX = re.compile(r"(?:index-url|find-links|proxy)['.=\s]*?='?(.*?)'?$", re.M)


@dataclass(frozen=True)
class Secrets:
    """files: NAME to the file handed to the build. needles, whole: what no layer may hold, see `contents.holding`."""

    files: dict[str, Path]
    needles: dict[str, bytes]
    whole: dict[str, str]


def marked(shop: Workshop, pip_conf: str, certificates: Path = CERTIFICATES) -> Secrets:
    """Return the secrets of this build; pip_conf: a file with an index of one's own, empty if there is none."""
    mark = f"mark-{uuid.uuid4().hex}"
    folder = shop.folder / "secrets"
    folder.mkdir(mode=0o700)
    texts = {
        "ca": certificates.read_text() if certificates.exists() else "",
        "pip_conf": Path(pip_conf).read_text() if pip_conf else "[global]\n",
        "apt_conf": "",
    }
    comments = {"ca": "#", "pip_conf": "#", "apt_conf": "//"}
    files = {name: folder / name for name, text in texts.items() if text or name == "apt_conf"}
    for name, path in files.items():
        path.write_text(f"{texts[name]}\n{comments[name]} {mark}\n")
    digests = {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()}
    if certificates.exists():
        digests["certificates of this machine"] = hashlib.sha256(certificates.read_bytes()).hexdigest()
    needles = {"the mark": mark.encode()}
    return Secrets(files, needles | {f"index {i}": one.encode() for i, one in enumerate(_indexes())}, digests)


def _indexes() -> list[str]:
    """Return the places of packages that pip is told of here, but for the public one."""
    said = subprocess.run([sys.executable, "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
    values = " ".join(INDEX.findall(said)).split() + [v for k, v in os.environ.items() if k == "PIP_INDEX_URL"]
    return sorted({one for one in values if len(one) > 5 and "pypi.org" not in one})
