"""The manifests are what Kubernetes knows, refer to what is there, and carry the rules and dashboards of grafana/."""

import functools
import json
import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import kubernetes_validate
import pytest
import yaml

from grafana import config, rules
from grafana.profile import PRODUCTION
from serving.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
OVERLAYS = ("overlays/cpu", "overlays/gpu", "overlays/monitoring", "training")
VERSION = "1.32"
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # in C, where that was built in
OPERATED = ("monitoring.coreos.com/v1", "keda.sh/v1alpha1")  # kinds that another program brings


@functools.cache
def render(overlay):
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed; run: curl -LO https://dl.k8s.io/release/v1.32.4/bin/linux/amd64/kubectl")
    done = subprocess.run(["kubectl", "kustomize", str(KUBERNETES / overlay)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return list(yaml.load_all(done.stdout, LOADER))


@pytest.fixture(scope="module", params=OVERLAYS)
def rendered(request):
    return render(request.param)


@pytest.fixture(scope="module")
def watched():
    return {(one["kind"], one["metadata"]["name"]): one for one in render("overlays/monitoring")}


def documents(folder):
    return [one for path in folder.glob("*.yaml") for one in yaml.safe_load_all(path.read_text()) if one]


def pods(objects):
    return [one["spec"]["template"]["spec"] for one in objects if one["kind"] in ("Deployment", "Job")]


def containers(pod):
    return [*pod.get("initContainers", []), *pod["containers"]]


def test_every_object_is_valid_by_the_strict_schema_of_its_kind(rendered):
    for one in rendered:
        if one["apiVersion"] not in OPERATED:
            kubernetes_validate.validate(one, VERSION, strict=True)


def test_the_schema_check_would_notice_a_wrong_field():
    (one,) = (d for d in documents(KUBERNETES / "base") if d["kind"] == "Deployment")
    one["spec"]["template"]["spec"]["containers"][0]["readOnlyFileSystem"] = True
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(one, VERSION, strict=True)


def test_every_file_of_a_folder_is_in_its_kustomization_and_the_other_way_round():
    for place in [KUBERNETES / "base", *(KUBERNETES / overlay for overlay in OVERLAYS)]:
        said = yaml.safe_load((place / "kustomization.yaml").read_text())
        patches = {patch["path"] for patch in said.get("patches", [])}
        named = {name for name in said["resources"] if name.endswith(".yaml")} | patches
        assert named == {path.name for path in place.glob("*.yaml")} - {"kustomization.yaml"}, place
        assert all((place / name).is_dir() for name in set(said["resources"]) - named), place


def test_every_container_is_locked_down_limited_and_has_an_image_of_a_version(rendered):
    for pod in pods(rendered):
        assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 10001
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert pod["automountServiceAccountToken"] is False and pod["enableServiceLinks"] is False
        for one in containers(pod):
            locked = one["securityContext"]
            assert locked["readOnlyRootFilesystem"] and not locked["allowPrivilegeEscalation"], one["name"]
            assert locked["capabilities"] == {"drop": ["ALL"]}
            assert "memory" in one["resources"]["limits"] and "cpu" in one["resources"]["requests"]
            assert re.fullmatch(r"registry\.example\.com/[a-z-]+:\d+\.\d+\.\d+(-gpu)?", one["image"]), one["image"]


def test_every_mount_is_of_a_volume_and_every_config_map_is_there(rendered):
    maps = {one["metadata"]["name"] for one in rendered if one["kind"] == "ConfigMap"}
    for pod in pods(rendered):
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for one in containers(pod):
            assert {mount["name"] for mount in one["volumeMounts"]} <= volumes.keys()
            wanted = [e["valueFrom"]["configMapKeyRef"]["name"] for e in one.get("env", []) if "valueFrom" in e]
            assert set(wanted) <= maps
        assert {v["configMap"]["name"] for v in volumes.values() if "configMap" in v} <= maps


def test_selectors_find_the_pods_and_probes_ask_ports_and_routes_that_are_there(rendered):
    for one in rendered:
        if one["kind"] != "Deployment":
            continue
        labels = one["spec"]["template"]["metadata"]["labels"].items()
        pod = one["spec"]["template"]["spec"]
        ports = {port["name"] for each in containers(pod) for port in each.get("ports", [])}
        for other in rendered:
            chosen = other["spec"].get("selector", {}) if other["kind"] in ("Service", "PodDisruptionBudget") else {}
            assert chosen.get("matchLabels", chosen).items() <= labels, other["metadata"]["name"]
            if other["kind"] == "Service":
                assert {port["targetPort"] for port in other["spec"]["ports"]} <= ports
        probes = [e[p]["httpGet"] for e in containers(pod) for p in e if p.endswith("Probe") and "httpGet" in e[p]]
        assert {probe["port"] for probe in probes} <= ports
        assert {probe["path"] for probe in probes} <= {"/readyz", "/livez", "/healthz"}


def test_the_service_is_given_variables_that_it_knows_and_time_to_drain(rendered):
    known = {f"VIGIL_{name.upper()}" for name in Settings.__dataclass_fields__}
    for pod in pods(rendered):
        for one in containers(pod):
            if one["name"] == "vigil":
                said = {e["name"]: e["value"] for e in one["env"]}
                assert said.keys() <= known
                takes_s = one["lifecycle"]["preStop"]["sleep"]["seconds"] + 5
                takes_s += float(said["VIGIL_DRAIN_S"]) + float(said["VIGIL_GRACE_S"])
                assert pod["terminationGracePeriodSeconds"] > takes_s


def test_a_graphics_card_is_asked_for_and_demanded_in_the_gpu_overlay_alone():
    (with_gpu,), (without,) = pods(render("overlays/gpu")), pods(render("overlays/cpu"))
    (one,) = (each for each in with_gpu["containers"] if each["name"] == "vigil")
    assert one["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert {"name": "VIGIL_PROVIDERS", "value": "cuda,cpu"} in one["env"]
    assert "nvidia" not in json.dumps(without)


def test_the_rules_are_those_of_grafana_and_promtool_accepts_them(watched, tmp_path):
    groups = watched["PrometheusRule", "vigil"]["spec"]["groups"]
    found = {rule["alert"] for group in groups for rule in group["rules"] if "alert" in rule}
    assert found == {alert.name for alert in rules.alerts(PRODUCTION)}
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": groups}))
    done = subprocess.run(["promtool", "check", "rules", tmp_path / "rules.yml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_link_of_an_alert_is_an_address_that_people_reach_and_not_a_name_in_the_cluster(watched):
    services = {name for kind, name in watched if kind == "Service"}
    for group in watched["PrometheusRule", "vigil"]["spec"]["groups"]:
        for rule in group["rules"]:
            for key, link in rule.get("annotations", {}).items():
                if key.endswith("_url"):
                    host = urlsplit(link).hostname
                    assert host and host.split(".")[0] not in services, link


def test_every_dashboard_is_a_config_map_that_the_sidecar_finds_and_an_apply_can_carry(watched):
    boards = {path.stem: path for path in (ROOT / "grafana" / "dashboards").glob("*.json")}
    assert boards
    for name, path in boards.items():
        made = watched["ConfigMap", f"vigil-dashboard-{name}"]
        assert made["metadata"]["labels"]["grafana_dashboard"] == "1"
        assert made["data"] == {path.name: path.read_text()}
        assert len(json.dumps(made)) < 262_144
    assert sum(kind == "ConfigMap" and name.startswith("vigil-dashboard-") for kind, name in watched) == len(boards)


def test_scrapes_get_the_job_names_that_the_rules_ask_for(watched):
    asked = set(re.findall(r'job=\\?"([a-z-]+)', json.dumps(watched["PrometheusRule", "vigil"])))
    services = {name for kind, name in watched if kind == "Service"}
    assert asked - {config.HOST, config.GPU, config.PROBE} <= services, asked
    for name in ("vigil", "vigil-monitor"):
        said, service = watched["ServiceMonitor", name]["spec"], watched["Service", name]
        assert said["selector"]["matchLabels"].items() <= service["metadata"]["labels"].items()
        assert {e["port"] for e in said["endpoints"]} <= {port["name"] for port in service["spec"]["ports"]}


def test_the_autoscalers_ask_for_the_wait_in_the_queue_which_the_service_measures(watched):
    metric = watched["HorizontalPodAutoscaler", "vigil"]["spec"]["metrics"][0]["pods"]["metric"]["name"]
    (adapter,) = yaml.safe_load((KUBERNETES / "examples" / "adapter.yaml").read_text())["rules"]["custom"]
    assert adapter["name"]["as"] == metric
    keda = yaml.safe_load((KUBERNETES / "examples" / "keda.yaml").read_text())["spec"]
    asked = keda["triggers"][0]["metadata"]["query"]
    for query in (adapter["metricsQuery"], asked):
        waits = set(re.findall(r"vigil_\w+", query)) - {"vigil_ready"}
        assert waits == {"vigil_stage_seconds_sum", "vigil_stage_seconds_count"}
        assert 'stage="queue"' in query
    assert watched["Deployment", keda["scaleTargetRef"]["name"]]


def test_the_autoscalers_are_told_of_the_wait_and_of_no_wait_where_no_request_came(tmp_path):
    (adapter,) = yaml.safe_load((KUBERNETES / "examples" / "adapter.yaml").read_text())["rules"]["custom"]
    keda = yaml.safe_load((KUBERNETES / "examples" / "keda.yaml").read_text())["spec"]
    by_pod = adapter["metricsQuery"].replace("<<.GroupBy>>", "pod").replace("<<.LabelMatchers>>", 'namespace="vigil"')
    queries = (by_pod, keda["triggers"][0]["metadata"]["query"])

    def series(pod, seconds, rows):
        here = f'{{job="vigil",namespace="vigil",pod="{pod}"'
        values = {f'sum{here},stage="queue"}}': f"0+{seconds}x20", f'count{here},stage="queue"}}': f"0+{rows}x20"}
        said = [{"series": f"vigil_stage_seconds_{name}", "values": rate} for name, rate in values.items()]
        return [*said, {"series": f"vigil_ready{here}}}", "values": "1x20"}]

    def case(pods, expected):
        samples = [[{"labels": f'{{pod="{pod}"}}', "value": wait} for pod, wait in expected.items()]]
        samples.append([{"labels": "{}", "value": sum(expected.values())}])
        asked = [
            {"expr": query, "eval_time": "10m", "exp_samples": said}
            for query, said in zip(queries, samples, strict=True)
        ]
        return {"interval": "30s", "input_series": pods, "promql_expr_test": asked}

    busy, idle = series("a", 2, 4), series("b", 0, 0)
    cases = [case([*busy, *idle], {"a": 0.5, "b": 0}), case(idle, {"b": 0})]
    (tmp_path / "scale.yml").write_text(yaml.safe_dump({"evaluation_interval": "30s", "tests": cases}))
    done = subprocess.run(["promtool", "test", "rules", tmp_path / "scale.yml"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_number_of_pods_is_said_by_the_autoscaler_or_by_the_manifest_and_never_by_both(rendered):
    scaled = {o["spec"]["scaleTargetRef"]["name"] for o in rendered if o["kind"] == "HorizontalPodAutoscaler"}
    for one in rendered:
        if one["kind"] == "Deployment":
            assert ("replicas" in one["spec"]) != (one["metadata"]["name"] in scaled)


def test_nothing_outside_of_the_pod_ends_a_container_of_it(rendered):
    for pod in pods(rendered):
        probes = {one["name"]: one["livenessProbe"] for one in containers(pod) if "livenessProbe" in one}
        assert probes.keys() <= {"vigil"}
        assert all(probe["httpGet"]["path"] == "/livez" for probe in probes.values())


def test_the_log_ends_before_the_volume_is_full_with_five_releases_of_a_gigabyte_and_a_half(rendered):
    for pod in pods(rendered):
        for one in containers(pod):
            if one["name"] == "vigil":
                (kept,) = (float(e["value"]) for e in one["env"] if e["name"] == "VIGIL_LOG_KEEP_MB")
                (store,) = (v["emptyDir"]["sizeLimit"] for v in pod["volumes"] if v["name"] == "store")
                assert 0 < kept * 1e6 + 5 * 1.5e9 < float(store.removesuffix("Gi")) * 2**30


def test_the_training_job_runs_the_command_line_with_a_file_that_it_can_read():
    objects = render("training")
    (pod,) = pods(one for one in objects if one["kind"] == "Job")
    (one,) = pod["containers"]
    assert one["command"][:2] == ["/venv/bin/torchrun", "--standalone"]
    words = one["args"][one["args"].index("vigil") + 1 :]
    import vigil

    options = vigil.parser().parse_args(words)
    assert options.resume and options.config == "/config/train.toml"
    (config,) = (o for o in objects if o["kind"] == "ConfigMap" and "train.toml" in o["data"])
    assert config["data"]["train.toml"] == (ROOT / "examples" / "digits.toml").read_text()


def test_what_was_trained_is_promoted_from_a_pod_with_the_same_store_and_the_place():
    objects = {(one["kind"], one["metadata"]["name"]): one for one in render("training")}
    desk = objects["Deployment", "vigil-desk"]["spec"]["template"]["spec"]
    trained = objects["Job", "vigil-training"]["spec"]["template"]["spec"]
    (claim,) = {volume["persistentVolumeClaim"]["claimName"] for volume in desk["volumes"] if volume["name"] == "store"}
    assert claim in {v["persistentVolumeClaim"]["claimName"] for v in trained["volumes"] if v["name"] == "store"}
    assert ("PersistentVolumeClaim", claim) in objects
    (said,) = (e["valueFrom"]["configMapKeyRef"] for e in desk["containers"][0]["env"] if e["name"] == "VIGIL_RELEASES")
    places = yaml.safe_load((KUBERNETES / "overlays" / "cpu" / "releases.yaml").read_text())["data"]
    assert objects["ConfigMap", said["name"]]["data"][said["key"]] == places["releases"]


def test_the_side_process_is_a_command_of_vigil_that_is_ready_once_it_has_looked(watched):
    pod = watched["Deployment", "vigil"]["spec"]["template"]["spec"]
    (side,) = pod["initContainers"]
    import vigil

    options = vigil.parser().parse_args(side["args"])
    assert (options.name, options.every, side["restartPolicy"]) == ("sync", 0.5, "Always")
    assert side["startupProbe"]["exec"]["command"][-1].endswith("/vigil/synced")


def test_the_commands_of_the_page_keep_secrets_where_git_does_not_look_and_send_a_change_once():
    said = (ROOT / "deploy" / "README.md").read_text().split("## Kubernetes")[1]
    assert "deploy/secrets/" in (ROOT / ".gitignore").read_text().split()
    written = re.findall(r"(?:VIGIL_KEYS=|> ?|--from-(?:env-)?file=(?:key=)?)([\w./]+)", said)
    assert written and all(name.startswith("deploy/secrets/") for name in written), written
    assert "desk models push" not in said and "VIGIL_RELEASES" in (KUBERNETES / "training" / "desk.yaml").read_text()
