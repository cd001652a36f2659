"""`vigil status` on a real service, Prometheus and Alertmanager; no monitor runs, so one alert fires."""

import itertools
import json
import re
import socket
import threading
import time
from types import SimpleNamespace

import pytest
from ending import ended
from listening import answering
from tiny_release import IMAGE, rows_of

import vigil
from demo import stack
from grafana import build
from grafana.config import Addresses
from grafana.profile import DEMO
from oncall import api, page, status
from registry import aliases, followed
from registry.errors import StackError

PATIENCE_S = 90
TITLES = {
    "alerts", "servers_ready", "error_burn", "latency_burn", "budget_left", "live", "as_promoted", "monitor_age",
}  # fmt: skip


@pytest.fixture(scope="module")
def watched(live, tmp_path_factory):
    """Yield the options that lead to a Prometheus and an Alertmanager that watch the service of `live`."""
    service, _ = live
    folder = tmp_path_factory.mktemp("watched")
    made = stack.Stack(folder, {})
    ports = dict(zip(("prometheus", "alertmanager", "monitor"), stack.free_ports(3), strict=True))
    at = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
    build.write(DEMO, folder, Addresses((service.url.removeprefix("http://"),), **at))
    config = folder / "alertmanager" / "alertmanager.yml"
    made.start("alertmanager", stack.alertmanager_command(config, folder / "a", ports["alertmanager"]))
    config = folder / "prometheus" / "prometheus.yml"
    made.start("prometheus", stack.prometheus_command(config, folder / "p", ports["prometheus"]))
    try:
        for name in ("alertmanager", "prometheus"):
            made.ready(name, ports[name], "/-/ready")
        yield ("--prometheus", at["prometheus"], "--alertmanager", at["alertmanager"]), at
    finally:
        made.stop()


@pytest.fixture(scope="module")
def fired(live, watched, eventually):
    """Wait until an alert has reached Alertmanager; return a function that asks the service, as was done until then."""
    port = int(watched[1]["alertmanager"].split(":")[1])
    seeds = itertools.count(100)

    def ask():
        return live[0].call("/v1/predict", {"rows": rows_of(IMAGE, 1, next(seeds)).tolist()})[0] == 200

    eventually("an alert", lambda: ask() and b"VigilMonitorAbsent" in stack.get(port, "/api/v2/alerts")[1], PATIENCE_S)
    return ask


@pytest.fixture
def said(watched, place, monkeypatch, capsys):
    """Return a function that runs `vigil status` and gives (exit status, what it printed)."""
    monkeypatch.setenv("BENTOML_HOME", str(place))

    def run(*words):
        code = vigil.main(["status", *watched[0], *words])
        return code, capsys.readouterr().out

    return run


def settled(now):
    """Return whether a status is whole: rows and rules are counted, and no scrape of a busy machine was too late."""
    tiles = now["tiles"]
    firing, model = {one["name"] for one in now["firing"]}, now["models"].get("tiny", {})
    return (
        (now["problems"], firing) == ([], {"VigilMonitorAbsent"})
        and tiles.keys() >= TITLES
        and (tiles["servers_ready"]["value"], tiles["error_burn"]["value"]) == (1.0, 0)
        and tiles["as_promoted"]["text"] == "yes"
        and bool(model.get("rows"))
    )


def test_the_first_row_of_the_dashboard_is_told_with_each_model_and_what_fires(live, said, fired, eventually):
    version = live[1][0].split(":")[1]

    def look():
        fired()
        code, text = said("--json")
        return settled(now := json.loads(text)) and (code, now)

    code, now = eventually("a status without a failed scrape", look, PATIENCE_S)
    assert code == 1 and not now["ok"]
    assert now["tiles"]["servers_ready"] == {
        "title": "Servers ready", "text": "100 %", "judgement": "good", "value": 1.0,
    }  # fmt: skip
    assert now["tiles"]["error_burn"]["judgement"] == "good" and version in now["tiles"]["live"]["text"]
    model = now["models"]["tiny"]
    assert model["live"] == [{"version": version, "provider": "CPUExecutionProvider"}]
    assert model["promoted"] == version and model["agrees"] is True and model["undo"] is None

    def told():
        code, text = said()
        return code == 1 and "FIRING         VigilMonitorAbsent, warning, for " in text and text

    text = eventually("the same on a page", told, PATIENCE_S)
    assert re.search("^runbook .*/runbooks/VigilMonitorAbsent", text, re.MULTILINE)
    assert "\x1b" not in text


