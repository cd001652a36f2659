"""Bound runs. The same code runs on the CPU, where its answers can be compared bit by bit, and on a GPU."""

import ctypes
import stat
import threading

import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from odd_release import altered, endless_for_bright, release_with
from onnx import TensorProto, helper, numpy_helper
from tiny_release import IMAGE, rows_of, run

from registry.release import InputSpec
from serving import gpu, source
from serving.engine import Engine, EngineError, Stopped
from serving.gpu import LARGEST, BoundSession, GpuSettings
from serving.outputs import OutputSpec

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
ROW = InputSpec("float32", (4,))


def has_gpu():
    if CUDA not in onnxruntime.get_available_providers():
        return False
    try:
        return ctypes.CDLL("libcuda.so.1").cuInit(0) == 0
    except OSError:
        return False


needs_gpu = pytest.mark.skipif("not has_gpu()", reason="needs an NVIDIA GPU and: pip install 'vigil[gpu]'")


def session_of(nodes, outputs, weights=()):
    """Return a CPU session of a graph on rows of 4 float32; outputs: name -> shape of a row."""
    inputs = [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 4])]
    named = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *shape]) for name, shape in outputs.items()]
    made = [numpy_helper.from_array(values, name) for name, values in dict(weights).items()]
    graph = helper.make_graph(nodes, "g", inputs, named, made)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.checker.check_model(model)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=[CPU])


@pytest.fixture(scope="module")
def two():
    """Return a session with two outputs, and what they are."""
    weights = {"W": np.random.default_rng(0).standard_normal((4, 7)).astype(np.float32)}
    nodes = [helper.make_node("MatMul", ["input", "W"], ["logits"]), helper.make_node("Tanh", ["logits"], ["main"])]
    specs = {"main": OutputSpec("float32", (7,)), "logits": OutputSpec("float32", (7,))}
    return session_of(nodes, {"main": [7], "logits": [7]}, weights), specs


def floats(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, 4)).astype(np.float32)


def bound(session, specs):
    return BoundSession(session, ROW, specs, "cpu")


@given(st.integers(1, 4 * LARGEST))
def test_a_bucket_is_the_smallest_power_of_two_that_holds_the_rows_up_to_the_largest(rows):
    size = gpu.bucket(rows)
    assert size & (size - 1) == 0 and size <= LARGEST
    assert size >= min(rows, LARGEST) and (size == 1 or size < 2 * rows)


def test_a_bound_run_answers_what_a_plain_run_answers_for_every_size_and_output(two):
    session, specs = two
    runs = bound(session, specs)
    for count in range(1, 301):
        rows = floats(count, seed=count)
        expected = session.run(["main", "logits"], {"input": rows})
        for names, wanted in ((("main", "logits"), expected), ((), expected[:1]), (("logits",), expected[1:])):
            for got, plain in zip(runs.run(rows, names), wanted, strict=True):
                np.testing.assert_allclose(got, plain, rtol=0, atol=1e-6)


def test_the_memory_of_a_size_is_taken_once_and_that_of_the_largest_bounds_it(two):
    runs = bound(*two)
    for count in [3, 4, 3, 4, *range(1, 301), 1000]:
        runs.run(floats(count))
        runs.run(floats(count), ("logits",))
    sizes = [size for size, _ in runs._buffers]
    assert sorted(set(sizes)) == [1, 2, 4, 8, 16, 32, 64, 128, 256] and len(sizes) == 18
    before = {key: buffers.host.ctypes.data for key, buffers in runs._buffers.items()}
    runs.run(floats(5))
    assert {key: buffers.host.ctypes.data for key, buffers in runs._buffers.items()} == before


def test_an_answer_is_not_written_over_by_the_next_run(two):
    runs = bound(*two)
    first = runs.run(floats(4, seed=1))[0]
    kept = first.copy()
    runs.run(floats(4, seed=2))
    np.testing.assert_array_equal(first, kept)


