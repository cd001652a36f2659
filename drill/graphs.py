"""Real ONNX models that answer as another does, with a fault: slow, failing or endless on some rows or on all."""

import time
from dataclasses import dataclass

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

FAILS, HANGS = 200, 255  # the brightest pixel of a row on which a trapped model fails, or never ends
TABLE = 18  # pixels of 8 x 8 digits are 0 to 16: a place beyond this table raises
SIDE = 160
TRIED = 200  # turns of the loop that are timed to know what one takes
NUMBER, FLAG, COUNT = TensorProto.FLOAT, TensorProto.BOOL, TensorProto.INT64


@dataclass(frozen=True)
class Extra:
    """Nodes whose last output is a number, 0 where the model answers as before."""

    nodes: list[onnx.NodeProto]
    constants: dict[str, np.ndarray]


def trapped(content: bytes) -> bytes:
    """Return the model of `content`, which fails on a run with a pixel of FAILS and never ends on one of HANGS."""
    constants = {
        "trap_hangs": np.array(HANGS), "trap_ever": np.array(2**60), "trap_never": np.array(0),
        "trap_nought": np.array(0, np.float32), "trap_table": np.zeros(TABLE, np.float32),
    }  # fmt: skip
    nodes = [
        helper.make_node("Cast", ["input"], ["trap_pixels"], to=COUNT),
        helper.make_node("ReduceMax", ["trap_pixels"], ["trap_brightest"], keepdims=0),
        helper.make_node("Equal", ["trap_brightest", "trap_hangs"], ["trap_endless"]),
        helper.make_node("Where", ["trap_endless", "trap_ever", "trap_never"], ["trap_turns"]),
        helper.make_node("Loop", ["trap_turns", "", "trap_nought"], ["trap_turned"], body=_doubling()),
        helper.make_node("Where", ["trap_endless", "trap_never", "trap_brightest"], ["trap_place"]),
        helper.make_node("Gather", ["trap_table", "trap_place"], ["trap_found"]),
        helper.make_node("Add", ["trap_found", "trap_turned"], ["trap_nothing"]),
    ]
    return _with(content, Extra(nodes, constants))


def endless(content: bytes) -> bytes:
    """Return a model that has the inputs and outputs of `content`, and never answers."""
    constants = {"trap_ever": np.array(2**60), "trap_nought": np.array(0, np.float32)}
    loop = helper.make_node("Loop", ["trap_ever", "", "trap_nought"], ["endless_nothing"], body=_doubling())
    return _with(content, Extra([loop], constants))


def slowed(content: bytes, run_s: float, row: np.ndarray) -> bytes:
    """Return the model of `content`, of which a run takes at least about `run_s` on this machine; row: (1, *shape)."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    tried = onnxruntime.InferenceSession(turning(content, TRIED), options, providers=["CPUExecutionProvider"])
    took = []
    for _ in range(5):
        started = time.perf_counter()
        tried.run(None, {"input": row})
        took.append(time.perf_counter() - started)
    return turning(content, max(1, round(run_s / min(took) * TRIED)))


def turning(content: bytes, turns: int) -> bytes:
    """Return the model of `content`, which makes so many products of matrices first; its answers are the same."""
    turn = np.linalg.qr(np.random.default_rng(0).standard_normal((SIDE, SIDE)))[0].astype(np.float32)
    constants = {
        "slow_turns": np.array(turns), "slow_yes": np.array(True), "slow_turn": turn, "slow_none": np.float32(0),
    }  # fmt: skip
    nodes = [
        helper.make_node("Cast", ["input"], ["slow_input"], to=NUMBER),
        helper.make_node("ReduceMax", ["slow_input"], ["slow_most"], keepdims=0),
        helper.make_node("Mul", ["slow_most", "slow_none"], ["slow_nothing"]),  # so that nothing is folded
        helper.make_node("Add", ["slow_turn", "slow_nothing"], ["slow_start"]),
        helper.make_node("Loop", ["slow_turns", "slow_yes", "slow_start"], ["slow_end"], body=_product()),
        helper.make_node("ReduceMax", ["slow_end"], ["slow_last"], keepdims=0),
        helper.make_node("Mul", ["slow_last", "slow_none"], ["slow_delay"]),
    ]
    return _with(content, Extra(nodes, {name: np.asarray(value) for name, value in constants.items()}))


def _with(content: bytes, extra: Extra) -> bytes:
    model = onnx.load_from_string(content)
    graph = model.graph
    main = next(node for node in graph.node if "probabilities" in node.output)
    nothing = extra.nodes[-1].output[0]
    plain = f"{nothing}_less"
    main.output[list(main.output).index("probabilities")] = plain
    last = helper.make_node("Add", [plain, nothing], ["probabilities"])
    graph.node.extend([*extra.nodes, last])
    graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in extra.constants.items())
    onnx.checker.check_model(model)
    changed: bytes = model.SerializeToString()
    return changed


def _doubling() -> onnx.GraphProto:
    return helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Add", ["carried", "carried"], ["next"])],
        "doubling",
        [_info("turn", COUNT), _info("go", FLAG), _info("carried", NUMBER)],
        [_info("go_on", FLAG), _info("next", NUMBER)],
    )


def _product() -> onnx.GraphProto:
    side = [SIDE, SIDE]
    return helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("MatMul", ["state", "slow_turn"], ["next"])],
        "product",
        [_info("turn", COUNT), _info("go", FLAG), helper.make_tensor_value_info("state", NUMBER, side)],
        [_info("go_on", FLAG), helper.make_tensor_value_info("next", NUMBER, side)],
    )


def _info(name: str, kind: int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, [])
