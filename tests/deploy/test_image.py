"""The programs of the image: its build, its health check, and the list of what it is made of."""

import functools
import hashlib
import json
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import distributions
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from ending import ended

from demo.stack import free_ports
from deploy.image import build, health, sbom
from registry import store
from registry.errors import ConfigError, StackError


@pytest.fixture
def engines(tmp_path, monkeypatch):
    """Return a function that leaves only these programs on the path, each with what it does."""

    def put(**programs):
        for name, text in programs.items():
            program = tmp_path / name
            program.write_text(f"#!/bin/sh\n{text}\n")
            program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))

    return put


def test_the_first_engine_that_answers_is_taken(engines):
    engines(docker="echo 'no daemon' >&2; exit 1", buildah='[ "$1" = info ]')
    assert build.engine() == "buildah"
    engines(podman='[ "$1" = info ]')
    assert build.engine() == "podman"
    assert build.engine("buildah") == "buildah"


def test_without_an_engine_the_message_names_each_and_the_cure(engines):
    engines(docker="echo 'cannot connect' >&2; exit 1")
    with pytest.raises(StackError) as refused:
        build.engine()
    for part in ("docker: cannot connect", "podman: not installed", "buildah: not installed", "apt-get install"):
        assert part in str(refused.value)


def test_make_image_without_an_engine_ends_with_that_message_and_builds_nothing(engines, capsys, home):
    engines()
    assert build.main([]) == 2
    assert capsys.readouterr().err.startswith("image: no container engine answers")
    assert not home.exists()


@pytest.mark.parametrize("own", [False, True])
def test_an_engine_that_cannot_build_is_quoted_and_no_bento_of_its_own_stays(engines, capfd, home, own):
    engines(buildah='[ "$1" = info ] && exit 0; echo "no route to the registry" >&2; exit 125')
    kept = build.make_bento("--follow") if own else ""
    capfd.readouterr()
    words = ["--bento", kept] if own else ["--follow"]
    assert build.main(["--engine", "buildah", *words]) == 2
    said = capfd.readouterr().err
    assert "no route to the registry" in said and "image: buildah could not build vigil:" in said
    assert "Traceback" not in said and "Warning" not in said and 'File "' not in said
    left = [path.name for path in (home / "bentos").glob("vigil/*") if path.name != "latest"]
    assert left == ([kept.split(":")[1]] if own else [])


def test_the_command_hands_secrets_to_the_build_and_keeps_the_health_check(tmp_path):
    order = build.Order("vigil:x", "shop/vigil:1", "debian:12", {"ca": tmp_path / "ca.pem"})
    options = {by: build.command(order, by) for by in build.ENGINES}
    for by, words in options.items():
        assert words[3:6] == ["containerize", "vigil:x", "--backend"] and words[6] == by
        assert f"secret=id=ca,src={tmp_path}/ca.pem" in words and "build-arg=BASE_IMAGE=debian:12" in words
        assert ("format=docker" in words) == (by != "docker")


def test_a_secret_that_is_no_file_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="--pip-conf nothing: accepted is a file"):
        build.secret("pip_conf", "nothing")


class Readiness(BaseHTTPRequestHandler):
    def __init__(self, status, *rest):
        self.status = status
        super().__init__(*rest)

    def do_GET(self):
        self.send_response(self.status if self.path == "/readyz" else 404)
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False)])
def test_a_container_is_healthy_as_long_as_readyz_says_200(status, healthy):
    with HTTPServer(("127.0.0.1", 0), functools.partial(Readiness, status)) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        assert health.ready(server.server_port) is healthy
        ended(thread)


def test_a_container_whose_port_is_closed_is_not_healthy():
    assert not health.ready(free_ports(1)[0])


def site():
    return [one for one in sys.path if one.endswith("site-packages")]


def test_the_sbom_lists_every_python_package_once_with_its_version():
    listed = [(one["name"], one["version"]) for one in sbom.python_packages(site())]
    assert sorted(listed) == sorted((one.metadata["Name"], one.version) for one in distributions(path=site()))
    assert ("onnxruntime", "1.32.0") in listed


@pytest.mark.skipif(not shutil.which("dpkg-query"), reason="is no Debian: there dpkg-query is the oracle")
def test_the_sbom_lists_every_debian_package_as_dpkg_does():
    words = ["dpkg-query", "--show", "--showformat=${db:Status-Abbrev}|${Package}|${Version}\n"]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    installed = sorted(tuple(line.split("|")[1:]) for line in said if line.startswith("ii "))
    listed = sorted((one["name"], one["version"]) for one in sbom.debian_packages(sbom.DPKG))
    assert listed == installed


def test_the_sbom_names_the_release_by_the_digests_of_its_files_and_signature(publish, home, tmp_path):
    made = publish()
    key = tmp_path / "key.pem"
    key.write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    (unsigned,) = sbom.releases(home / "models")
    store.sign(made.tag, key)
    (signed,) = sbom.releases(home / "models")
    assert signed["bom-ref"] == made.tag and signed["hashes"][0]["content"] == made.digest
    files = {one["name"]: one["hashes"][0]["content"] for one in signed["components"]}
    assert set(files) - {one["name"] for one in unsigned["components"]} == {"model.sig"}
    for name, digest in files.items():
        assert hashlib.sha256((made.path / name).read_bytes()).hexdigest() == digest


def test_equal_images_give_equal_documents_whose_references_are_unique(publish, home):
    publish()
    made = [sbom.document([*sbom.python_packages(site())], [*sbom.releases(home / "models")]) for _ in range(2)]
    assert json.dumps(made[0]) == json.dumps(made[1])
    references = [one["bom-ref"] for one in made[0]["components"]]
    assert len(set(references)) == len(references) == len(made[0]["dependencies"][0]["dependsOn"])
    assert made[0]["bomFormat"] == "CycloneDX" and made[0]["specVersion"] == "1.6"


def test_the_sbom_is_written_by_the_standard_library_alone(tmp_path):
    out = tmp_path / "sbom.json"
    subprocess.run([sys.executable, "-I", "-S", str(Path(sbom.__file__)), str(out)], check=True)
    assert json.loads(out.read_text())["metadata"]["component"]["type"] == "container"
