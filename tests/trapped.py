"""A model that answers as another does, but fails on a row with a pixel of 200 and never ends on one of 255."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FAILS, HANGS = 200, 255


def trapped(content):
    """Return the model of `content`, a tiny classifier of images, with both traps."""
    model = onnx.load_from_string(content)
    graph = model.graph
    nodes = list(graph.node)
    logits = next(i for i, node in enumerate(nodes) if node.output[0] == "logits")
    nodes[logits].output[0] = "plain"
    nodes[logits + 1 : logits + 1] = _traps()
    del graph.node[:]
    graph.node.extend(nodes)
    constants = {
        "hangs": np.int64(HANGS), "ever": np.int64(2**60), "never": np.int64(0), "nought": np.float32(0),
        "table": np.zeros(18, np.float32),
    }  # fmt: skip
    graph.initializer.extend(numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items())
    onnx.checker.check_model(model)
    return model.SerializeToString()


def _traps():
    # A place beyond a table raises; a loop of 2 ** 60 turns does not end. Both give 0 on all other rows.
    return [
        helper.make_node("Cast", ["input"], ["pixels"], to=TensorProto.INT64),
        helper.make_node("ReduceMax", ["pixels"], ["brightest"], keepdims=0),
        helper.make_node("Equal", ["brightest", "hangs"], ["endless"]),
        helper.make_node("Where", ["endless", "ever", "never"], ["turns"]),
        helper.make_node("Loop", ["turns", "", "nought"], ["turned"], body=_body()),
        helper.make_node("Where", ["endless", "never", "brightest"], ["place"]),
        helper.make_node("Gather", ["table", "place"], ["nothing"]),
        helper.make_node("Sum", ["plain", "nothing", "turned"], ["logits"]),
    ]


def _body():
    number, flag, count = TensorProto.FLOAT, TensorProto.BOOL, TensorProto.INT64
    return helper.make_graph(
        [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Add", ["carried", "carried"], ["next"])],
        "turn",
        [
            helper.make_tensor_value_info("turn", count, []), helper.make_tensor_value_info("go", flag, []),
            helper.make_tensor_value_info("carried", number, []),
        ],
        [helper.make_tensor_value_info("go_on", flag, []), helper.make_tensor_value_info("next", number, [])],
    )  # fmt: skip
