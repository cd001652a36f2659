"""The parts of the container proof that need no container: what it looks for, what it hides, what it leaves."""

import hashlib
import io
import json
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from deploy.image.proof import contents, secrets, trial, workshop
from deploy.image.proof.workshop import Workshop
from registry.errors import StackError


def add(archive, name, content):
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    archive.addfile(entry, io.BytesIO(content))


def layer(files):
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in files.items():
            add(archive, name, content)
    return packed.getvalue()


@pytest.fixture
def image(tmp_path):
    """Return a function that makes a workshop whose podman saves an image of these layers and configuration."""

    def make(*layers, configuration=b"{}"):
        with tarfile.open(tmp_path / "saved", "w") as archive:
            add(archive, "config.json", configuration)
            for number, files in enumerate(layers):
                add(archive, f"{number}/layer.tar", layer(files))
        program = tmp_path / "podman"
        program.write_text(f'#!/bin/sh\ncp {tmp_path}/saved "$6"\n')
        program.chmod(0o755)
        return Workshop(tmp_path, {"PATH": f"{tmp_path}:/usr/bin:/bin"})

    return make


def test_a_secret_is_found_in_every_layer_and_in_the_configuration(image):
    whole = {"certificates": hashlib.sha256(b"bundle").hexdigest()}
    one = {"etc/pip.conf": b"[global]\n# mark-1\n"}
    shop = image(one, {"etc/pip.conf": b""}, {"ca.pem": b"bundle"}, configuration=b'{"Env": ["X=mark-1"]}')
    found = contents.holding(shop, "any", {"mark": b"mark-1"}, whole)
    assert found == ["config.json: mark", "etc/pip.conf: mark", "ca.pem: certificates"]
    assert contents.holding(image({"a": b"clean"}), "any", {"mark": b"mark-1"}, whole) == []


def test_a_compiler_or_an_installer_is_found_though_a_later_layer_hides_it(image):
    site = "app/venv/lib/python3.11/site-packages"
    shop = image({"usr/bin/gcc": b"x", f"{site}/pip": b""}, {"usr/bin/.wh.gcc": b"", "usr/share/git": b""})
    assert contents.unwanted(shop, "any") == ["usr/bin/gcc", f"{site}/pip"]
    assert contents.unwanted(image({"usr/bin/python3.11": b"x"}), "any") == []


def test_the_parts_of_an_image_add_up_to_all_of_it(image):
    site = "app/venv/lib/python3.11/site-packages"
    files = {
        "usr/bin/perl": 4, f"{site}/numpy/a.so": 2, f"{site}/numpy.libs/b.so": 1, f"{site}/rich/c.py": 3,
        f"{site}/rich/c.pyc": 1, "usr/lib/python3.11/os.py": 2, "app/bento/models/m/1/model.onnx": 1,
    }  # fmt: skip
    space = contents.space(image({name: bytes(size * 1_000_000) for name, size in files.items()}), "any")
    assert space["numpy"] == 3 and space["other packages"] == 3 and space["bytecode of packages"] == 1
    assert space["Debian"] == 4 and space["release"] == 1
    assert space["all"] == sum(files.values()) == sum(size for name, size in space.items() if name != "all")


def test_the_sbom_of_an_image_is_read_from_it(image):
    said = {"components": [{"bom-ref": "digits:1", "name": "digits"}]}
    shop = image({"app/sbom.cdx.json": json.dumps(said).encode()})
    assert contents.sbom(shop, "any") == {"digits:1": {"bom-ref": "digits:1", "name": "digits"}}
    assert contents.sbom(image({"app/other": b""}), "any") == {}


def test_each_secret_handed_to_a_build_carries_the_mark_that_is_looked_for(tmp_path):
    bundle, conf = tmp_path / "bundle.pem", tmp_path / "pip.conf"
    bundle.write_text("-----BEGIN CERTIFICATE-----\n")
    conf.write_text("[global]\nindex-url = somewhere\n")
    made = secrets.marked(Workshop(tmp_path, {}), str(conf), bundle)
    assert set(made.files) == {"ca", "pip_conf", "apt_conf"}
    for name, path in made.files.items():
        assert made.needles["the mark"] in path.read_bytes()
        assert made.whole[name] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert made.files["pip_conf"].read_text().startswith(conf.read_text())
    assert made.whole["certificates of this machine"] == hashlib.sha256(bundle.read_bytes()).hexdigest()


def test_a_workshop_keeps_its_own_store_and_is_gone_at_the_end(monkeypatch):
    monkeypatch.setenv("VIGIL_MODELS", "another")
    with workshop.opened() as shop:
        folder = shop.folder
        assert all(str(folder) in shop.environment[name] for name in ("BENTOML_HOME", "CONTAINERS_STORAGE_CONF"))
        assert "VIGIL_MODELS" not in shop.environment
        assert f'graphroot = "{folder}/graph"' in (folder / "storage.conf").read_text()
    assert not folder.exists() and workshop.mounted(folder) == []


def test_what_is_mounted_in_a_folder_is_found_and_what_is_beside_it_is_not(tmp_path, monkeypatch):
    table = tmp_path / "mounts"
    table.write_text("".join(f"overlay {place} overlay rw 0 0\n" for place in ("/a/graph/x", "/a", "/ab", "/a/graph")))
    monkeypatch.setattr(workshop, "MOUNTS", table)
    assert workshop.mounted(Path("/a")) == ["/a", "/a/graph", "/a/graph/x"]


def test_the_proof_names_the_programs_it_misses_and_the_command_that_brings_them(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(workshop.os, "geteuid", lambda: 0)
    with pytest.raises(StackError, match="apt-get install debootstrap podman buildah runc"):
        workshop.demand()


def test_a_program_that_fails_ends_the_proof(tmp_path):
    with pytest.raises(StackError, match="exit status 3"):
        Workshop(tmp_path, {"PATH": "/usr/bin:/bin"}).run("sh", "-c", "exit 3")
    with pytest.raises(subprocess.TimeoutExpired):
        Workshop(tmp_path, {"PATH": "/usr/bin:/bin"}).run("sleep", "5", timeout_s=0.05)


def test_a_service_that_ignores_sigterm_is_gone_at_the_end_with_its_workers():
    worker = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); signal.pause()"
    code = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {worker!r}])"
    ignored = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {code}"
    process = subprocess.Popen([sys.executable, "-c", ignored], stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout.readline() == b"up\n"
    trial._end(process, 0.1)
    assert process.returncode == -signal.SIGKILL
    assert process.stdout.read() == b""  # the end of the pipe: nobody holds it
    process.stdout.close()
