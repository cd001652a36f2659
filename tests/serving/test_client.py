"""The client against a server that misbehaves on purpose; against the real one in test_client_service.py."""

import ast
import gc
import json
import shutil
import subprocess
import sys
import threading
import time
import warnings
from email.utils import formatdate
from pathlib import Path

import numpy as np
import pytest
import unruly
from tiny_release import IMAGE, rows_of

from serving.client import Client, ClientError, Refused, Unavailable

ROOT = Path(__file__).resolve().parents[2]
ROWS = rows_of(IMAGE, 5, seed=3)
BUSY = {"error": "the queue is full"}


@pytest.fixture
def server():
    made = unruly.Unruly()
    end = unruly.run(made)
    yield made
    end()


@pytest.fixture
def client(server):
    with Client(server.url) as made:
        yield made


def demand_right(answer, rows=ROWS):
    np.testing.assert_array_equal(answer.outputs["probabilities"], rows[:, 0, :2].astype(np.float32))


def test_an_answer_holds_the_main_output_and_an_id_for_each_row(server, client):
    answer = client.predict(ROWS)
    demand_right(answer)
    assert (answer.model, answer.version) == ("tiny", "1")
    assert answer.ids == [f"{answer.ident}-{i}" for i in range(5)]
    sent = server.infers()[0]
    head = json.loads(sent.body[: int(sent.headers["inference-header-content-length"])])
    assert head["id"] == answer.ident
    assert head["parameters"] == {"binary_data_output": True}
    assert sent.body[len(json.dumps(head)) :] == ROWS.tobytes()


def test_outputs_come_in_full_and_may_be_written_to(client):
    answer = client.predict(ROWS, outputs=("logits", "probabilities"))
    demand_right(answer)
    np.testing.assert_array_equal(answer.outputs["logits"], ROWS.reshape(5, 64))
    answer.outputs["logits"] += 1


def test_names_of_classes_come_as_text(client):
    np.testing.assert_array_equal(
        client.predict(ROWS, ["class"]).outputs["class"], [f"kind {k} é" for k in ROWS[:, 0, 0]]
    )


def test_a_request_goes_by_the_name_its_caller_gives_it(server, client):
    assert client.predict(ROWS[:2], ident="order-7").ids == ["order-7-0", "order-7-1"]
    assert server.infers()[0].body.startswith(b'{"id": "order-7"')  # first, where the service looks for it


def test_whole_numbers_of_another_type_are_sent_as_the_models(server, client):
    demand_right(client.predict(ROWS.astype(np.int64)))
    demand_right(client.predict(ROWS.astype(np.float64)))
    demand_right(client.predict(np.asfortranarray(ROWS)))
    assert [sent.body[-320:] for sent in server.infers()] == [ROWS.tobytes()] * 3


@pytest.mark.parametrize("rows", [ROWS + 0.5, ROWS.astype(np.int64) - 300, ROWS * np.nan, ROWS.astype(str)])
def test_numbers_that_are_not_the_models_are_refused_before_they_are_sent(server, client, rows):
    with pytest.raises(ValueError, match="rows: "):
        client.predict(rows)
    assert server.infers() == []


def test_one_connection_serves_call_after_call(server, client):
    for _ in range(5):
        client.predict(ROWS)
    assert server.connections == 1
    assert len(server.seen) == 2 + 5  # what the model is called and takes is asked once


def test_busy_is_tried_again_after_the_time_the_server_names(server, client):
    server.script = [unruly.refuse(503, BUSY, "Retry-After: 1"), unruly.refuse(429, BUSY), unruly.well]
    demand_right(client.predict(ROWS))
    first, second, third = server.infers()
    assert first.body == second.body == third.body  # so that a row has one id, however often it was sent
    assert second.at_s - first.at_s >= 1
    assert server.connections == 1


@pytest.mark.parametrize("shift_s", [None, 0, -86_400, 86_400], ids=["no clock", "same", "behind", "ahead"])
def test_a_date_to_try_again_is_waited_for_by_the_clock_of_the_server(server, client, shift_s):
    now_s = time.time()
    dates = [] if shift_s is None else [f"Date: {formatdate(now_s + shift_s, usegmt=True)}"]
    after = formatdate(now_s + (shift_s or 0) + 2, usegmt=True)  # dates are cut to seconds
    server.script = [unruly.refuse(503, BUSY, f"Retry-After: {after}", *dates)]
    demand_right(client.predict(ROWS))
    first, second = server.infers()
    assert second.at_s - first.at_s >= 0.5


