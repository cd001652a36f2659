import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import yaml

from grafana import build, rules
from grafana.config import Addresses
from grafana.profile import DEMO, PRODUCTION, PROFILES
from tests.grafana.conftest import program


@pytest.fixture(params=PROFILES.values(), ids=list(PROFILES))
def written(request, tmp_path):
    build.write(request.param, tmp_path, Addresses())
    return tmp_path


def test_the_files_in_the_repository_are_those_the_code_writes(grafana_folder):
    assert build.differing(build.files(PRODUCTION), grafana_folder) == []


def test_check_names_what_is_changed_missing_or_left_over(tmp_path, capsys):
    build.write(PRODUCTION, tmp_path, Addresses())
    assert build.main(["--check", "--out", str(tmp_path)]) == 0
    (tmp_path / "prometheus/rules/slo.yml").write_text("groups: []\n")
    (tmp_path / "dashboards/oncall.json").unlink()
    (tmp_path / "prometheus/rules/old.yml").write_text("groups: []\n")
    capsys.readouterr()
    assert build.main(["--check", "--out", str(tmp_path)]) == 1
    named = capsys.readouterr().err.split()
    stale = ["dashboards/oncall.json", "prometheus/rules/old.yml", "prometheus/rules/slo.yml"]
    assert [word for word in named if "/" in word and not word.endswith("build.py`:")] == stale


def test_build_runs_as_a_script_from_the_root_of_the_repository(grafana_folder, tmp_path):
    command = [sys.executable, "-W", "error", "grafana/build.py", "--profile", "demo", "--out", str(tmp_path)]
    command += ["--target", "127.0.0.1:1", "--target", "127.0.0.1:2", "--webhook", "http://127.0.0.1:3/a/"]
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    subprocess.run(command, cwd=grafana_folder.parent, check=True, env=environment)
    config = yaml.safe_load((tmp_path / "prometheus/prometheus.yml").read_text())
    jobs = {job["job_name"]: job["static_configs"][0]["targets"] for job in config["scrape_configs"]}
    assert jobs["vigil"] == ["127.0.0.1:1", "127.0.0.1:2"]
    assert config["global"]["scrape_interval"] == "1s"
    receivers = yaml.safe_load((tmp_path / "alertmanager/alertmanager.yml").read_text())["receivers"]
    urls = {receiver["name"]: receiver["webhook_configs"][0]["url"] for receiver in receivers}
    assert urls == {name: f"http://127.0.0.1:3/a/{name}" for name in ("page", "ticket", "info", "deadman")}


def test_promtool_accepts_configuration_and_rules(written, run):
    done = run("promtool", "check", "config", written / "prometheus/prometheus.yml")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("rules found") == 6


def test_promtool_finds_no_two_rules_alike(written, run):
    places = sorted((written / "prometheus/rules").glob("*.yml"))
    done = run("promtool", "check", "rules", "--lint=duplicate-rules", "--lint-fatal", *places)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_generated_promtool_tests_pass(grafana_folder, run):
    places = sorted((grafana_folder / "prometheus/tests").glob("*.yml"))
    with ThreadPoolExecutor(2) as pool:
        for done in pool.map(lambda place: run("promtool", "test", "rules", place), places):
            assert done.returncode == 0, done.stdout + done.stderr
            assert done.stdout.count("SUCCESS") == 1


def test_amtool_accepts_the_routes(written, run):
    done = run("amtool", "check-config", written / "alertmanager/alertmanager.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_goes_where_its_severity_says(grafana_folder, run):
    place = grafana_folder / "alertmanager/alertmanager.yml"
    receivers = {"critical": "page", "warning": "ticket", "info": "info", "none": "deadman"}
    found = {
        (alert.name, alert.severity): run(
            "amtool",
            *("config", "routes", "test", f"--config.file={place}"),
            *(f"alertname={alert.name}", f"severity={alert.severity}", f"component={alert.component}", "model=m"),
        ).stdout.strip()
        for alert in rules.alerts(PRODUCTION)
    }
    assert found == {key: receivers[key[1]] for key in found}


def test_the_data_source_knows_the_scrape_interval():
    for profile in (PRODUCTION, DEMO):
        texts = build.files(profile)
        source = yaml.safe_load(texts["provisioning/datasources/vigil.yaml"])["datasources"][0]
        config = yaml.safe_load(texts["prometheus/prometheus.yml"])
        assert source["jsonData"]["timeInterval"] == config["global"]["scrape_interval"]


def test_alerts_that_an_absence_mutes_exist():
    names = {alert.name for alert in rules.alerts(PRODUCTION)}
    routes = yaml.safe_load(build.files(PRODUCTION)["alertmanager/alertmanager.yml"])
    for rule in routes["inhibit_rules"]:
        for matcher in rule["source_matchers"] + rule["target_matchers"]:
            if matcher.startswith("alertname"):
                assert set(matcher.split('"')[1].split("|")) <= names


def test_a_missing_program_fails_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(pytest.fail.Exception, match="promtool is not installed; run: apt-get install .* prometheus "):
        program("promtool")