def test_what_fills_a_batch_up_changes_no_answer_even_if_rows_are_scaled_by_the_whole_batch():
    nodes = [
        helper.make_node("ReduceMax", ["input"], ["top"], keepdims=0),
        helper.make_node("ReduceMin", ["input"], ["bottom"], keepdims=0),
        helper.make_node("Sub", ["top", "bottom"], ["range"]),
        helper.make_node("Div", ["input", "range"], ["main"]),
    ]
    session = session_of(nodes, {"main": [4]})
    runs = bound(session, {"main": OutputSpec("float32", (4,))})
    for count in (3, 5, 100):
        rows = floats(count) + 50
        np.testing.assert_array_equal(runs.run(rows)[0], session.run(None, {"input": rows})[0])


def test_rows_of_several_requests_are_joined_where_the_device_copies_from(two):
    session, specs = two
    runs = bound(session, specs)
    for counts in ((1, 2), (1, 3), (5, 6, 7), (200, 200)):
        parts = [floats(count, seed=count) for count in counts]
        joined = runs.join(parts)
        np.testing.assert_array_equal(joined, np.concatenate(parts))
        expected = session.run(["main"], {"input": np.concatenate(parts)})[0]
        np.testing.assert_allclose(runs.run(joined)[0], expected, rtol=0, atol=1e-6)
    assert runs.join([floats(1), floats(2)]).base is runs._buffers[4, False].host


@pytest.mark.parametrize("rows", [np.zeros((3, 1), np.float32), np.zeros((3, 4), np.float64), np.float32([1, 2, 3, 4])])
def test_rows_that_do_not_fit_are_refused_and_never_stretched(two, rows):
    with pytest.raises(ValueError, match="rows are float.*expected float32"):
        bound(*two).run(rows)


def test_an_output_whose_size_the_graph_does_not_say_is_bound_too():
    session = session_of([helper.make_node("Identity", ["input"], ["main"])], {"main": ["unknown"]})
    runs = bound(session, {"main": OutputSpec("float32", (None,))})
    for count in (1, 3, 3, 8):
        rows = floats(count, seed=count)
        np.testing.assert_array_equal(runs.run(rows)[0], rows)


def test_what_a_model_does_not_allow_is_left_out_step_by_step():
    tried = [(one.cuda_graphs, one.tf32) for one in gpu.attempts(GpuSettings())]
    assert tried == [(True, True), (True, False), (False, True), (False, False)]
    assert gpu.attempts(GpuSettings(cuda_graphs=False, tf32=False)) == [GpuSettings(cuda_graphs=False, tf32=False)]


def test_tensorrt_is_told_every_size_and_a_cache_that_is_private_to_the_release(tmp_path):
    settings = GpuSettings(tensorrt_cache=tmp_path / "trt")
    said = gpu.provider_options("TensorrtExecutionProvider", settings, IMAGE, "fp16", "abc")
    assert said["trt_profile_min_shapes"] == "input:1x8x8" and said["trt_profile_max_shapes"] == "input:256x8x8"
    assert said["trt_fp16_enable"] == "1" and said["trt_engine_cache_path"] == str(tmp_path / "trt" / "abc")
    assert stat.S_IMODE((tmp_path / "trt" / "abc").stat().st_mode) == 0o700
    assert gpu.provider_options(CUDA, settings, IMAGE, "fp32", "abc") == {"enable_cuda_graph": "1", "use_tf32": "1"}
    assert gpu.provider_options(CPU, settings, IMAGE, "fp32", "abc") == {}


@pytest.fixture
def on_device(monkeypatch):
    """Let an engine on the CPU go the way of a device: bound buffers, buckets and the checks before."""
    monkeypatch.setitem(gpu.DEVICES, CPU, "cpu")


