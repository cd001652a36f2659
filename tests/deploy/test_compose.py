"""The compose file says what the Compose Specification knows, names files that are there, and fits the scrapes."""

import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from deploy import build
from grafana import rules
from grafana.profile import PRODUCTION
from serving.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
# Keys of a service and of what is in it, of the Compose Specification: those that are used here.
KNOWN = {
    "": {
        "image", "build", "command", "user", "environment", "env_file", "secrets", "volumes", "tmpfs", "ports",
        "healthcheck", "stop_grace_period", "deploy", "read_only", "cap_drop", "cap_add", "security_opt", "restart",
        "logging", "profiles", "depends_on",
    },
    "build": {"context", "dockerfile"},
    "healthcheck": {"test", "interval", "timeout", "start_period", "retries"},
    "deploy": {"resources"},
    "logging": {"driver", "options"},
}  # fmt: skip
SECONDS = re.compile(r"\d+s")


def read(name):
    return yaml.safe_load((DEPLOY / name).read_text())


def services(name="compose.yaml"):
    return read(name)["services"]


@pytest.fixture(scope="module")
def both():
    """Return the services with the override of a GPU host laid over them, mapping by mapping."""

    def merged(low, high):
        if isinstance(low, dict) and isinstance(high, dict):
            return low | {key: merged(low.get(key), value) for key, value in high.items()}
        return high

    return merged(services(), services("compose.gpu.yaml"))


def test_the_generated_files_are_those_the_code_writes():
    assert build.main(["--check"]) == 0


