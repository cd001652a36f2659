"""Which Python set-up takes, on every version that the project promises."""

import os
import re
import shutil
import subprocess
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROMISED = ["3.11", "3.12", "3.13"]
INTERPRETER = """#!/bin/sh
case "$*" in
*print*) echo {minor} ;;
*"-m venv"*) rm -rf .venv; mkdir -p .venv/bin; cp "$0" .venv/bin/python
    echo "version = {minor}.9" > .venv/pyvenv.cfg ;;
*"pip install"*) echo {minor} >> installs; echo "$*" > words ;;
esac
"""


@pytest.fixture
def set_up(tmp_path):
    """Return a function that runs set-up with programs in the place of Python, and gives the version in .venv."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in ("constraints.txt", "pyproject.toml"):
        (tmp_path / name).touch()
    for minor, name in [("3.11", "python3"), ("3.12", "python3.12"), ("3.13", "python3.13")]:
        (tmp_path / name).write_text(INTERPRETER.format(minor=minor))
        (tmp_path / name).chmod(0o755)
    plain = {name: text for name, text in os.environ.items() if name not in ("PYTHON", "MAKEFLAGS", "MAKELEVEL")}

    def run(*arguments, stdout=None):
        environment = plain | {"PATH": f"{tmp_path}:{plain['PATH']}"}
        done = subprocess.run(["make", ".venv/.ready", *arguments], cwd=tmp_path, env=environment, stdout=stdout)
        held = re.search(r"version = (\d+\.\d+)", (tmp_path / ".venv" / "pyvenv.cfg").read_text())
        return done.returncode, held[1], (tmp_path / "installs").read_text().split()

    return run


def test_a_python_that_is_named_is_taken_also_where_a_venv_of_another_stands(set_up):
    assert set_up() == (0, "3.11", ["3.11"])
    assert set_up("PYTHON=python3.13") == (0, "3.13", ["3.11", "3.13"])
    assert set_up("PYTHON=python3.13") == (0, "3.13", ["3.11", "3.13"])  # the same again: nothing to do


def test_a_venv_keeps_its_python_when_none_is_named_and_the_pins_change(set_up, tmp_path):
    set_up("PYTHON=python3.12")
    assert set_up() == (0, "3.12", ["3.12"])
    later = (tmp_path / ".venv" / ".ready").stat().st_mtime + 60
    os.utime(tmp_path / "constraints.txt", (later, later))
    assert set_up() == (0, "3.12", ["3.12", "3.12"])


def test_a_python_that_is_named_and_absent_is_an_error_and_what_stands_stays(set_up):
    set_up()
    code, held, installs = set_up("PYTHON=python3.absent")
    assert code != 0 and (held, installs) == ("3.11", ["3.11"])


def test_set_up_says_each_step_with_how_long_it_takes_before_it_begins(set_up, capfd):
    set_up()
    said = [line for line in capfd.readouterr().out.splitlines() if line.startswith("set up")]
    steps = (r"set up, 1 of 3: .*seconds", r"set up, 2 of 3: .*1 GB to fetch.*minutes", r"set up: .* there after \d+ s")
    assert all(re.fullmatch(step, line) for step, line in zip(steps, said, strict=True)), said


@pytest.mark.parametrize("terminal", [True, False])
def test_pip_shows_its_progress_on_a_terminal_alone(set_up, tmp_path, terminal):
    ours, theirs = os.openpty()
    try:
        set_up(stdout=theirs if terminal else subprocess.DEVNULL)
    finally:
        os.close(ours)
        os.close(theirs)
    assert ("--quiet" in (tmp_path / "words").read_text()) is not terminal


def test_the_tests_run_on_every_python_that_the_project_promises():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">=3.11,<3.14"
    test = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())["jobs"]["test"]
    assert test["strategy"]["matrix"]["python"] == PROMISED and test["strategy"]["fail-fast"] is False
    (chosen,) = (step["with"]["python-version"] for step in test["steps"] if "python-version" in step.get("with", {}))
    assert chosen == "${{ matrix.python }}"


def needed(minor):
    """Return all packages that `vigil[dev]` brings on this Python, off Linux: there PyTorch brings no CUDA."""
    place = {"python_version": minor, "python_full_version": f"{minor}.0", "platform_system": "Darwin"}
    place["sys_platform"] = "darwin"
    seen, ahead = set(), [("vigil", ("dev",))]
    while ahead:
        name, extras = ahead.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        for asked in map(Requirement, metadata.requires(name) or []):
            if not asked.marker or any(asked.marker.evaluate(place | {"extra": extra}) for extra in ("", *extras)):
                ahead.append((canonicalize_name(asked.name), tuple(sorted(asked.extras))))
    return {name for name, _ in seen} - {"vigil"}


@pytest.mark.parametrize("minor", PROMISED)
def test_every_package_that_set_up_installs_has_its_pin(minor):
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert needed(minor) <= {canonicalize_name(line.split("==")[0]) for line in lines if "==" in line}