def test_an_engine_on_a_device_answers_every_output_as_onnx_runtime_does(publish, on_device):
    made, rows = publish(), rows_of(IMAGE, 300, seed=3)
    engine = Engine(made, ("cpu",), threads=1)
    for name in ("probabilities", "logits"):
        expected = run(made.read("model.onnx"), rows, name)
        for count in (1, 2, 7, 256, 300):
            np.testing.assert_allclose(engine.run(rows[:count], (name,))[0], expected[:count], rtol=0, atol=1e-6)
    joined = engine.join([rows[:2], rows[2:9]])
    np.testing.assert_array_equal(engine.run(joined)[0], engine.run(rows[:9])[0])


def test_an_engine_on_a_device_is_warm_in_every_size_and_tells_the_times(publish, on_device):
    engine = Engine(publish(), ("cpu",), threads=1)
    facts = engine.facts()
    assert list(facts["bucket_us"]) == ["1", "2", "4", "8", "16", "32", "64", "128", "256"]
    assert (facts["cuda_graphs"], facts["tf32"], facts["pinned"]) == (True, True, False)
    assert engine.expected_s(3) == engine.expected_s(4) > 0
    assert engine.expected_s(LARGEST + 3) == engine.expected_s(LARGEST) + engine.expected_s(3)


def test_an_engine_on_a_device_refuses_a_release_that_does_not_repeat_its_answers(tmp_path, publish, on_device):
    def swap(arrays):
        arrays["probabilities"] = np.roll(arrays["probabilities"], 1, axis=1)

    with pytest.raises(EngineError, match="answers its held-out rows differently by") as caught:
        Engine(altered(tmp_path, swap), ("cpu",), threads=1)
    assert caught.value.reason == "golden"


def test_a_run_on_a_device_that_loses_to_the_certificate_with_coarse_products_goes_without(publish, on_device):
    strict = {"max_difference": 0.0, "limit": -1.0}  # nothing is within it
    engine = Engine(publish(parity=strict), ("cpu",), threads=1)
    assert engine.facts()["tf32"] is False


def test_a_run_on_a_device_is_stopped_from_another_thread(tmp_path, on_device):
    engine = Engine(release_with(tmp_path, endless_for_bright), ("cpu",), threads=1)
    options = onnxruntime.RunOptions()
    stop = threading.Timer(0.1, lambda: setattr(options, "terminate", True))
    stop.start()
    with pytest.raises(Stopped, match="a run of 3 rows was stopped"):
        engine.run(np.full((3, 8, 8), 255, np.uint8), (), options)
    stop.join()
    assert engine.run(rows_of(IMAGE, 3))[0].shape == (3, 10)


def test_a_provider_that_is_installed_and_cannot_open_a_good_model_is_to_blame(publish, monkeypatch):
    # With the package for CPUs, asking for CUDA raises inside ONNX Runtime, as TensorRT without its libraries does.
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(source, "_preload", lambda: None)
    with pytest.raises(EngineError, match="ONNX Runtime cannot load it") as caught:
        Engine(publish(), ("cuda", "cpu"), threads=1)
    assert caught.value.reason == "provider"


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("graphs", [True, False])
def test_a_gpu_answers_as_the_cpu_does_within_the_certificate(publish, graphs):
    made, rows = publish(), rows_of(IMAGE, 300)
    engine = Engine(made, ("cuda", "cpu"), 0, GpuSettings(cuda_graphs=graphs))
    assert engine.provider == CUDA and engine.facts()["cuda_graphs"] is graphs and engine.facts()["pinned"]
    expected = run(made.read("model.onnx"), rows, "probabilities")
    for count in (1, 2, 7, 64, 256, 300, 7, 1):
        assert np.abs(engine.run(rows[:count])[0] - expected[:count]).max() <= made.manifest.parity["limit"]
        logits = engine.run(rows[:count], ("logits", "probabilities"))[0]
        np.testing.assert_allclose(logits, run(made.read("model.onnx"), rows[:count], "logits"), atol=1e-2)


@pytest.mark.gpu
@needs_gpu
def test_pages_of_an_array_are_locked_while_it_lives():
    assert gpu.lock_pages(np.zeros(1 << 20, np.uint8))
