"""Releases whose model or answers were changed before their digests were fixed: whole, and wrong."""

import io
import uuid

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from tiny_release import DIGITS, IMAGE, make_draft, make_files, onnx_bytes

from registry import store


def altered(tmp_path, change, spec=IMAGE, classes=DIGITS):
    """Publish a release whose held-out answers were changed before its digests were fixed."""
    files = make_files(tmp_path / "files", spec, classes)
    with np.load(files / "heldout.npz") as heldout:
        arrays = dict(heldout)
    change(arrays)
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    (files / "heldout.npz").write_bytes(stream.getvalue())
    return store.publish(make_draft(spec=spec, classes=classes), files)


def release_with(tmp_path, change, name="tiny"):
    """Publish a release whose graph was changed before its digests were fixed."""

    files = make_files(tmp_path / f"files-{name}-{uuid.uuid4()}")
    model = onnx.ModelProto.FromString(onnx_bytes(IMAGE, len(DIGITS), 0))
    change(model.graph)
    (files / "model.onnx").write_bytes(model.SerializeToString())
    return store.publish(make_draft(name), files)


def endless_for_bright(graph):
    """Let the model repeat its last step for ever when a pixel is brighter than 100; the held-out ones are not."""
    logits = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 10]) for name in ("v", "w")]
    goes_on = [helper.make_tensor_value_info(name, TensorProto.BOOL, []) for name in ("c", "d")]
    turn = helper.make_tensor_value_info("i", TensorProto.INT64, [])
    steps = [helper.make_node("Identity", ["c"], ["d"]), helper.make_node("Identity", ["v"], ["w"])]
    body = helper.make_graph(steps, "body", [turn, goes_on[0], logits[0]], [goes_on[1], logits[1]])
    graph.initializer.append(numpy_helper.from_array(np.float32(100), "limit"))
    last = graph.node.pop()
    graph.node.extend([
        helper.make_node("ReduceMax", ["flat"], ["brightest"], keepdims=0),
        helper.make_node("Greater", ["brightest", "limit"], ["bright"]),
        helper.make_node("Loop", ["", "bright", "logits"], ["looped"], body=body),
        helper.make_node("Softmax", ["looped"], list(last.output), axis=-1),
    ])  # fmt: skip


def hungry(bytes_):
    """Return a change that lets a model fill so many bytes in each run, and answer as before."""

    def change(graph):
        last = graph.node.pop()
        graph.initializer.append(numpy_helper.from_array(np.array([bytes_ // 4], np.int64), "size"))
        graph.node.extend([
            helper.make_node("ConstantOfShape", ["size"], ["filled"]),
            helper.make_node("ReduceMax", ["filled"], ["nothing"], keepdims=0),
            helper.make_node("Add", ["logits", "nothing"], ["same"]),
            helper.make_node("Softmax", ["same"], list(last.output), axis=-1),
        ])  # fmt: skip

    return change


def endless(graph):
    """Let the model repeat its last step for ever, whatever it is asked."""
    endless_for_bright(graph)
    limit = next(weight for weight in graph.initializer if weight.name == "limit")
    limit.CopyFrom(numpy_helper.from_array(np.float32(-1), "limit"))
