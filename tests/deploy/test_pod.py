"""What the container proof plays is the Deployment of the manifests, but for what it names."""

import copy
import functools
import re
import shutil
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import kubernetes_validate
import pytest
import yaml

from deploy.image.proof import played, pod, secrets, tools, traffic, workshop
from deploy.image.proof.pod import Here
from deploy.image.proof.workshop import Workshop
from registry.errors import StackError

IMAGES = {"vigil": "localhost/vigil:follows", "vigil-tools": "localhost/tools"}


@functools.cache
def objects():
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed; run: curl -LO https://dl.k8s.io/release/v1.32.4/bin/linux/amd64/kubectl")
    return pod.rendered()


@pytest.fixture
def here(tmp_path):
    return Here(IMAGES, {"vigil": 41001, "monitor": 41002}, tmp_path / "keys", tmp_path / "releases")


@pytest.fixture
def answering():
    """Give the port of a server, what it was sent, and its pages: the answers by path, of which the last stays."""
    heads, pages = [], {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            heads.append(dict(self.headers) | {"path": self.path})
            answers = pages.get(self.path, [(200, "")])
            status, text = answers.pop(0) if len(answers) > 1 else answers[0]
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server.server_port, heads, pages
    server.shutdown()
    thread.join()
    server.server_close()


def by_name(containers):
    return {one["name"]: one for one in containers}


def test_the_pod_is_valid_by_the_strict_schema_and_is_read_back_as_it_was_written(here):
    made = pod.made(objects(), here)
    for one in made:
        kubernetes_validate.validate(one, "1.32", strict=True)
    assert list(yaml.safe_load_all(pod.written(made))) == made
    assert [one["kind"] for one in made] == ["ConfigMap", "Pod"]


def test_what_the_manifest_says_of_a_container_is_in_the_pod_but_for_what_is_named(here):
    spec = pod.template(objects())["spec"]
    found = by_name(pod.made(objects(), here)[1]["spec"]["containers"])
    assert list(found) == [
        "sync",
        *(one["name"] for one in spec["containers"]),
    ]  # those that start before the others are the first
    for name, said in by_name(pod.containers(spec)).items():
        assert said.keys() - found[name].keys() <= {*pod.LEFT_OUT, "restartPolicy"}
        assert found[name].keys() <= said.keys() | {"env"}
        for same in ("securityContext", "resources", "envFrom"):
            assert found[name].get(same) == said.get(same)
        assert found[name]["volumeMounts"][:-1] == said["volumeMounts"]


def test_what_is_named_as_left_out_is_in_the_manifests_and_not_in_the_pod(here):
    spec, found = pod.template(objects())["spec"], pod.made(objects(), here)[1]["spec"]
    named = set(spec).union(*(one for one in pod.containers(spec)))
    left = set(found).union(*(one for one in found["containers"]))
    assert pod.LEFT_OUT.keys() <= named
    assert not pod.LEFT_OUT.keys() & left
    assert spec.keys() - found.keys() == {"topologySpreadConstraints", "initContainers"}
    assert found.keys() - spec.keys() == {"hostNetwork"}


def test_the_pod_has_images_ports_and_folders_of_this_machine_and_volumes_as_in_the_manifest(here):
    config, made = pod.made(objects(), here)
    found = by_name(made["spec"]["containers"])
    assert {name: one["image"] for name, one in found.items()} == {
        "sync": "localhost/tools", "vigil": "localhost/vigil:follows", "monitor": "localhost/tools",
    }  # fmt: skip
    assert {"name": "BENTOML_PORT", "value": "41001"} in found["vigil"]["env"]
    assert found["monitor"]["args"][-2:] == ["--port", "41002"]
    assert found["sync"]["args"][:3] == ["models", "sync", config["data"]["releases"]] and "$(" not in str(made)
    folders = {v["name"]: v["hostPath"]["path"] for v in made["spec"]["volumes"] if "hostPath" in v}
    assert folders == {"keys": str(here.keys), "releases": str(here.releases)}
    volumes = pod.template(objects())["spec"]["volumes"]
    assert all(volume in made["spec"]["volumes"] for volume in volumes if "emptyDir" in volume)


def test_the_manifests_are_left_as_they_were(here):
    before = copy.deepcopy(objects())
    pod.made(objects(), here)
    assert objects() == before


def test_a_container_that_must_end_before_the_others_is_refused_rather_than_started_beside_them(here):
    changed = copy.deepcopy(objects())
    pod.template(changed)["spec"]["initContainers"][0].pop("restartPolicy")
    with pytest.raises(StackError, match="sync"):
        pod.made(changed, here)


def test_a_manifest_that_cannot_be_rendered_ends_the_proof_with_what_was_said(monkeypatch, tmp_path):
    objects()
    monkeypatch.setattr(pod, "OVERLAY", tmp_path)
    with pytest.raises(StackError, match="kustomization"):
        pod.rendered()


def test_the_proof_says_so_at_once_where_the_manifests_cannot_be_rendered(monkeypatch, tmp_path):
    for name in workshop.PROGRAMS:
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(workshop.os, "geteuid", lambda: 0)
    with pytest.raises(StackError, match="kubectl"):
        workshop.demand()


def test_the_value_of_a_metric_is_read_with_its_labels():
    page = '# HELP a_total of a\na_total{part="x",of="y z"} 1.5e+09\nb 3.0\nb_bucket{le="+Inf"} 0.0\n'
    assert played.samples(page) == {'a_total{part="x",of="y z"}': 1.5e9, "b": 3.0, 'b_bucket{le="+Inf"}': 0.0}


def test_both_images_of_the_tools_are_built_with_the_secrets_and_on_the_debian_of_the_proof(tmp_path):
    program = tmp_path / "podman"
    program.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/said\n')
    program.chmod(0o755)
    shop = Workshop(tmp_path, {"PATH": f"{tmp_path}:/usr/bin:/bin"})
    hidden = secrets.marked(shop, "", tmp_path / "no certificates")
    assert tools.build(shop, "localhost/base:1", hidden) == tools.IMAGE
    first, second = (tmp_path / "said").read_text().splitlines()
    for name, path in hidden.files.items():
        assert f"--secret id={name},src={path}" in first and f"--secret id={name},src={path}" in second
    assert (tmp_path / "python/Containerfile").read_text().startswith("FROM localhost/base:1\n")
    assert f"--build-arg BASE_IMAGE={tools.PYTHON} --file {tools.CONTAINERFILE}" in second


def test_the_step_that_installs_the_tools_takes_an_index_and_a_certificate_and_keeps_neither():
    text = re.sub(r"\\\n *", "", tools.CONTAINERFILE.read_text())
    steps = [line for line in text.splitlines() if line.startswith("RUN")]
    (installs,) = (step for step in steps if "pip install" in step)
    assert re.findall(r"type=secret,id=(\w+)", text) == re.findall(r"type=secret,id=(\w+)", installs)
    assert set(re.findall(r"type=secret,id=(\w+)", installs)) == {"pip_conf", "ca"}


def test_the_tools_leave_out_only_pins_that_there_are_and_pin_all_else():
    text = tools.CONTAINERFILE.read_text()
    (dropped,) = re.findall(r"grep -Ev '\^\((.*)\)==' /build/constraints.txt", text)
    pins = {line.split("==")[0] for line in (tools.ROOT / "constraints.txt").read_text().split()}
    assert set(dropped.split("|")) <= pins and "s3fs" not in pins  # with a pin of its own it would go with the others
    assert set(re.findall(r"--constraint (\S+)", text)) == {"/build/pins.txt"}


def test_a_key_is_sent_along_where_one_is_given(answering):
    port, heads, _ = answering
    traffic.call(port, "/v1/model")
    traffic.call(port, "/v1/predict", b"x", "secret")
    assert [head.get("X-Api-Key") for head in heads] == [None, "secret"]


def test_a_probe_of_a_path_says_yes_once_the_answer_is_200(answering, tmp_path):
    port, heads, pages = answering
    pages["/slow"], pages["/never"] = [(503, ""), (503, ""), (200, "")], [(503, "")]
    container = played.Container(Workshop(tmp_path, {}), "podman, runc", "any", port)
    probe = {"httpGet": {"path": "/slow", "port": "http"}, "periodSeconds": 1, "failureThreshold": 20}
    began_s = time.monotonic()
    assert played._asked_until(probe, container, "slow") <= time.monotonic() - began_s + 0.001
    assert [head["path"] for head in heads] == ["/slow"] * 3
    with pytest.raises(StackError, match="never: not within"):
        played._asked_until(probe | {"httpGet": {"path": "/never"}, "periodSeconds": 0.01}, container, "never")


def monitor(rows, judged, looked_s, failures=0):
    return (
        f"vigil_monitor_log_rows {rows}\n"
        f'vigil_monitor_part_last_success_timestamp_seconds{{part="quality"}} {looked_s}\n'
        f'vigil_monitor_part_last_success_timestamp_seconds{{part="labels"}} {looked_s + 1}\n'
        f'vigil_monitor_failures_total{{reason="run"}} {failures}\n'
        f'vigil_quality_estimate_rows{{version="a"}} {judged - 2}\nvigil_quality_estimate_rows{{version="b"}} 2\n'
    )


def test_the_log_is_judged_when_each_part_has_looked_at_all_rows_since_the_last_of_them(answering):
    port, _, pages = answering
    pages["/healthz"] = [(200, '{"status": "ok"}')]
    for page, expected in ((monitor(5, 5, 100), True), (monitor(4, 4, 100), False), (monitor(5, 5, 99), False)):
        pages["/metrics"] = [(200, page)]
        assert played._has_judged(port, 5, 99.0) is expected
    pages["/metrics"] = [(200, "vigil_monitor_log_rows 5\n")]
    assert not played._has_judged(port, 5, 99.0)
    for status, said in ((503, "stale"), (200, "behind")):
        pages["/healthz"] = [(status, f'{{"status": "{said}"}}')]
        assert not played._has_judged(port, 0, 0.0)


@pytest.mark.parametrize(("judged", "failures", "said"), [(5, 0, ""), (4, 0, "read and judged"), (5, 1, "failed")])
def test_a_row_that_was_not_judged_and_a_run_that_failed_end_the_proof(answering, tmp_path, judged, failures, said):
    port, _, pages = answering
    pages["/healthz"] = [(200, '{"status": "ok"}')]
    pages["/metrics"] = [(200, monitor(5, judged, time.time() + 100, failures))]
    container = played.Container(Workshop(tmp_path, {}), "podman, runc", "any", port)
    running = played.Played(container.shop, {}, {"monitor": container}, "")
    if not said:
        found = played._judged(running, 5)
        assert (found["rows"], found["parts"]) == (5, 2)
        return
    with pytest.raises(StackError, match=said):
        played._judged(running, 5)
