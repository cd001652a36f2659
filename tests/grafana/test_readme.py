"""grafana/README.md names files, paths and options that exist and fit one another."""

import re
import shlex

import pytest
import yaml

from grafana import build
from grafana.boards.generated import dashboards
from grafana.profile import PRODUCTION
from grafana.statement import MONITORS

CONFIG_MAP_BYTES = 1024**2


@pytest.fixture(scope="module")
def text(grafana_folder):
    return (grafana_folder / "README.md").read_text()


def blocks(text, language):
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def commands(text):
    return [shlex.split(line) for block in blocks(text, "sh") for line in block.splitlines()]


def test_every_dashboard_is_in_the_table_by_its_title(text):
    listed = dict(re.findall(r"^\| ([\w ]+) \| `dashboards/(\w+)\.json` \|", text, re.MULTILINE))
    boards = dashboards(PRODUCTION, MONITORS)
    assert {name: f"Vigil / {title}" for title, name in listed.items()} == {n: b["title"] for n, b in boards.items()}


def test_every_file_that_is_named_exists(text, grafana_folder):
    root = grafana_folder.parent
    named = {word for words in commands(text) for word in words if word.startswith("grafana/")}
    named |= {word.split("=", 1)[1] for words in commands(text) for word in words if word.startswith("--from-file=")}
    named |= {f"grafana/{target}" for target in re.findall(r"\]\((?!http)([^)]+)\)", text)}
    assert len(named) >= 5
    assert [place for place in named if not (root / place).exists()] == []


def test_the_first_command_writes_what_it_says(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ((python, script, *options),) = [words for words in commands(text) if words[0] == "python"]
    assert build.main(options) == 0
    config = yaml.safe_load((tmp_path / "build/watch/prometheus/prometheus.yml").read_text())
    jobs = {job["job_name"]: job["static_configs"][0]["targets"] for job in config["scrape_configs"]}
    assert jobs["vigil"] == ["model-1:3000"] and jobs["vigil-monitor"] == ["monitor:9109"]
    assert jobs["vigil-host"] == ["model-1:9100"] and jobs["vigil-gpu"] == ["model-1:9400"]


def test_dashboards_are_mounted_where_their_provider_looks(text, grafana_folder):
    (block,) = blocks(text, "yaml")
    services = yaml.safe_load(block)["services"]
    mounts = dict(mount.split(":")[:2] for mount in services["grafana"]["volumes"])
    assert all((grafana_folder.parent / place).is_dir() for place in mounts)
    provider = yaml.safe_load((grafana_folder / "provisioning/dashboards/vigil.yaml").read_text())["providers"][0]
    assert mounts["./grafana/dashboards"] == provider["options"]["path"]
    copied = next(words for words in commands(text) if words[:2] == ["cp", "-r"])
    assert f"{copied[-1]}dashboards" == provider["options"]["path"]


def test_the_dashboards_fit_into_one_config_map(grafana_folder):
    assert sum(place.stat().st_size for place in (grafana_folder / "dashboards").glob("*.json")) < CONFIG_MAP_BYTES


def test_the_versions_that_are_named_are_those_that_are_pinned(text, grafana_folder):
    lint = (grafana_folder / "lint/package.json").read_text()
    drawn = (grafana_folder.parent / "demo/screenshot/package.json").read_text()
    assert "`@grafana/schema` 13.2.3" in text and '"@grafana/schema": "13.2.3"' in lint
    assert "`@grafana/ui` 13.2.2" in text and '"@grafana/ui": "13.2.2"' in drawn
    for package in (lint, drawn):
        assert "://" not in package
        assert not re.findall(r'"[\^~][\d.]+"', package)
