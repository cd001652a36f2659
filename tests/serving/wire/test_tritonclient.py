"""NVIDIA's client, as it comes from PyPI, against the real service."""

import tomllib
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as triton
from tiny_release import DIGITS, IMAGE, make_draft, make_files, onnx_bytes, rows_of, run
from tritonclient.utils import InferenceServerException

from registry import aliases, store

ROOT = Path(__file__).resolve().parents[3]
ROWS = rows_of(IMAGE, 5, seed=3)
SEED = 1
EXPECTED = run(onnx_bytes(IMAGE, 10, SEED), ROWS, "probabilities")
LOGITS = run(onnx_bytes(IMAGE, 10, SEED), ROWS, "logits")


@pytest.fixture(scope="module")
def service(tmp_path_factory, start_service, eventually):
    place = tmp_path_factory.mktemp("triton-home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(place))
        tag = store.publish(make_draft(), make_files(place / "files", seed=SEED)).tag
        aliases.promote(tag, "first")
    running = start_service(place)
    eventually("readiness", lambda: running.call("/readyz")[0] == 200)
    running.version = tag.partition(":")[2]
    return running


@pytest.fixture
def client(service):
    with triton.InferenceServerClient(service.url.removeprefix("http://"), network_timeout=20.0) as made:
        yield made


def given(rows=ROWS, as_bytes=True, datatype="UINT8"):
    tensor = triton.InferInput("input", list(rows.shape), datatype)
    return [tensor.set_data_from_numpy(rows, binary_data=as_bytes)]


def asked(*names, as_bytes=True):
    return [triton.InferRequestedOutput(name, binary_data=as_bytes) for name in names]


def test_the_client_finds_the_server_and_the_model_alive_and_ready(client, service):
    assert client.is_server_live() and client.is_server_ready()
    assert client.is_model_ready("tiny") and client.is_model_ready("tiny", service.version)
    assert not client.is_model_ready("other") and not client.is_model_ready("tiny", "1")


def test_the_client_reads_what_the_server_and_the_model_are(client, service):
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    expected = {"name": "vigil", "version": version, "extensions": ["binary_tensor_data"]}
    assert client.get_server_metadata() == expected
    said = client.get_model_metadata("tiny")
    assert (said["name"], said["versions"]) == ("tiny", [service.version])
    assert said["inputs"] == [{"name": "input", "datatype": "UINT8", "shape": [-1, 8, 8]}]
    assert [(one["name"], one["datatype"], one["shape"]) for one in said["outputs"]] == [
        ("probabilities", "FP32", [-1, 10]), ("logits", "FP32", [-1, 10]), ("class", "BYTES", [-1]),
    ]  # fmt: skip
    assert client.get_model_metadata("tiny", service.version) == said


@pytest.mark.parametrize("sent_as_bytes", [True, False])
@pytest.mark.parametrize("answered_as_bytes", [True, False, None])
def test_the_client_gets_what_onnx_runtime_gives_in_every_encoding(client, service, sent_as_bytes, answered_as_bytes):
    names = ("logits", "class", "probabilities")
    outputs = None if answered_as_bytes is None else asked(*names, as_bytes=answered_as_bytes)
    for version in ("", service.version):
        got = client.infer("tiny", given(ROWS, sent_as_bytes), version, outputs, "request-7")
        np.testing.assert_allclose(got.as_numpy("probabilities"), EXPECTED, atol=1e-6)
        np.testing.assert_allclose(got.as_numpy("logits"), LOGITS, atol=1e-4)
        classes = [one.decode() if isinstance(one, bytes) else one for one in got.as_numpy("class")]
        assert classes == [DIGITS[k] for k in EXPECTED.argmax(axis=1)]
        said = got.get_response()
        assert (said["model_name"], said["model_version"], said["id"]) == ("tiny", service.version, "request-7")


def test_the_client_gets_one_output_alone_and_an_id_that_the_service_made(client):
    got = client.infer("tiny", given(ROWS[:1]), outputs=asked("logits"))
    assert [one["name"] for one in got.get_response()["outputs"]] == ["logits"]
    assert got.get_response()["id"]


def test_the_client_may_send_parameters_of_its_own(client):
    got = client.infer("tiny", given(), parameters={"tenant": "a", "trace": True}, priority=1, timeout=1000)
    assert got.as_numpy("probabilities").shape == (5, 10)


def test_the_client_gets_many_answers_at_once(client):
    waiting = [client.async_infer("tiny", given(ROWS[i % 5 :][:1])) for i in range(20)]
    for i, one in enumerate(waiting):
        np.testing.assert_allclose(one.get_result().as_numpy("probabilities"), EXPECTED[i % 5 :][:1], atol=1e-6)


@pytest.mark.parametrize(
    ("model", "sent", "outputs", "status", "message"),
    [
        ("other", given(), None, "404", "'other' is not served here; served: tiny"),
        ("tiny", given(ROWS[:, :7]), None, "422", "input: must have the shape [n, 8, 8] with n >= 1, found [5, 7, 8]"),
        (
            "tiny",
            given(ROWS.astype(np.float32), True, "FP32"),
            None,
            "422",
            "must have the datatype UINT8, found 'FP32'",
        ),
        ("tiny", given() * 2, None, "400", "inputs: must be a list of one tensor, 'input', found 2 of them"),
        ("tiny", given(), asked("labels"), "400", "the model has no output 'labels'; it has probabilities, logits"),
        ("tiny", given(), [triton.InferRequestedOutput("logits", class_count=3)], "400", "ask for the output 'class'"),
    ],
)
def test_the_client_is_told_what_was_wrong(client, model, sent, outputs, status, message):
    with pytest.raises(InferenceServerException) as caught:
        client.infer(model, sent, outputs=outputs)
    assert message in caught.value.message() and caught.value.status() == status
    assert client.is_server_ready()


def test_a_version_that_is_not_served_is_refused_to_the_client(client):
    with pytest.raises(InferenceServerException, match="version '7' is not served") as caught:
        client.infer("tiny", given(), "7")
    assert caught.value.status() == "404"


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_a_compressed_request_of_the_client_is_refused(client, algorithm):
    with pytest.raises(InferenceServerException, match="a compressed body is not accepted; send it as it is") as caught:
        client.infer("tiny", given(), request_compression_algorithm=algorithm)
    assert caught.value.status() == "415"


def test_a_client_that_takes_compressed_answers_gets_a_plain_one(client):
    got = client.infer("tiny", given(), response_compression_algorithm="gzip")
    np.testing.assert_allclose(got.as_numpy("probabilities"), EXPECTED, atol=1e-6)
