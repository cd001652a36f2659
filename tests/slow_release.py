"""Releases whose runs take as long as asked: the tiny classifier with a loop of matrix products."""

import time

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from tiny_release import DIGITS, IMAGE, make_draft, make_files, onnx_bytes, rows_of

from registry import store

SIDE = 160
TRIED = 200  # trips of the loop that are timed to know what one takes


def slow_bytes(trips, seed=0):
    """Return the tiny classifier of `seed`, which answers the same after `trips` matrix products on one thread."""
    model = onnx.ModelProto.FromString(onnx_bytes(IMAGE, len(DIGITS), seed))
    graph = model.graph
    inner = helper.make_graph(
        [
            helper.make_node("Identity", ["go_on"], ["go_on_out"]),
            helper.make_node("MatMul", ["state", "turn"], ["state_out"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, [SIDE, SIDE]),
        ],
        [
            helper.make_tensor_value_info("go_on_out", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state_out", TensorProto.FLOAT, [SIDE, SIDE]),
        ],
    )
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((SIDE, SIDE)))[0].astype(np.float32)
    graph.initializer.extend(
        numpy_helper.from_array(value, name)
        for name, value in (
            ("trips", np.array(trips, np.int64)), ("yes", np.array(True)), ("turn", turn), ("none", np.float32(0)),
        )
    )  # fmt: skip
    place = next(i for i, node in enumerate(graph.node) if node.op_type == "MatMul")
    product = graph.node[place]
    product.output[0] = "product"
    graph.node.insert(place + 1, helper.make_node("ReduceMax", ["float"], ["most"], keepdims=0))
    graph.node.insert(place + 2, helper.make_node("Mul", ["most", "none"], ["nothing"]))  # so that nothing is folded
    graph.node.insert(place + 3, helper.make_node("Add", ["turn", "nothing"], ["start"]))
    graph.node.insert(place + 4, helper.make_node("Loop", ["trips", "yes", "start"], ["end"], body=inner))
    graph.node.insert(place + 5, helper.make_node("ReduceMax", ["end"], ["last"], keepdims=0))
    graph.node.insert(place + 6, helper.make_node("Mul", ["last", "none"], ["delay"]))
    graph.node.insert(place + 7, helper.make_node("Add", ["product", "delay"], ["logits"]))
    return model.SerializeToString()


def trips_of(run_s):
    """Return the trips that take about `run_s` seconds here and now."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(slow_bytes(TRIED), options, providers=["CPUExecutionProvider"])
    row = rows_of(IMAGE, 1)
    took = []
    for _ in range(5):
        started = time.perf_counter()
        session.run(["probabilities"], {"input": row})
        took.append(time.perf_counter() - started)
    return max(1, round(run_s / min(took) * TRIED))


def publish_slow(folder, run_s, name="tiny", seed=0, **changed):
    """Publish a release of which a run of any number of rows takes at least about `run_s`; serve with one thread."""
    files = make_files(folder / f"slow-{name}-{seed}-{time.monotonic_ns()}", seed=seed)
    (files / "model.onnx").write_bytes(slow_bytes(trips_of(run_s), seed))
    return store.publish(make_draft(name, **changed), files)