@pytest.mark.parametrize(
    ("after", "tries"),
    [
        ("Wed, 21 Oct 2015 07:28:00 GMT", 4),
        ("Wed, 99 Oct 2015 07:28:00 GMT", 4),
        ("Wed, 21 Oct 99999999999 07:28:00 GMT", 4),
        ("Wed, 21 Oct 9000 07:28:00 GMT", 1),
    ],
    ids=["past", "no day", "no year", "never"],
)
def test_a_date_that_is_past_or_none_asks_for_no_wait_and_one_far_off_ends_the_call(server, client, after, tries):
    server.script = [unruly.refuse(503, BUSY, f"Retry-After: {after}")] * 9
    with pytest.raises(Unavailable, match=f"no answer in {tries} tries"):
        client.predict(ROWS)


def test_the_time_that_is_left_goes_with_each_try(server, client):
    server.script = [unruly.refuse(503, BUSY, "Retry-After: 1")]
    client.predict(ROWS)
    first, second = (float(sent.headers["x-request-timeout"]) for sent in server.infers())
    assert first <= 10
    assert 0 < second <= first - 1


def test_a_wait_beyond_the_deadline_is_not_begun(server, client):
    server.script = [unruly.refuse(503, BUSY, "Retry-After: 3600")]
    with pytest.raises(Unavailable, match="no answer in 1 tries and 10 s: the queue is full") as caught:
        client.predict(ROWS)
    assert caught.value.status == 503
    assert len(server.infers()) == 1


def test_a_server_that_stays_busy_is_tried_as_often_as_was_asked(server):
    server.script = [unruly.refuse(429, BUSY, "Retry-After: soon")] * 9
    with Client(server.url, retries=2) as client, pytest.raises(Unavailable) as caught:
        client.predict(ROWS)
    assert caught.value.status == 429
    assert len(server.infers()) == 3


@pytest.mark.parametrize("deed", [unruly.reset, unruly.and_close])
def test_a_connection_that_breaks_before_the_answer_is_tried_again(server, client, deed):
    server.script = [deed, deed, unruly.well]
    for _ in range(3):
        demand_right(client.predict(ROWS))


def test_connections_closed_while_they_lay_idle_cost_no_try(server):
    server.script = [unruly.and_close] * 5
    with Client(server.url, retries=0) as client:
        for _ in range(6):
            demand_right(client.predict(ROWS))
    assert server.connections == 6


def test_a_reset_without_retries_is_unavailable(server):
    server.script = [unruly.well, unruly.reset, unruly.reset]
    with Client(server.url, retries=0) as client:
        client.predict(ROWS)
        with pytest.raises(Unavailable) as caught:
            client.predict(ROWS)
        assert caught.value.status is None
        demand_right(client.predict(ROWS))


def test_an_answer_that_breaks_off_is_not_asked_for_twice(server, client):
    server.script = [unruly.truncated]
    with pytest.raises(Unavailable, match="no whole HTTP answer"):
        client.predict(ROWS)
    assert len(server.infers()) == 1
    demand_right(client.predict(ROWS))


@pytest.mark.parametrize("deed", [unruly.silence, unruly.drip])
def test_a_slow_answer_ends_at_the_deadline(server, deed):
    server.script = [deed]
    with Client(server.url, timeout_s=0.5) as client:
        with pytest.raises(Unavailable, match="timed out"):
            client.predict(ROWS)
        assert len(server.infers()) == 1
        demand_right(client.predict(ROWS))


def test_too_large_a_body_is_refused_though_nobody_reads_it(server, client):
    server.script = [unruly.too_large]
    with pytest.raises(Refused, match="413: body: larger than 10 bytes") as caught:
        client.predict(np.zeros((100_000, 8, 8), np.uint8))
    assert caught.value.status == 413


def test_a_refusal_names_field_and_row_and_is_not_tried_again(server, client):
    said = {"error": "rows[1]: must be finite", "field": "rows", "row": 1}
    server.script = [unruly.refuse(422, said)]
    with pytest.raises(Refused) as caught:
        client.predict(ROWS)
    error = caught.value
    assert (error.status, error.message, error.field, error.row) == (422, said["error"], "rows", 1)
    assert len(server.infers()) == 1
    client.predict(ROWS)
    assert [sent.path for sent in server.seen].count("/v2/models/tiny") == 2  # the model may have changed


@pytest.mark.parametrize(("status", "kind"), [(404, Refused), (500, Unavailable), (502, Unavailable)])
def test_a_page_of_a_proxy_is_told_in_its_own_words(server, client, status, kind):
    async def page(writer, _):
        writer.write(unruly.reply(status, b"<h1>no such upstream</h1>", "content-type: text/html"))

    server.script = [page]
    with pytest.raises(kind, match="no such upstream"):
        client.predict(ROWS)


@pytest.mark.parametrize("body", [b"{}", b"hello", b'{"id":"a","outputs":[{}]}'])
def test_an_answer_of_another_protocol_is_said_to_be_one(server, client, body):
    async def other(writer, _):
        writer.write(unruly.reply(200, body, f"Inference-Header-Content-Length: {len(body)}"))

    server.script = [other]
    with pytest.raises(Unavailable, match="not of Open Inference Protocol v2"):
        client.predict(ROWS)


