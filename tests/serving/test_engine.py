import numpy as np
import onnxruntime
import pytest
from odd_release import altered
from tiny_release import HOMES, IMAGE, make_draft, make_files, rows_of

from registry import store
from registry.errors import ReleaseError
from serving.engine import Engine, EngineError, golden_limit


def test_it_answers_as_onnx_runtime_does(publish):
    made = publish()
    engine = Engine(made, ("cpu",), threads=1)
    rows = rows_of(IMAGE, 17, seed=9)
    session = onnxruntime.InferenceSession(made.read("model.onnx"), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(engine.run(rows)[0], session.run(["probabilities"], {"input": rows})[0])
    assert engine.provider == engine.requested == "CPUExecutionProvider"


def test_the_number_of_threads_is_chosen_by_measurement_and_told(publish):
    assert Engine(publish(), ("cpu",), threads=0).threads >= 1
    assert Engine(publish(seed=2), ("cpu",), threads=1).threads == 1


def test_a_long_batch_is_expected_to_take_no_less_than_a_short_one(publish):
    engine = Engine(publish(), ("cpu",), threads=1)
    assert 0 <= engine.expected_s(1) <= engine.expected_s(1000)


@pytest.mark.skipif(
    "CUDAExecutionProvider" in onnxruntime.get_available_providers(),
    reason="this machine has CUDA; the refusal needs one without",
)
@pytest.mark.parametrize("providers", [("cuda",), ("cuda", "cpu")])
def test_cuda_that_was_asked_for_and_not_given_is_refused(publish, providers):
    with pytest.raises(EngineError, match="asked for CUDAExecutionProvider, ONNX Runtime gave CPU") as caught:
        Engine(publish(), providers, threads=1)
    assert caught.value.reason == "provider"


def test_onnx_runtime_may_not_take_another_provider_on_its_own(publish):
    assert not Engine(publish(), ("cpu",), threads=1)._large._enable_fallback


def test_a_release_that_does_not_repeat_its_own_answers_is_refused(tmp_path):
    def swap(arrays):
        arrays["probabilities"] = np.roll(arrays["probabilities"], 1, axis=1)

    with pytest.raises(EngineError, match="answers its held-out rows differently by") as caught:
        Engine(altered(tmp_path, swap), ("cpu",), threads=1)
    assert caught.value.reason == "golden"


def test_a_regression_answers_as_onnx_runtime_does(publish):
    made = publish("homes", spec=HOMES, classes=())
    rows = rows_of(HOMES, 17, seed=9)
    session = onnxruntime.InferenceSession(made.read("model.onnx"), providers=["CPUExecutionProvider"])
    answers = Engine(made, ("cpu",), threads=1).run(rows)[0]
    np.testing.assert_array_equal(answers, session.run(["prediction"], {"input": rows})[0])
    assert answers.shape == (17, 1)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6], ids=["tiny unit", "unit", "large unit"])
@pytest.mark.parametrize("offset", [0.0, 1000.0], ids=["about zero", "far from zero"])
def test_the_limit_of_a_regression_allows_rounding_and_no_other_model(scale, offset):
    stored = ((np.random.default_rng(0).standard_normal((64, 1)) + offset) * scale).astype(np.float32)
    limit = golden_limit("regression", stored)
    assert np.abs(np.nextafter(stored, np.float32(np.inf)) - stored).max() < limit
    assert np.abs(np.roll(stored, 1) - stored).max() > 20 * limit


def test_a_regression_that_does_not_repeat_its_own_answers_is_refused(tmp_path):
    def swap(arrays):
        arrays["prediction"] = np.roll(arrays["prediction"], 1)

    with pytest.raises(EngineError, match="answers its held-out rows differently by") as caught:
        Engine(altered(tmp_path, swap, HOMES, ()), ("cpu",), threads=1)
    assert caught.value.reason == "golden"


def test_a_release_without_its_answers_is_refused(tmp_path):
    with pytest.raises(EngineError, match="heldout.npz cannot be read.*prediction") as caught:
        Engine(altered(tmp_path, lambda arrays: arrays.pop("prediction"), HOMES, ()), ("cpu",), threads=1)
    assert caught.value.reason == "load"


@pytest.mark.parametrize("threads", [0, 1])
def test_a_release_that_cannot_take_its_own_rows_is_refused(tmp_path, threads):
    def widen(arrays):
        arrays["x"] = np.zeros((64, 9, 9), dtype=np.uint8)

    with pytest.raises(EngineError) as caught:
        Engine(altered(tmp_path, widen), ("cpu",), threads=threads)
    assert caught.value.reason == "load"


def test_a_file_that_is_no_model_is_refused(tmp_path):
    files = make_files(tmp_path / "files")
    (files / "model.onnx").write_bytes(b"not a model")
    with pytest.raises(EngineError, match="model.onnx: not an ONNX file") as caught:
        Engine(store.publish(make_draft(), files), ("cpu",), threads=1)
    assert caught.value.reason == "load"


def test_bytes_that_were_changed_after_publishing_never_reach_onnx_runtime(publish):
    made = publish()
    content = bytearray((made.path / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (made.path / "model.onnx").write_bytes(content)
    with pytest.raises(ReleaseError, match=r"model\.onnx is not the file that was published"):
        Engine(made, ("cpu",), threads=1)


@pytest.mark.parametrize(("name", "found"), [("embedding", "is not there"), ("logits", "is 10")])
def test_an_output_that_the_reference_is_of_and_the_graph_lacks_is_refused(publish, name, found):
    engine = Engine(publish(), ("cpu",), threads=1)
    engine.demand("logits", 10)
    with pytest.raises(EngineError, match=f"the output '{name}' {found}, its reference is of 16 numbers") as caught:
        engine.demand(name, 16)
    assert caught.value.reason == "load"