def test_one_model_can_be_asked_for_and_another_has_none_of_its_lines(said, eventually):
    eventually("tiny alone", lambda: set(json.loads(said("--json", "--model", "tiny")[1])["models"]) == {"tiny"})
    status, text = said("--json", "--model", "other")
    found = json.loads(text)
    assert (status, found["models"]) == (2, {})  # a name that is mistyped must not look calm
    assert found["problems"] == ["no model 'other' is served, and none is promoted in this store; promoted here: tiny"]


def test_the_name_of_a_model_may_hold_a_hyphen_and_what_is_no_name_is_refused(said, capsys):
    (problem,) = json.loads(said("--json", "--model", "my-model")[1])["problems"]
    assert problem.startswith("no model 'my-model' is served")  # Prometheus took the query
    assert vigil.main(["status", "--model", 'x"} or vector(1)']) == 2
    assert "is not a model name; `vigil models` lists them" in capsys.readouterr().err


def test_without_alertmanager_prometheus_says_what_fires_and_the_exit_status_is_2(said, fired, eventually):
    def look():
        code, text = said("--json", "--alertmanager", "127.0.0.1:1")
        now = json.loads(text)
        return {"VigilMonitorAbsent"} == {one["name"] for one in now["firing"]} and (code, now["problems"])

    code, (problem,) = eventually("the alert, and no other", look, PATIENCE_S)
    assert code == 2
    assert "Alertmanager at http://127.0.0.1:1: does not answer" in problem and "VIGIL_ALERTMANAGER" in problem


def test_prometheus_says_when_it_started(watched):
    ago_s = time.time() - api.started(f"http://{watched[1]['prometheus']}")
    assert 0 < ago_s < 3600


def test_without_both_the_registry_still_says_what_was_promoted(live, said, watched, monkeypatch):
    monkeypatch.setenv("VIGIL_PROMETHEUS", "127.0.0.1:1")
    nobody = [word for name in ("alertmanager", "service", "monitor") for word in (f"--{name}", "127.0.0.1:1")]
    code, text = said(*nobody, "--prometheus", "")
    assert code == 2
    assert all(f"{name} at http://127.0.0.1:1: does not answer" in text for name in ("Service", "Monitor"))
    assert f"not known; promoted is {live[1][0].split(':')[1]}" in text
    assert "Prometheus at http://127.0.0.1:1: does not answer" in text


def test_without_prometheus_service_and_monitor_are_asked_and_it_is_said_so(live, said):
    health = {"alive": False, "status": "stale", "last_success_s": 1.0, "age_s": 75.2, "failing": {"log": "OSError"}}
    with answering(json.dumps(health).encode(), 503) as monitor:
        nobody = "--prometheus", "127.0.0.1:1"
        code, text = said("--json", "--service", live[0].url, "--monitor", monitor, *nobody)
        now = json.loads(text)
        assert code == 2 and [problem.split(" at ")[0] for problem in now["problems"]] == ["Prometheus"]
        ready, age = now["tiles"]["service"], now["tiles"]["monitor"]
        assert ready["text"] == f"ready (asked directly, at {live[0].url})" and ready["judgement"] == "good"
        assert age["text"].startswith("stale, last good run 75 s ago, log fails (OSError) (asked directly")
        model = now["models"]["tiny"]
        assert model["agrees"] and model["live"] == [{"version": model["promoted"], "provider": ""}]
        text = said("--service", live[0].url, "--monitor", monitor, *nobody)[1]
        assert "no rows yet" not in text and "no labels yet" not in text
        # What answers there is the monitor.
        assert "what answers there is no Service" in said("--service", monitor, "--monitor", monitor, *nobody)[1]


def test_of_a_model_that_another_service_serves_nothing_is_said_to_be_live_or_not(home, publish):
    for name in ("apples", "pears", "plums"):
        aliases.promote(publish(name).tag, "x", force=True)
    here = [{"model": "apples", "ready": True, "versions": ["v1"]}, {"model": "plums", "ready": False, "versions": []}]
    with answering(json.dumps({"ready": True, "models": here}).encode()) as service:
        models = status.read("", *["127.0.0.1:1"] * 2, f"http://{service}", "127.0.0.1:1").models
    assert [(one.name, one.live, one.agrees) for one in models] == [
        ("apples", [("v1", "")], False), ("pears", None, None), ("plums", [], False),
    ]  # fmt: skip


