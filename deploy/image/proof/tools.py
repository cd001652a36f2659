"""The image of the command line and the monitor, built of deploy/monitor/Containerfile on the Debian of the proof."""

from pathlib import Path

from deploy.image.proof.secrets import Secrets
from deploy.image.proof.workshop import Workshop

ROOT = Path(__file__).resolve().parents[3]
CONTAINERFILE = ROOT / "deploy/monitor/Containerfile"
IMAGE = "localhost/vigil-tools:proof"
PYTHON = "localhost/vigil-python:bookworm"
# What the base named in the Containerfile has, and the Debian of the service's image has not.
WITH_PYTHON = """\
FROM {base}
RUN --mount=type=secret,id=apt_conf set -eu; \\
    if [ -f /run/secrets/apt_conf ]; then export APT_CONFIG=/run/secrets/apt_conf; fi; \\
    apt-get update; \\
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends python3 python3-venv; \\
    rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*
"""


def build(shop: Workshop, base: str, hidden: Secrets) -> str:
    """Return the name of the image, built with the same secrets as that of the service."""
    folder = shop.folder / "python"
    folder.mkdir()
    (folder / "Containerfile").write_text(WITH_PYTHON.format(base=base))
    secrets = [word for name, path in hidden.files.items() for word in ("--secret", f"id={name},src={path}")]
    words = ["podman", "build", "--quiet", "--format", "docker", *secrets]
    shop.run(*words, "--tag", PYTHON, str(folder))
    words += ["--build-arg", f"BASE_IMAGE={PYTHON}", "--file", str(CONTAINERFILE)]
    shop.run(*words, "--tag", IMAGE, str(ROOT))
    return IMAGE