def test_a_server_that_speaks_no_http_is_unavailable(server, client):
    server.script = [unruly.garbage]
    with pytest.raises(Unavailable, match="no whole HTTP answer"):
        client.predict(ROWS)


def test_nobody_listening_is_unavailable_and_not_ready():
    url = f"http://127.0.0.1:{unruly.free_ports(1)[0]}"
    with Client(url, retries=1) as client:
        assert not client.ready()
        with pytest.raises(Unavailable, match="no answer in 2 tries"):
            client.predict(ROWS)


@pytest.mark.parametrize("url", ["127.0.0.1:3000", "ftp://host", "http://"])
def test_an_address_that_is_none_is_refused(url):
    with pytest.raises(ValueError, match="url: must start with http"):
        Client(url)


def test_a_key_and_a_prefix_go_with_every_request_and_the_key_is_not_shown(server):
    with Client(f"{server.url}/inner/", key="secret-1") as client:
        assert not client.ready()
        assert "secret-1" not in repr(client)
    assert server.seen[0].path == "/inner/readyz"
    assert server.seen[0].headers["authorization"] == "Bearer secret-1"


def test_many_rows_are_answered_in_order_whoever_is_slow(server, client):
    server.script = [unruly.refuse(503, BUSY), unruly.well, unruly.reset]
    rows = rows_of(IMAGE, 1050, seed=5)
    answers = list(client.predict_many(iter(rows), batch_rows=100, connections=3))
    assert [len(answer.ids) for answer in answers] == [100] * 10 + [50]
    demand_right_many = np.concatenate([answer.outputs["probabilities"] for answer in answers])
    np.testing.assert_array_equal(demand_right_many, rows[:, 0, :2])
    assert len({ident for answer in answers for ident in answer.ids}) == 1050


def test_rows_without_end_are_drawn_only_as_they_are_answered(client):
    drawn = []

    def endless():
        while True:
            drawn.append(1)
            yield ROWS[0]

    answers = client.predict_many(endless(), batch_rows=10, connections=2)
    for _ in range(5):
        next(answers)
    assert len(drawn) <= (5 + 2 * 2) * 10
    answers.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("predict_many")]


def test_the_first_refusal_ends_many_rows(server, client):
    server.script = [unruly.well, unruly.refuse(422, {"error": "rows[0]: no"})]
    with pytest.raises(Refused, match="no"):
        list(client.predict_many([ROWS[0]] * 30, batch_rows=10, connections=1))


def test_labels_are_sent_in_batches_with_the_same_retries(server, client):
    server.script = [unruly.refuse(503, BUSY), unruly.reset]
    truth = np.arange(2500)
    assert client.label(zip((f"r-{i}" for i in truth), truth, strict=True)) == 2500
    sent = [json.loads(one.body)["labels"] for one in server.seen]
    assert [len(batch) for batch in sent] == [1000, 1000, 1000, 1000, 500]
    assert sent[0] == sent[1] == sent[2]
    assert sent[0][3] == {"id": "r-3", "label": 3}


def test_a_client_of_one_model_names_it_in_every_address(server):
    with Client(server.url, model="tiny") as client:
        client.predict(ROWS)
        assert client.label({"a": "cat"}.items()) == 1
        client.ready()
        with pytest.raises(Refused):
            client.metadata()
    assert [sent.path for sent in server.seen] == [
        "/v2/models/tiny",
        "/v2/models/tiny/infer",
        "/v1/models/tiny/labels",
        "/v2/models/tiny/ready",
        "/v1/models/tiny",
    ]


def test_threads_share_a_client_and_never_a_connection(server):
    failed, together = [], threading.Barrier(8)

    def work(seed):
        rows = rows_of(IMAGE, 3, seed=seed)
        together.wait(10)
        try:
            for _ in range(30):
                demand_right(client.predict(rows), rows)
        except (ClientError, AssertionError) as error:
            failed.append(error)

    with Client(server.url) as client:
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failed == []
    assert server.connections <= 8


def test_a_closed_client_leaves_no_socket_open(server):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with Client(server.url) as client:
            client.predict(ROWS)
        del client
        gc.collect()
    assert [str(one.message) for one in caught] == []


def test_one_file_is_the_whole_client(tmp_path, server):
    copied = Path(shutil.copy(ROOT / "serving" / "client.py", tmp_path / "anywhere.py"))
    known = {"numpy", *sys.stdlib_module_names}
    for node in ast.walk(ast.parse(copied.read_text())):
        named = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        named += [node.module] if isinstance(node, ast.ImportFrom) else []
        assert {name.split(".")[0] for name in named} <= known
    code = (
        f"import anywhere, numpy; print(anywhere.Client('{server.url}').predict(numpy.ones((2, 8, 8), 'u1')).outputs)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert "array([[1., 1.],\n       [1., 1.]], dtype=float32)" in done.stdout, done.stderr
