"""Build the images of a Bento from nothing, run them locked down, and record what was seen: `make proof-container`."""

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from deploy.image.proof import containers, contents, secrets, tools, workshop
from deploy.image.proof.played import played
from deploy.image.proof.secrets import Secrets
from deploy.image.proof.trial import follow, outside, pinned
from deploy.image.proof.workshop import Workshop
from registry.errors import StackError, UserError

ROOT = Path(__file__).resolve().parents[3]
BASE = "localhost/vigil-base:bookworm"
MOST_MB = 450.0


def releases(shop: Workshop) -> list[str]:
    """Return the tags of two trained, signed releases: the champion, and one that was trained less."""
    tags = []
    for epochs in (40, 10):
        words = ["train", str(ROOT / "examples/digits.toml"), "--json", "--set", f"loop.epochs={epochs}"]
        said = shop.vigil(*words, "--run-folder", str(shop.folder / f"run-{epochs}"))
        tags.append(str(json.loads(said)["tag"]))
        shop.vigil("sign", tags[-1], "--key", str(key(shop)))
    shop.vigil("promote", tags[0], "--why", "first")
    return tags


def key(shop: Workshop) -> Path:
    """Return the file of a private key, made when first asked for; its pair lies beside as key.pub.pem."""
    place = shop.folder / "keys" / "key.pem"
    if not place.exists():
        place.parent.mkdir()
        made = ec.generate_private_key(ec.SECP256R1())
        kind, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        place.write_bytes(made.private_bytes(serialization.Encoding.PEM, kind, plain))
        public = made.public_key()
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        (place.parent / "key.pub.pem").write_bytes(public.public_bytes(serialization.Encoding.PEM, form))
    return place


def build_images(shop: Workshop, bento: str, hidden: Secrets) -> dict[str, str]:
    """Return the images of the Bento: by `bentoml containerize` and by what `make image` runs, and one that follows."""
    made = {"bentoml containerize": "localhost/vigil:plain", "make image": "localhost/vigil:ours"}
    made["make image --follow"] = "localhost/vigil:follows"
    given = [f"secret=id={name},src={path}" for name, path in hidden.files.items()]
    words = [sys.executable, "-m", "bentoml", "containerize", bento, "--backend", "buildah"]
    words += ["--image-tag", made["bentoml containerize"], "--opt", f"build-arg=BASE_IMAGE={BASE}"]
    with shop.timed("bentoml containerize"):
        inside = ["env", "-C", str(shop.folder / "tmp")]  # where BentoML may read its own copy of the template
        shop.run(*inside, *words, *(word for one in given for word in ("--opt", one)))
    options = [word for name, path in hidden.files.items() for word in (f"--{name.replace('_', '-')}", str(path))]
    words = [sys.executable, "-m", "deploy.image.build", "--engine", "podman", "--base", BASE, *options]
    for name, kind in (("make image", ("--bento", bento)), ("make image --follow", ("--follow",))):
        with shop.timed(name):
            shop.run(*words, *kind, "--image", made[name])
    return made


def look_into(shop: Workshop, image: str, digest: str, hidden: Secrets) -> dict[str, Any]:
    """Return what is in the image; raises StackError if something is that must not be, or the other way round."""
    leaked = contents.holding(shop, image, hidden.needles, hidden.whole)
    programs = contents.unwanted(shop, image)
    parts = contents.sbom(shop, image)
    space = contents.space(shop, image)
    said = containers.labels(shop, image)
    named = parts.get(said["vigil.model.tag"], {"hashes": [{"content": ""}], "components": []})
    checks = {
        f"settings of this machine are in it: {leaked[:5]}": not leaked,
        f"programs are in it: {programs[:5]}": not programs,
        f"it has {space['all']} MB": space["all"] < MOST_MB,
        "its label is not the digest of the release": said["vigil.model.digest"] == digest,
        "its SBOM does not name the release": named["hashes"][0]["content"] == digest,  # type: ignore[index]
        "its SBOM does not name the signature": "model.sig" in json.dumps(named["components"]),
    }
    if wrong := [text for text, right in checks.items() if not right]:
        raise StackError(f"{image}: {'; '.join(wrong)}")
    return {"mb": space, "sbom_components": len(parts), "labels": said}


def look_into_tools(shop: Workshop, image: str, hidden: Secrets) -> dict[str, Any]:
    """Return how large the image of the tools is; raises StackError if settings of this machine are in it."""
    if leaked := contents.holding(shop, image, hidden.needles, hidden.whole):
        raise StackError(f"{image}: settings of this machine are in it: {leaked[:5]}")
    return {"mb": contents.space(shop, image)}


def carry_out(shop: Workshop, options: argparse.Namespace) -> dict[str, Any]:
    """Return the record of the whole proof."""
    with shop.timed("debootstrap"):
        root = workshop.root_file_system(shop, ("python3.11",), options.mirror)
        containers.import_base(shop, root, BASE)
        shutil.rmtree(root)
    with shop.timed("two releases"):
        tags = releases(shop)
    with shop.timed("vigil build"):
        built = json.loads(shop.vigil("build", "--json"))
    hidden = secrets.marked(shop, options.pip_conf)
    images = build_images(shop, built["bento"], hidden)
    with shop.timed("tools image"):
        of_tools = tools.build(shop, BASE, hidden)
    with shop.timed("look into the images"):
        following = images.pop("make image --follow")
        record = {name: look_into(shop, image, built["model_digest"], hidden) for name, image in images.items()}
        in_tools = look_into_tools(shop, of_tools, hidden)
    way = containers.way(shop, BASE)
    with shop.timed("predictions outside"):
        expected = outside(shop, built["bento"], tags)
    for name, image in images.items():
        with shop.timed(f"run: {name}"):
            record[name] |= pinned(shop, way, image, expected)
    with shop.timed("run: follow a registry"):
        followed = follow(shop, way, following, expected)
    with shop.timed("run: podman kube play"):
        containers.pause(shop, BASE)
        of_pod = played(shop, way, {"vigil": following, "vigil-tools": of_tools}, expected)
    seen = {"images": record, "tools": in_tools, "follow": followed, "pod": of_pod}
    return {"way": way, **seen, "seconds": shop.seconds}


def main() -> int:
    """Run the proof and write its record; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pip-conf", default="", help="settings of pip for the build, as an index of your own")
    parser.add_argument("--mirror", default="", help="of Debian; default: that of debootstrap")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/container-DATE.json")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("proof-container: ended"))  # so that nothing stays mounted
    now = datetime.now(UTC)
    out = options.out or ROOT / f"benchmarks/results/container-{now:%Y-%m-%d}.json"
    try:
        workshop.demand()
        with workshop.opened() as shop:
            record = carry_out(shop, options)
    except (UserError, ValueError, OSError, subprocess.SubprocessError) as error:
        print(f"proof-container: {error}", file=sys.stderr)
        return 2
    machine = {"kernel": platform.release(), "cores": os.cpu_count(), "architecture": platform.machine()}
    out.write_text(json.dumps({"date": f"{now:%FT%TZ}", "machine": machine, **record}, indent=1) + "\n")
    print(out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
