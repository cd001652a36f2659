import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import yaml

from grafana import build, config, rules
from grafana.config import Addresses
from grafana.profile import DEMO, PRODUCTION, PROFILES
from tests.grafana.conftest import program


@pytest.fixture(params=PROFILES.values(), ids=list(PROFILES))
def written(request, tmp_path):
    build.write(request.param, tmp_path, Addresses())
    return tmp_path


def test_the_files_in_the_repository_are_those_the_code_writes(grafana_folder):
    assert build.differing(build.files(PRODUCTION), grafana_folder) == []


def test_the_next_command_names_the_file_that_was_written(tmp_path, capsys):
    assert build.main(["--out", str(tmp_path)]) == 0
    named = capsys.readouterr().out.split("promtool check config ")[1].strip()
    assert Path(named) == tmp_path / "prometheus" / "prometheus.yml" and Path(named).is_file()


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


def test_amtool_renders_the_text_of_a_notification(grafana_folder, run, tmp_path):
    told = {"summary": "A.", "description": "B.", "runbook_url": "http://r/A.md", "dashboard_url": "/d/x"}
    back = {"live": "m:v2", "previous": "m:v1", "rollback": "vigil rollback --model m --why A"}
    when = {"StartsAt": "2026-11-26T03:00:00Z", "EndsAt": "2026-11-26T03:12:30Z"}
    alerts = [
        {"Status": "firing", "Annotations": told | back, **when},
        {"Status": "resolved", "Annotations": told, **when},
    ]
    labels = {"alertname": "A", "severity": "warning", "model": "m"}
    (tmp_path / "data.json").write_text(json.dumps({"Status": "firing", "CommonLabels": labels, "Alerts": alerts}))
    done = run(
        "amtool", "template", "render", f"--template.glob={grafana_folder}/alertmanager/vigil.tmpl",
        f"--template.data={tmp_path}/data.json",
        '--template.text={{ template "vigil.title" . }}\n{{ template "vigil.text" . }}',
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.replace("\\n", "\n").splitlines() == [
        "[warning] A of m",
        "A.", "B.", "Live: m:v2", "Before: m:v1", "To go back: vigil rollback --model m --why A",
        "Since: 2026-11-26 03:00:00 UTC", "Runbook: http://r/A.md", "Dashboard: /d/x", "",
        "A.", "B.", "Since: 2026-11-26 03:00:00 UTC, over since 03:12:30 UTC",
        "Runbook: http://r/A.md", "Dashboard: /d/x",
    ]  # fmt: skip


def test_a_chat_is_told_pages_and_tickets_by_the_file_that_holds_its_address():
    texts = build.files(PRODUCTION, Addresses(chat="/etc/alertmanager/chat"))
    receivers = yaml.safe_load(texts["alertmanager/alertmanager.yml"])["receivers"]
    told = {one["name"]: [chat["api_url_file"] for chat in one.get("slack_configs", ())] for one in receivers}
    there = ["/etc/alertmanager/chat"]
    assert told == {"page": there, "ticket": there, "info": [], "deadman": []}


def test_a_key_for_metrics_is_named_by_its_file_and_shown_to_the_servers_alone(tmp_path):
    assert build.main(["--out", str(tmp_path), "--key", "/run/secrets/scrape"]) == 0
    config = yaml.safe_load((tmp_path / "prometheus/prometheus.yml").read_text())
    shown = {job["job_name"]: job.get("authorization") for job in config["scrape_configs"]}
    assert shown.pop("vigil") == {"credentials_file": "/run/secrets/scrape"} and not any(shown.values())


@pytest.mark.parametrize(
    ("option", "found", "accepted"),
    [
        ("--target", "http://127.0.0.1:3000", "HOST:PORT; leave out http://"),
        ("--target", "server", "HOST:PORT; leave out"),
        ("--monitor", "h:99999", "HOST:PORT; leave out"),
        ("--prometheus", "h:9090/x", "HOST:PORT; leave out"),
        ("--node-exporter", "a b:1", "HOST:PORT; leave out"),
        ("--webhook", "h:9099", "http(s)://HOST[:PORT][/PATH]; write it with http://"),
        ("--grafana", "grafana.example", "http(s)://HOST[:PORT][/PATH]; write it with http://"),
    ],
)
def test_an_address_that_is_none_is_refused_and_nothing_is_written(option, found, accepted, tmp_path, capsys):
    assert build.main(["--out", str(tmp_path / "made"), option, found]) == 2
    assert capsys.readouterr().err.startswith(f"{option}: found '{found}', accepted is {accepted}")
    assert not (tmp_path / "made").exists()


def test_addresses_may_be_names_ipv6_and_links_with_a_path(tmp_path):
    more = ["--target", "[::1]:3000", "--monitor", "vigil-monitor:9109", "--grafana", "https://g.example/x/"]
    assert build.main(["--out", str(tmp_path), *more]) == 0


def test_exporters_are_scraped_where_they_are_named():
    addresses = Addresses(("s:3000",), hosts=("h:9100",), gpus=("h:9400",), probe="p:9115")
    config = yaml.safe_load(build.files(PRODUCTION, addresses)["prometheus/prometheus.yml"])
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    assert jobs["vigil-host"]["static_configs"][0]["targets"] == ["h:9100"]
    assert jobs["vigil-gpu"]["static_configs"][0]["targets"] == ["h:9400"]
    assert jobs["vigil-probe"]["static_configs"][0]["targets"] == ["https://s:3000/livez"]
    assert jobs["vigil-probe"]["relabel_configs"][-1] == {"target_label": "__address__", "replacement": "p:9115"}
    plain = yaml.safe_load(build.files(PRODUCTION)["prometheus/prometheus.yml"])["scrape_configs"]
    assert {job["job_name"] for job in plain} == {"vigil", "vigil-monitor", "prometheus", "alertmanager"}


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


def test_pages_wait_less_than_tickets_and_one_dead_monitor_of_several_mutes_no_other():
    routes = yaml.safe_load(build.files(PRODUCTION)["alertmanager/alertmanager.yml"])
    (page,) = (one for one in routes["route"]["routes"] if one["receiver"] == "page")
    assert (page["group_wait"], routes["route"]["group_wait"]) == ("10s", "30s")
    (absent,) = (one for one in routes["inhibit_rules"] if "VigilMonitorAbsent" in str(one["source_matchers"]))
    assert 'instance=""' in absent["source_matchers"]


def test_a_missing_program_fails_with_the_command_that_installs_it(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(pytest.fail.Exception, match="promtool is not installed; run: apt-get install .* prometheus "):
        program("promtool")


def test_links_that_open_on_this_machine_alone_are_told_in_one_line_with_the_options(tmp_path, capsys):
    assert build.main(["--out", str(tmp_path)]) == 0
    (said,) = capsys.readouterr().err.splitlines()
    assert all(option in said for option in ("--grafana", "--runbook-base", "--reports", "--web.external-url"))
    there = ["--grafana", "https://g.example", "--monitor", "monitor:9109"]
    assert build.main(["--out", str(tmp_path), *there]) == 0
    assert capsys.readouterr().err == ""


def test_help_names_every_receiver_that_is_added_to_the_webhook(capsys):
    with pytest.raises(SystemExit):
        build.main(["--help"])
    said = capsys.readouterr().out
    assert all(f"/{name}" in said for name in config.RECEIVERS)
