"""What runs on each change is what `make` runs, by names that exist and with no more rights than it needs."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.fixture(scope="module")
def workflow():
    return yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())


def commands(job):
    return [step["run"] for step in job["steps"] if "run" in step]


def test_every_job_runs_make_targets_that_exist(workflow):
    for name, job in workflow["jobs"].items():
        asked = re.findall(r"\bmake ([a-z-]+)", "\n".join(commands(job)))
        assert asked and set(asked) <= TARGETS, name
    assert commands(workflow["jobs"]["test"]) == ["make test"] and commands(workflow["jobs"]["lint"]) == ["make lint"]


def test_a_release_is_built_and_signed_only_after_tests_and_lint_and_from_a_tag(workflow):
    image = workflow["jobs"]["image"]
    assert set(image["needs"]) == {"lint", "test"} and image["if"] == "startsWith(github.ref, 'refs/tags/v')"
    steps = "\n".join(commands(image))
    places = [steps.index(word) for word in ("make image", "/livez", "docker push", "cosign sign")]
    assert places == sorted(places)  # what is signed was built here, and was started


def test_the_images_of_a_release_are_those_that_the_manifests_ask_for(workflow):
    steps = "\n".join(commands(workflow["jobs"]["image"]))
    named = dict(re.findall(r'"(\w+)=\$owner/([\w:$-]+)" >> "\$GITHUB_ENV"', steps))
    made = set(re.findall(r'(?:--image |--tag ")\$(\w+)', steps))
    started, pushed = (set(re.findall(r"\$(\w+)", found)) for found in re.findall(r"for image in (.*); do", steps))
    assert made == pushed == named.keys() and started < pushed
    kustomizations = (ROOT / "deploy" / "kubernetes").rglob("kustomization.yaml")
    asked = {
        f"{image['newName'].removeprefix('registry.example.com/')}:{image['newTag']}"
        for path in kustomizations
        for image in yaml.safe_load(path.read_text()).get("images", [])
    }
    version = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]
    assert {name.replace("$version", version) for name in named.values()} == asked
    assert 'owner="${OWNER,,}"' in steps  # a registry takes small letters alone


def test_only_the_job_that_signs_may_write_and_nothing_a_stranger_wrote_reaches_a_shell(workflow):
    assert workflow["permissions"] == {"contents": "read"}
    assert "pull_request_target" not in workflow[True]  # YAML reads `on` as true
    for name, job in workflow["jobs"].items():
        writes = {right for right, level in job.get("permissions", {}).items() if level == "write"}
        assert writes == ({"packages", "id-token"} if name == "image" else set())
        assert job["timeout-minutes"] <= 60
        assert not any("${{" in command for command in commands(job)), name
        assert all(re.search(r"@[0-9a-f]{40}$", step["uses"]) for step in job["steps"] if "uses" in step)


def test_pre_commit_runs_the_checks_of_make_lint():
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    lint = (ROOT / "Makefile").read_text().split("\nlint: setup\n")[1].split("\n\n")[0]
    entries = " ".join(hook["entry"] for hook in local["hooks"]).replace("--force-exclude", "")
    for line in lint.splitlines():
        program = line.strip().removeprefix("$(BIN)/").removesuffix(" .")
        assert program in entries, program


def test_pre_commit_looks_at_the_generated_files_when_what_they_are_made_of_changes():
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    (generated,) = (hook["files"] for hook in local["hooks"] if hook["id"] == "generated")
    made_of = ("grafana/rules.py", "deploy/objects.py", "monitoring/metrics.py", "docs/metrics.md")
    assert all(re.search(generated, path) and (ROOT / path).exists() for path in made_of)


def test_every_test_that_the_security_page_names_exists():
    named = re.findall(r"`((?:tests|constraints)[\w/.]*)`", (ROOT / "SECURITY.md").read_text())
    assert len(named) > 8 and all((ROOT / path).exists() for path in named)
