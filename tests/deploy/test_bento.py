"""What is inside a Bento: these files, these packages at these versions, and the release it names."""

import hashlib
import json
import os
import re
import subprocess
import sys
import tomllib
import warnings
from importlib.metadata import requires
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tiny_release import make_draft, make_files

import vigil
from deploy.image import lock
from registry import aliases, store

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("registry", "serving", "monitoring")
PLAIN = (
    "service.py", "vigil.py", "bentofile.yaml",
    *(f"{room}/{name}.py" for room in ("drill", "oncall") for name in ("__init__", "verbs")),  # for `vigil --help`
    *(f"deploy/image/{name}" for name in ("health.py", "sbom.py", "vigil.sh", "requirements.txt")),
)  # fmt: skip
CPU, GPU = (lock.pins(lock.HERE / one.file) for one in lock.LOCKS)


@pytest.fixture(scope="module")
def built(place):
    """Return the folder of a Bento that `vigil build` made of the champion, and the champion."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(place))
        made = store.publish(make_draft(), make_files(place / "files"))
        aliases.promote(made.tag, "first")
        command = [sys.executable, "-m", "vigil", "build", "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=os.environ)
    assert done.stderr == ""  # also no warning of BentoML's about the Containerfile
    said = json.loads(done.stdout)
    assert said["model_tag"] == made.tag and said["model_digest"] == made.digest
    return place / "bentos" / said["bento"].replace(":", "/"), made


def test_a_bento_holds_the_run_time_files_and_nothing_else(built):
    source = built[0] / "src"
    held = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    rooms = {str(path.relative_to(ROOT)) for room in ROOMS for path in (ROOT / room).rglob("*.py")}
    # What the alerts link to: the monitor shows them.
    runbooks = {str(path.relative_to(ROOT)) for path in (ROOT / "grafana/runbooks").glob("*.md")}
    assert len(runbooks) > 20 and held == {*rooms, *runbooks, *PLAIN}


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (["--help"], 0, "rollback"),
        (["models"], 0, "no releases in"),
        (["rollback", "--why", "x"], 2, "vigil: no model has a champion"),
        (["demo"], 2, "vigil: a Bento holds no demo"),
        (["status"], 2, "vigil: a Bento holds no oncall.status; run this verb in the repository"),
        (["drill"], 2, "vigil: a Bento holds no drill.run; run this verb in the repository"),
    ],
)
def test_the_vigil_of_a_bento_has_what_its_verbs_need_or_says_so(built, home, words, status, said):
    # -S: without site-packages no installed copy of the project stands in for what the Bento lacks.
    site = next(one for one in sys.path if one.endswith("site-packages"))
    code = f"import sys; sys.path += [{str(built[0] / 'src')!r}, {site!r}]; import vigil; sys.exit(vigil.main())"
    command = [sys.executable, "-I", "-S", "-c", code, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == status and said in done.stdout + done.stderr


def test_a_bento_that_follows_carries_no_release_and_says_so_on_its_image(built, monkeypatch, place, capfd):
    monkeypatch.setenv("BENTOML_HOME", str(place))
    assert vigil.main(["build", "--follow", "--json"]) == 0
    said = json.loads(capfd.readouterr().out)
    folder = place / "bentos" / said["bento"].replace(":", "/")
    assert yaml.safe_load((folder / "bento.yaml").read_text())["services"][0]["models"] == []
    assert 'vigil.model.tag=""' in (folder / "env/docker/Dockerfile").read_text()
    assert vigil.main(["build", "tiny:20261124-110000-00000000", "--follow"]) == 2


def test_a_bento_names_its_release_by_exact_tag_and_its_image_is_labelled_with_tag_and_digest(built):
    folder, made = built
    said = yaml.safe_load((folder / "bento.yaml").read_text())
    assert [one["tag"] for one in said["services"][0]["models"]] == [made.tag]
    image = (folder / "env/docker/Dockerfile").read_text()
    assert f'vigil.model.tag="{made.tag}"' in image and f'vigil.model.digest="{made.digest}"' in image
    assert made.digest == hashlib.sha256((made.path / "manifest.json").read_bytes()).hexdigest()


def test_nothing_in_a_bento_names_a_package_index(built):
    for path in [*(built[0] / "env").rglob("*"), *(ROOT / "deploy" / "image").glob("requirements*.txt")]:
        if path.is_file() and path.name not in ("entrypoint.sh", "install.sh"):
            assert not re.search(r"https?://|--(extra-)?index-url|--find-links|--trusted-host", path.read_text()), path


def test_the_files_of_the_two_bentos_differ_in_their_lock_alone():
    one, other = ((ROOT / name).read_text().split("\n", 1)[1] for name in ("bentofile.yaml", "bentofile.gpu.yaml"))
    assert one.count("requirements.txt") == 2
    assert other == one.replace("requirements.txt", "requirements.gpu.txt")
    assert "cuda_version" not in other


def test_every_pin_is_the_one_in_constraints_and_has_a_hash_for_both_processors():
    fixed = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if not line.startswith("#"):
            name, _, version = line.partition("==")
            fixed[canonicalize_name(name)] = version
    assert {name: pin.version for name, pin in CPU.items()} == {name: fixed[name] for name in CPU}
    assert all(pin.hashes for pin in CPU.values())
    assert len(CPU["numpy"].hashes) == len(CPU["onnxruntime"].hashes) == 2


def test_the_lock_is_what_the_service_asks_for_and_what_that_asks_for():
    said = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*said["dependencies"], *said["optional-dependencies"]["cpu"], *said["optional-dependencies"]["sign"]]
    seen, left = set(), [Requirement(one) for one in wanted]
    while left:
        asked = left.pop()
        here = (canonicalize_name(asked.name), tuple(sorted(asked.extras)))
        extras = ("", *asked.extras)
        if here in seen or asked.marker and not asked.marker.evaluate({"extra": ""}):
            continue
        seen.add(here)
        for line in requires(asked.name) or []:
            need = Requirement(line)
            if need.marker is None or any(need.marker.evaluate({"extra": one}) for one in extras):
                need.marker = None
                left.append(need)
    assert {name for name, _ in seen} - set(lock.LEFT_OUT) == set(CPU)


def test_the_gpu_lock_is_the_other_one_with_another_onnxruntime_and_the_libraries_it_needs():
    plain = {name: pin.version for name, pin in CPU.items() if name != "onnxruntime"}
    assert plain == {name: GPU[name].version for name in plain}
    more = set(GPU) - set(plain)
    assert "onnxruntime-gpu" in more and "onnxruntime" not in GPU
    assert {"nvidia-cublas", "nvidia-cudnn-cu13", "nvidia-cuda-runtime"} < more
    assert all(name.startswith("nvidia-") for name in more - {"onnxruntime-gpu"})


def test_a_lock_that_is_read_and_written_stays_as_it_is():
    for one, pins in zip(lock.LOCKS, (CPU, GPU), strict=True):
        assert lock.text(pins) == (lock.HERE / one.file).read_text()


def rendered(tag):
    """Return the Containerfile for a release called `tag`."""
    with warnings.catch_warnings():  # deprecations among BentoML's own dependencies
        warnings.simplefilter("ignore", DeprecationWarning)
        from bentoml._internal.bento.build_config import CondaOptions, DockerOptions
        from bentoml._internal.container.generate import generate_containerfile
    docker = DockerOptions(dockerfile_template="deploy/image/Containerfile.j2", env={"MODEL_TAG": tag}).with_defaults()
    return generate_containerfile(docker, str(ROOT), conda=CondaOptions(), bento_fs=ROOT)


def test_text_of_a_user_reaches_a_label_of_the_image_without_what_could_end_it(monkeypatch):
    monkeypatch.chdir(ROOT)
    plain, hostile = (rendered(tag).splitlines() for tag in ("tiny:1", 'x"\nRUN touch /owned\nLABEL a="$(id)`id`\\\n'))
    assert len(plain) == len(hostile)
    changed = [other for one, other in zip(plain, hostile, strict=True) if one != other]
    assert len(changed) == 2 and all(line.count('"') == 2 for line in changed)
    assert all(re.search(r'"x[a-zA-Z]+:?[a-z]*"', line) for line in changed)


def test_the_last_stage_installs_nothing_and_leaves_root(monkeypatch):
    monkeypatch.chdir(ROOT)
    text = rendered("tiny:1")
    stages = re.split(r"^FROM ", text, flags=re.M)[1:]
    assert len(stages) == 3 and stages[2].startswith("runtime\n")
    assert not re.search(r"apt-get|\bpip\b|curl|wget|gcc|build-essential|\bgit\b", stages[2])
    assert "USER 10001:10001" in stages[2] and "HEALTHCHECK" in stages[2] and "ADD " not in text
    assert re.search(r"^ARG BASE_IMAGE=\S+:\S*\d{8}\S*$", text, flags=re.M)
