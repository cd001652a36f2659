"""The client against the real service."""

import sqlite3
import threading

import numpy as np
import pytest
from tiny_release import IMAGE, onnx_bytes, rows_of, run

from registry import aliases
from serving.client import Client, Refused

ROWS = rows_of(IMAGE, 50, seed=3)


def test_the_answers_are_those_of_the_graph(live):
    with Client(live[0].url) as client:
        answer = client.predict(ROWS, outputs=["logits", "probabilities", "class"])
        assert client.ready() and client.metadata()["version"] == answer.version
    content = onnx_bytes(IMAGE, 10, 1)
    for name in ("logits", "probabilities"):
        np.testing.assert_allclose(answer.outputs[name], run(content, ROWS, name), atol=1e-5)
    np.testing.assert_array_equal(answer.outputs["class"], answer.outputs["logits"].argmax(axis=1).astype(str))
    assert f"{answer.model}:{answer.version}" == live[1][0]


def test_labels_meet_their_rows_in_the_log(live, place, eventually):
    with Client(live[0].url) as client:
        answer = client.predict(ROWS[:3], ident="met")
        assert client.label((row, label) for row, label in zip(answer.ids, np.arange(3), strict=True)) == 3
    log = sqlite3.connect(place / "vigil" / "log.sqlite")
    joined = "SELECT predictions.id, label FROM predictions JOIN labels USING (id) WHERE id LIKE 'met-%' ORDER BY 1"
    try:
        eventually("three rows with their labels", lambda: len(log.execute(joined).fetchall()) == 3)
        assert log.execute(joined).fetchall() == [("met-0", "0"), ("met-1", "1"), ("met-2", "2")]
    finally:
        log.close()


def test_a_refusal_of_the_service_names_its_row(live):
    with Client(live[0].url) as client:
        with pytest.raises(Refused, match="shape") as caught:
            client.predict(ROWS[:, :7])
        assert caught.value.status == 422 and caught.value.field == "input"
        with pytest.raises(Refused, match="labels") as caught:
            client.label([("a", "3"), ("b", "eleven")])
        assert (caught.value.field, caught.value.row) == ("labels", 1)


def test_clients_lose_nothing_while_releases_are_swapped(live, place, monkeypatch, eventually):
    service, tags = live
    monkeypatch.setenv("BENTOML_HOME", str(place))
    stop, versions, failed = threading.Event(), set(), []

    def work(client):
        while not stop.is_set():
            try:
                versions.update(answer.version for answer in client.predict_many(iter(ROWS), batch_rows=5))
            except Exception as error:  # whatever it is, it was lost
                failed.append(error)

    with Client(service.url) as client:
        threads = [threading.Thread(target=work, args=(client,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        changes = lambda: aliases.promote(tags[1], "swap", force=True), lambda: aliases.rollback("tiny", "back")
        try:
            for change in changes:
                version = change().to_version
                eventually(f"{version} live", lambda v=version: service.version() == v)
                eventually(f"{version} seen", lambda v=version: v in versions)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    assert failed == []
    assert {f"tiny:{version}" for version in versions} == set(tags)


def test_a_client_outlives_a_restart_of_the_service(place, live, start_service, eventually, tmp_path):
    service = start_service(place, VIGIL_LOG=str(tmp_path / "log.sqlite"))
    eventually("readiness", lambda: service.call("/readyz")[0] == 200)
    with Client(service.url, timeout_s=60, retries=400) as client:
        before = client.predict(ROWS)
        service.process.kill()
        service.process.wait()
        again = threading.Thread(target=service.start)
        again.start()
        after = client.predict(ROWS)
        again.join()
    np.testing.assert_array_equal(before.outputs["probabilities"], after.outputs["probabilities"])