def test_check_names_a_file_that_differs(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(build, "HERE", tmp_path)
    assert build.main([]) == 0 and build.main(["--check"]) == 0
    (tmp_path / "compose" / "alertmanager" / "alertmanager.yml").write_text("route: {}\n")
    assert build.main(["--check"]) == 1
    assert "compose/alertmanager/alertmanager.yml" in capsys.readouterr().err


def test_every_key_is_one_of_the_compose_specification(both):
    assert read("compose.yaml").keys() <= {"name", "services", "volumes", "secrets", "x-locked-down"}
    for name, service in both.items():
        assert service.keys() <= KNOWN[""], name
        for part in KNOWN.keys() - {""}:
            assert set(service.get(part, {})) <= KNOWN[part], f"{name}.{part}"


def test_every_service_is_pinned_limited_locked_down_and_looked_after(both):
    for name, service in both.items():
        image, limits = service["image"], service["deploy"]["resources"]["limits"]
        assert "${" in image or re.search(r":v?\d+\.\d+", image), name
        assert {"cpus", "memory"} <= limits.keys(), name
        assert service["cap_drop"] == ["ALL"] and "no-new-privileges:true" in service["security_opt"], name
        assert service.get("read_only") or name == "gpu-exporter", name
        check = service["healthcheck"]
        assert check["test"][0] in ("CMD", "CMD-SHELL") and SECONDS.fullmatch(check["interval"]), name


def test_only_this_host_reaches_a_published_port_and_no_two_are_the_same(both):
    published = [port.split(":") for service in both.values() for port in service.get("ports", [])]
    assert all(host == "127.0.0.1" for host, _, _ in published)
    assert len({port for _, port, _ in published}) == len(published) == 5


def test_every_path_and_volume_that_is_mounted_exists_and_every_secret_is_declared(both):
    declared = read("compose.yaml")
    for name, service in both.items():
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            if source.startswith((".", "/")):
                assert (DEPLOY / source).exists(), f"{name}: {volume}"
            else:
                assert source in declared["volumes"], f"{name}: {volume}"
        assert set(service.get("secrets", [])) <= declared["secrets"].keys(), name
        if "build" in service:
            assert (DEPLOY / service["build"]["context"] / service["build"]["dockerfile"]).is_file()
    used = {secret for service in both.values() for secret in service.get("secrets", [])}
    assert used == declared["secrets"].keys()
    readme = (DEPLOY / "README.md").read_text()
    assert all(str(secret["file"]).removeprefix("./") in readme for secret in declared["secrets"].values())


@pytest.mark.parametrize("name", ["prometheus.yml", "prometheus.gpu.yml"])
def test_every_scrape_is_of_a_service_at_a_port_that_it_listens_on(both, name):
    jobs = {job["job_name"]: job for job in read(f"compose/{name}")["scrape_configs"]}
    listens = {"vigil": 3000, "monitor": 9109, "prometheus": 9090, "alertmanager": 9093, "node-exporter": 9100}
    listens["gpu-exporter"] = 9400
    scraped = [t.split(":") for job in jobs.values() for one in job["static_configs"] for t in one["targets"]]
    assert all(listens[host] == int(port) and host in both for host, port in scraped)
    assert {host for host, _ in scraped} == listens.keys() - ({"gpu-exporter"} if name == "prometheus.yml" else set())
    key = jobs["vigil"]["authorization"]["credentials_file"]
    assert key.removeprefix("/run/secrets/") in both["prometheus"]["secrets"]
    assert all(jobs[host]["job_name"] == host for host in ("vigil", "vigil-monitor"))


def test_grafana_asks_the_prometheus_of_compose_for_dashboards_that_are_mounted(both):
    source = read("compose/provisioning/datasources/vigil.yaml")["datasources"][0]
    assert source["url"] == "http://prometheus:9090"
    folder = read("compose/provisioning/dashboards/vigil.yaml")["providers"][0]["options"]["path"]
    assert f"../grafana/dashboards:{folder}:ro" in both["grafana"]["volumes"]
    assert source["jsonData"]["timeInterval"] == f"{PRODUCTION.scrape_s}s"


def test_the_service_is_given_variables_that_it_knows_and_time_to_drain(both):
    known = {f"VIGIL_{name.upper()}" for name in Settings.__dataclass_fields__}
    said = both["vigil"]["environment"]
    assert {name for name in said if name.startswith("VIGIL_")} <= known
    assert float(said["VIGIL_LOG_KEEP_MB"]) > 0  # 0 is without end, and the disk is the host's
    takes_s = float(said["VIGIL_DRAIN_S"]) + float(said["VIGIL_GRACE_S"]) + 5
    assert float(both["vigil"]["stop_grace_period"].removesuffix("s")) > takes_s


def test_promtool_and_amtool_accept_what_is_mounted(tmp_path):
    for tool in ("promtool", "amtool"):
        if shutil.which(tool) is None:
            pytest.fail(f"{tool} is not installed; run: sh deploy/programs.sh")
    shutil.copytree(DEPLOY / "compose" / "rules", tmp_path / "rules")
    for name in ("prometheus.yml", "prometheus.gpu.yml"):
        text = (DEPLOY / "compose" / name).read_text().replace("/run/secrets/", f"{tmp_path}/")
        (tmp_path / name).write_text(text)
        (tmp_path / "vigil_metrics_key").write_text("key")
        done = subprocess.run(["promtool", "check", "config", tmp_path / name], capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    shutil.copytree(DEPLOY / "compose" / "alertmanager", tmp_path / "alertmanager")
    routes = tmp_path / "alertmanager" / "alertmanager.yml"
    said = subprocess.run(["amtool", "--version"], capture_output=True, text=True)
    if re.search(
        r"version 0\.(\d|1\d|2[0-5])\.", said.stdout + said.stderr
    ):  # url_file came with 0.26; compose has 0.27
        routes.write_text(re.sub(r"url_file: .*/(webhook_\w+)", r"url: http://pager/\1", routes.read_text()))
    done = subprocess.run(["amtool", "check-config", routes], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_where_alerts_go_is_a_secret_of_each_receiver_and_in_no_tracked_file(both):
    receivers = read("compose/alertmanager/alertmanager.yml")["receivers"]
    files = {one["name"]: hook["url_file"] for one in receivers for hook in one["webhook_configs"]}
    assert files == {name: f"/run/secrets/webhook_{name}" for name in ("page", "ticket", "info", "deadman")}
    assert {path.removeprefix("/run/secrets/") for path in files.values()} == set(both["alertmanager"]["secrets"])
    assert not any("url" in hook for one in receivers for hook in one["webhook_configs"])


def test_a_key_file_that_is_replaced_is_seen_by_the_service_and_is_its_own(both):
    writes, reads = both["monitor"], both["vigil"]
    place = Path(reads["environment"]["VIGIL_KEYS"])
    assert writes["environment"]["VIGIL_KEYS"] == str(place) and writes["user"] == reads["user"]
    assert f"keys:{place.parent}:ro" in reads["volumes"] and f"keys:{place.parent}" in writes["volumes"]
    text = (DEPLOY / "monitor" / "Containerfile").read_text()
    assert re.search(rf"install -d -o 10001 -g 10001 -m 700 .*{place.parent}$", text, re.MULTILINE)


def test_the_place_of_a_replica_is_said_by_its_owner_and_never_a_folder_that_is_not_mounted(both):
    assert both["monitor"]["environment"]["VIGIL_RELEASES"] == "${VIGIL_RELEASES:-}"  # a rollback typed there is sent
    assert "${VIGIL_RELEASES:-}" in both["sync"]["command"] and not any("file:" in w for w in both["sync"]["command"])


def test_verbs_in_the_monitor_ask_the_prometheus_and_the_alertmanager_of_compose(both):
    for variable, name, port in (("PROMETHEUS", "prometheus", 9090), ("ALERTMANAGER", "alertmanager", 9093)):
        assert both["monitor"]["environment"][f"VIGIL_{variable}"] == f"http://{name}:{port}" and name in both


def test_every_link_of_an_alert_leads_to_a_port_that_is_published(both):
    published = {":".join(port.split(":")[:2]) for one in both.values() for port in one.get("ports", [])}
    for name in rules.rule_files(PRODUCTION):
        for group in read(f"compose/rules/{name}.yml")["groups"]:
            for rule in group["rules"]:
                links = {k: v for k, v in rule.get("annotations", {}).items() if k.endswith("_url")}
                assert "alert" not in rule or {"runbook_url", "dashboard_url"} <= links.keys()
                for link in links.values():
                    assert re.match(r"http://([\d.:]+)/", link)[1] in published, link
    assert "./compose/rules:/etc/prometheus/rules:ro" in both["prometheus"]["volumes"]


def test_the_tools_image_holds_every_file_that_the_monitor_and_sync_load(tmp_path):
    text = (DEPLOY / "monitor" / "Containerfile").read_text()
    for source, target in re.findall(r"^COPY (\S+) /app/(\S*)$", text.split("\nFROM")[2], re.MULTILINE):
        place = ROOT / source
        (shutil.copytree if place.is_dir() else shutil.copy)(place, tmp_path / (target or source))
    code = "import monitoring.monitor.watch, monitoring.reports.report, registry.share, runpy, sys\n"
    code += "sys.argv = ['vigil', 'watch', '--help']\nrunpy.run_path('vigil.py', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, env={})
    assert done.returncode == 0 and "--window-s" in done.stdout, done.stderr


def test_the_tools_image_asks_for_extras_and_files_that_exist():
    text = (DEPLOY / "monitor" / "Containerfile").read_text()
    project = (ROOT / "pyproject.toml").read_text()
    for extra in {name for found in re.findall(r"EXTRAS=(\S+)", text) for name in found.split(",")}:
        assert re.search(rf"^{extra} = \[", project, re.MULTILINE), extra
    first = text.split("\nFROM")[1]
    sources = [word for line in re.findall(r"^COPY (.*) /build/", first, re.MULTILINE) for word in line.split()]
    assert sources and all((ROOT / source).exists() for source in sources)


def test_keys_are_written_to_files_that_nobody_else_can_read():
    text = (DEPLOY / "README.md").read_text()
    blocks = [block for block in text.split("```")[1::2] if "keys add" in block]
    assert len(blocks) == 2 and all(block.index("umask 077") < block.index("> deploy/secrets/") for block in blocks)
    assert "docker-compose-plugin" in text


@pytest.mark.parametrize("there", [False, True], ids=["made now", "open to all until now"])
def test_the_folder_of_the_keys_lets_nobody_else_in_also_where_it_was_there_before(tmp_path, there):
    text = (DEPLOY / "README.md").read_text()
    for n, block in enumerate(block for block in text.split("```")[1::2] if "keys add" in block):
        folder = tmp_path / str(n) / "deploy" / "secrets"
        folder.mkdir(parents=True, mode=0o755)
        if not there:
            folder.rmdir()
        (first,) = [line for line in block.splitlines() if "mkdir" in line]
        subprocess.run(["bash", "-c", first], cwd=tmp_path / str(n), check=True)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700, first
