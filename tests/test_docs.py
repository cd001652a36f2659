"""The documents say what the code does: commands, files, variables and versions."""

import dataclasses
import re
import tomllib
from pathlib import Path

import pytest

import vigil
from serving import protocol
from serving.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
VERBS = (
    "init", "explore", "train", "crossval", "search", "models", "show", "promote", "rollback", "history", "verify",
    "sign", "pack", "unpack", "gc", "serve", "build", "watch", "labels", "report", "keys", "challenge", "verdict",
    "backtest", "log", "status", "drill",
)  # fmt: skip
FLOORS = {
    "bentoml": (1, 4, 39), "onnx": (1, 22), "torch": (2, 10), "python-multipart": (0, 0, 27), "starlette": (1, 0, 1),
}  # fmt: skip


def _commands():
    return [line.strip() for line in README.splitlines() if re.match(r"\s*vigil [a-z]", line)]


@pytest.mark.parametrize("line", _commands())
def test_every_command_in_the_readme_is_one_the_parser_takes(line):
    words = re.split(r"\s+#|\s+&&", line)[0]
    vigil.parser().parse_args([w.strip('"') for w in re.findall(r'"[^"]*"|\S+', words)][1:])


def test_the_readme_shows_the_daily_verbs():
    shown = {line.split()[1] for line in _commands()}
    assert shown >= set(VERBS) - {"serve"}


def test_every_file_and_folder_the_documents_link_exists():
    pages = ("README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/serving.md", "docs/log.md", "grafana/README.md",
             "deploy/README.md", "deploy/image/README.md")  # fmt: skip
    for document in (ROOT / page for page in pages):
        for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
            known = target.startswith("https://") or (document.parent / target).exists()
            assert known, f"{document}: {target}"


def test_every_benchmark_and_test_the_readme_names_exists():
    rooms = "tests|benchmarks|grafana|demo|training|deploy|docs"
    for path in re.findall(rf"`((?:{rooms})/[\w/]+\.(?:py|json|toml|yaml|md))`", README):
        assert (ROOT / path).exists(), path


def test_the_readme_lists_every_variable_of_the_service():
    for field in dataclasses.fields(Settings):
        assert f"VIGIL_{field.name.upper()}" in README, field.name


def test_the_readme_has_no_placeholder_left():
    assert "@@" not in README


def test_the_pinned_versions_are_above_the_floors_and_carry_no_address():
    text = (ROOT / "constraints.txt").read_text()
    pins = dict(line.split("==") for line in text.splitlines() if "==" in line)
    for package, floor in FLOORS.items():
        assert tuple(int(p) for p in pins[package].split(".")[: len(floor)]) >= floor, package
    assert pins["torch"] == "2.13.0"
    assert "://" not in text and " @ " not in text


def test_every_dependency_of_the_project_is_pinned():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *(r for name, extra in extras.items() if name != "gpu" for r in extra)]
    pins = {line.split("==")[0].lower() for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    names = {re.match(r"[A-Za-z0-9._-]+", requirement).group().lower() for requirement in asked} - {"vigil"}
    assert {name.replace("_", "-") for name in names} <= {pin.replace("_", "-") for pin in pins}


def test_the_bento_asks_for_run_time_packages_only():
    text = (ROOT / "deploy/image/requirements.txt").read_text()
    packages = re.findall(r"^([a-z0-9-]+)==", text, flags=re.M)
    assert {"bentoml", "onnxruntime", "numpy", "prometheus-client"} <= set(packages)
    assert not {"torch", "pandas", "scikit-learn", "evidently", "matplotlib"} & set(packages)


def test_the_service_tells_the_version_of_the_project():
    said = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert said == protocol.VERSION
    assert f"## {said} (" in (ROOT / "CHANGELOG.md").read_text()