def test_a_model_that_nobody_could_be_asked_about_is_not_called_unknown(home, capsys):
    nobody = [
        word for name in ("prometheus", "alertmanager", "service", "monitor") for word in (f"--{name}", "127.0.0.1:1")
    ]
    assert vigil.main(["status", "--json", "--model", "m", *nobody]) == 2
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert len(problems) == 4 and not any("no model" in problem for problem in problems)


def test_in_a_store_that_follows_the_way_back_is_the_one_of_where_releases_are_promoted(home, publish):
    for seed in (1, 2):
        aliases.promote(publish(seed=seed).tag, "x", force=True)
    followed.begin("tiny", "s3://releases/production")
    found = status.read("", *["127.0.0.1:1"] * 4)
    (model,) = found.models
    assert model.undo == 'VIGIL_RELEASES=s3://releases/production vigil rollback --model tiny --why "..."'
    assert f"where releases are promoted, not here: {model.undo}\n" in page.text(found, coloured=False)
    followed.remember("tiny", "s3://releases/production")  # an older program let it follow what it promotes to
    assert model.undo == 'vigil models sync --stop --model tiny && vigil rollback --model tiny --why "..."'
    assert "not here" not in (said := page.text(found, coloured=False)) and f"{model.undo}\n" in said


def test_what_is_no_prometheus_is_said(said, watched):
    code, text = said("--prometheus", watched[1]["alertmanager"])
    assert code == 2 and f"Prometheus at http://{watched[1]['alertmanager']}: answered 404" in text


def test_what_does_not_even_speak_http_is_said(said):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer():
            for _ in range(2):
                connection, _ = server.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(b"220 mail.example ESMTP\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        there = f"127.0.0.1:{server.getsockname()[1]}"
        code, text = said("--prometheus", there, "--alertmanager", there)
        ended(thread)
    assert code == 2
    assert all(f"what answers there is no {program}" in text for program in ("Prometheus", "Alertmanager"))


@pytest.mark.parametrize(
    "content",
    [
        {"status": "ok"},
        {"status": "ok", "age_s": 1.0, "failing": ["log"]},
        {"ready": True, "models": ["tiny"]},
        {"ready": True, "models": [{"model": "tiny", "ready": True, "versions": []}]},
        {"data": []},
        {
            "data": {
                "alerts": [{"state": "firing"}, {"state": "pending"}],
                "resultType": "vector",
                "result": [{"value": 1}],
            }
        },
        [{"status": "ok"}],
    ],
)
def test_another_program_with_other_json_is_said_at_every_address(content, home):
    with answering(json.dumps(content).encode()) as there:
        problems = status.read("", *[f"http://{there}"] * 4).problems
        for look in (api.evaluated, api.pending):
            with pytest.raises(StackError, match="what answers there is no Prometheus"):
                look(f"http://{there}")
    assert [one.split(" at ")[0] for one in problems] == ["Prometheus", "Alertmanager", "Service", "Monitor"]
    assert all("what answers there is no" in one for one in problems)


@pytest.mark.parametrize("status_line", ["200 OK", "503 Service Unavailable"])
def test_an_answer_that_stops_half_way_is_said_be_it_an_error_or_not(status_line, monkeypatch):
    monkeypatch.setattr(api, "TIMEOUT_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        there, over = f"http://127.0.0.1:{server.getsockname()[1]}", threading.Event()

        def answer():
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(f"HTTP/1.1 {status_line}\r\nContent-Length: 100\r\n\r\nhalf".encode())
                over.wait(60)

        thread = threading.Thread(target=answer)
        thread.start()
        try:
            with pytest.raises(StackError, match=r"Monitor at .*: does not answer \(timed out\)"):
                api.answer("Monitor", there, "/healthz")
        finally:
            over.set()
            ended(thread)


def test_watch_shows_it_again_and_follows_a_promotion(live, said, monkeypatch, eventually):
    second = live[1][1]
    version, shown = second.split(":")[1], []

    def wait(seconds):
        shown.append(seconds)
        if len(shown) == 1:
            aliases.promote(second, "better", force=True)
            eventually("the new one", lambda: version in said("--json")[1].splitlines()[-1], PATIENCE_S)
        if len(shown) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("oncall.verbs.time", SimpleNamespace(sleep=wait))
    code, text = said("--watch", "--every-s", "7")
    assert code == 130 and shown == [7.0, 7.0]
    assert text.count("vigil status") >= 1 and 'vigil rollback --model tiny --why "..."' in text
    assert "changed        promote " in text and ": better" in text
