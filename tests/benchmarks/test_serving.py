"""The serving benchmark: its models are real releases, its wires say what they mean, its tables what was found."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import orjson
import psutil
import pytest

from benchmarks import behaviour, models, raw, servers, serving, tables, wires
from benchmarks.serving import Plan
from registry import store


def plan(tmp_path, only=(), cells=((1, 1),)):
    return Plan(("tiny",), only, cells, tmp_path / "peers", rounds=1, seconds=0.2)


@pytest.mark.parametrize("name", models.MODELS)
def test_a_model_answers_as_many_rows_as_it_gets_and_repeats_itself(name):
    model, again = models.make(name), models.make(name)
    answers = model.answers(model.rows(3))
    assert model.content == again.content and model.content != models.make(name, seed=1).content
    assert answers.shape == (3, 10)
    np.testing.assert_allclose(answers.sum(axis=1), 1, rtol=1e-5)
    assert np.ptp(answers, axis=0).max() > 1e-4  # other rows, other answers: a mix-up of rows shows


def test_a_published_model_is_a_release_that_verifies(tmp_path):
    tag = models.publish_and_promote(models.make("tiny"), tmp_path)
    with models.served_from(tmp_path):
        release = store.open_release(tag)
        assert release.read("model.onnx") == models.make("tiny").content


@pytest.mark.parametrize("wire", [wires.RAW, wires.V2], ids=["raw", "v2"])
def test_rows_on_a_binary_wire_are_the_rows_bit_for_bit(wire):
    model = models.make("cnn")
    rows = model.rows(2)
    head, body = wire.request(model, rows, 80).split(b"\r\n\r\n", 1)
    skip = int(
        dict(line.split(": ") for line in head.decode().split("\r\n")[1:]).get("Inference-Header-Content-Length", 0)
    )
    assert body[skip:] == rows.tobytes()
    assert f"Content-Length: {len(body)}".encode() in head


@pytest.mark.parametrize("wire", [wires.JSON, wires.V2_JSON], ids=["json", "v2json"])
def test_rows_on_a_text_wire_round_to_the_same_float32(wire):
    rows = models.make("tiny").rows(2)
    said = json.loads(wire.encode(rows)[1])
    values = said["rows"] if "rows" in said else said["inputs"][0]["data"]
    assert np.asarray(values, np.float32).tobytes() == rows.tobytes()


@pytest.mark.parametrize(
    "said",
    [
        {"probabilities": [[0.1] * 10]},
        [[0.1] * 10],
        {"predictions": [{"probabilities": [0.1] * 10}]},
        {"predictions": [{"probabilities": dict.fromkeys("0123456789", 0.1)}]},
    ],
)
def test_answers_in_json_are_read_in_every_form_that_servers_give(said):
    np.testing.assert_array_equal(wires.JSON.decode({}, orjson.dumps(said)), np.full((1, 10), 0.1, np.float32))


def test_the_probabilities_are_found_among_other_outputs_of_a_binary_answer():
    sizes = {"other": 8, "probabilities": 40, "class": 5}
    outputs = [{"name": name, "parameters": {"binary_data_size": size}} for name, size in sizes.items()]
    head, values = json.dumps({"outputs": outputs}).encode(), np.arange(10, dtype=np.float32)
    body = head + bytes(8) + values.tobytes() + bytes(5)
    headers = {"inference-header-content-length": str(len(head))}
    np.testing.assert_array_equal(wires.V2.decode(headers, body), values[None])


def test_a_lane_is_chosen_by_words_of_its_name(tmp_path):
    lanes = plan(tmp_path, ("fastapi raw", "vigil-fast")).lanes()
    assert ("fastapi", "raw") in lanes and ("fastapi", "json") not in lanes
    assert {wire for server, wire in lanes if server == "vigil-fast"} == {"raw", "v2", "json"}
    assert {server for server, _ in lanes} == {"fastapi", "vigil-fast"}


@pytest.mark.parametrize(
    ("words", "cells"),
    [
        (["--connections", "8"], {(8, 1), (8, 32)}),
        (["--connections", "8", "--open"], {(8, 1), (8, 32), serving.CAPACITY}),
        (["--open"], set(serving.QUICK)),
        (["--full", "--connections", "1"], {(1, 1), (1, 32), serving.CAPACITY}),
    ],
)
def test_the_cells_are_those_of_the_connections_named_and_of_the_capacity(words, cells):
    assert set(serving.cells_asked(serving._parser().parse_args(words))) == cells


def test_a_peer_that_is_not_installed_is_left_out_by_name(tmp_path, capsys):
    with serving.field("tiny", plan(tmp_path, ("fastapi raw",))) as served:
        assert served.lanes == []
    assert "fastapi: left out, it is not installed in" in capsys.readouterr().err


def test_bentoml_as_documented_is_measured_from_the_first_request_to_the_table_and_left_out_once_it_died(
    tmp_path, capsys
):
    with serving.field("tiny", plan(tmp_path, ("bentoml json",))) as served:
        assert served.lanes == [("bentoml", "json")]
        cells = serving.closed_loop(served, plan(tmp_path))
        served.running["bentoml"].stop()
        assert serving.closed_loop(served, plan(tmp_path)) == {} and served.lanes == []
        assert "left out from here on: bentoml json: " in capsys.readouterr().err
    found = cells["1 x 1"]["bentoml json"]
    assert found["failed"] == 0 and found["rows_per_s"] > 0
    shown = tables.text(
        "tiny", {"closed_loop": cells, "onnxruntime_rows_per_s": {"1 core": {"1": 1500}}}, "bentoml json"
    )
    assert "(1)" in shown and "1 core: 1: 1.5k" in shown


def test_a_server_with_another_model_is_not_measured(tmp_path):
    place = servers.Place(tmp_path / "bentoml", tmp_path, models.make("tiny"), serving.stack.free_ports(1)[0])
    running = servers.start("bentoml", place)
    try:
        running.ready("/readyz")
        wire = servers.SERVERS["bentoml"].wires["json"]
        assert servers.check(running, wire) == ""
        running.place = servers.Place(place.folder, tmp_path, models.make("tiny", seed=1), place.port)
        assert "differs from ONNX Runtime by" in servers.check(running, wire)
    finally:
        running.stop()


def test_the_bare_server_answers_all_who_ask_at_once_rightly(tmp_path):
    place = servers.Place(tmp_path / "bare", tmp_path, models.make("tiny"), serving.stack.free_ports(1)[0])
    running = servers.start("bare-40", place)
    try:
        running.ready("/ready")
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda _: servers.check(running, servers.SERVERS["bare-40"].wires["raw"]), range(64)))
    finally:
        running.stop()
    assert found == [""] * 64


def test_every_process_of_a_paused_server_stands_still_until_it_goes_on(tmp_path, eventually):
    place = servers.Place(tmp_path / "bentoml", tmp_path, models.make("tiny"), serving.stack.free_ports(1)[0])
    running = servers.start("bentoml", place)
    try:
        running.ready("/readyz")
        running.pause()
        family = [psutil.Process(running.process.pid), *psutil.Process(running.process.pid).children(recursive=True)]
        assert len(family) > 1
        eventually("all processes stopped", lambda: {process.status() for process in family} == {"stopped"})
        running.go_on()
        assert servers.check(running, servers.SERVERS["bentoml"].wires["json"]) == ""
    finally:
        running.stop()
    assert not any(process.is_running() for process in family)


def test_a_setting_the_service_does_not_know_is_not_passed_on(tmp_path):
    place = servers.Place(tmp_path, tmp_path, models.make("tiny"), 1)
    environment = servers.vigil_environment(place, record="false", no_such_setting="1")
    assert environment["VIGIL_RECORD"] == "false"
    assert not any("NO_SUCH" in name for name in environment)


def test_ratios_and_costs_are_told_against_the_lane_they_name():
    lanes = {name: {"rows_per_s": rate, "failed": 0, "p99_us": 1.0} for name, rate in
             (("fastapi raw", 100), ("vigil-fast raw", 900), ("vigil-off raw", 1000))}  # fmt: skip
    shown = tables.text("tiny", {"closed_loop": {"8 x 1": lanes}, "onnxruntime_rows_per_s": {}}, "fastapi raw")
    assert "900 (9)" in shown and "cost of signals, metrics and log at 8 x 1 raw: 10.0%" in shown
    assert tables.ratio(lanes, "vigil-fast raw", "triton v2") is None


def test_the_picture_is_the_same_for_the_same_figures(tmp_path):
    lanes = {"fastapi raw": {"rows_per_s": 100}, "vigil-fast raw": {"rows_per_s": 900}}
    for name in ("one.svg", "two.svg"):
        tables.draw({"tiny": {"closed_loop": {"32 x 1": lanes}}}, "fastapi raw", tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_swaps_a_rollback_and_a_cold_start_of_the_real_service_are_measured(tmp_path, monkeypatch):
    for name, value in {"LOAD_S": 1.0, "SWAP_EVERY_S": 0.4, "ROUNDS": 1, "STARTS": 1, "ROLLBACKS": 1}.items():
        monkeypatch.setattr(behaviour, name, value)
    found = behaviour.measure("tiny", tmp_path)
    assert found["swap"]["failed"] == 0 and found["swap"]["swaps"] > 0 and found["swap"]["answered"] > 0
    assert len(found["rollback_s"]["all"]) == len(found["start_s"]["all"]) == 1


def test_the_client_of_the_fastest_lane_is_the_one_that_is_taken_away_from_the_cores():
    lanes = {"slow": {"rows_per_s": 1, "client_cores": 0.1}, "fast": {"rows_per_s": 9, "client_cores": 0.7}}
    assert serving._client_cores({"1 x 1": {}, "32 x 1": lanes}) == 0.7


def test_onnx_runtime_alone_is_measured_for_every_batch_and_way_to_share_the_cores():
    found = raw.measure("tiny", 0.5, seconds=0.02)
    assert len(found) == 3 and any("less a client of 0.50" in way for way in found)
    assert all(
        set(rates) == {str(batch) for batch in raw.BATCHES} and min(rates.values()) > 0 for rates in found.values()
    )
