"""Files that are not what was trained, and networks that cannot be exported: all refused."""

import shutil

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from tiny_export import ASKED, FACTS, LIMIT, ROWS, build

from registry.errors import ExportError
from training.export import export
from training.export.certificate import certify
from training.fit import models
from training.rows.data import moments


@pytest.mark.parametrize("length", [0, 100, -4])
def test_a_truncated_file_of_weights_is_refused(good, large, tmp_path, length):
    shutil.copytree(large.parent, tmp_path / "large")
    side = tmp_path / "large" / "model.onnx.data"
    side.write_bytes(side.read_bytes()[:length])
    with pytest.raises(ExportError, match=r"model\.onnx"):
        export.check(tmp_path / "large" / "model.onnx", ASKED)


def weight(proto, ndim):
    return next(t for t in proto.graph.initializer if len(t.dims) == ndim and t.data_type == onnx.TensorProto.FLOAT)


def put(tensor, values):
    tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), tensor.name))


def frozen_batch(proto):
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 3
    del proto.graph.value_info[:]


def transposed_input(proto):
    dims = proto.graph.input[0].type.tensor_type.shape.dim
    dims[0].dim_value, dims[1].dim_param = 8, "batch"
    del proto.graph.value_info[:]


def missing_softmax(proto):
    node = next(node for node in proto.graph.node if node.op_type == "Softmax")
    node.CopyFrom(helper.make_node("Identity", node.input, node.output))


def swapped_classes(proto):
    matrix = next(t for t in proto.graph.initializer if list(t.dims)[:1] == [3] and len(t.dims) == 2)
    put(matrix, numpy_helper.to_array(matrix)[[1, 0, 2]])


def nan_weight(proto):
    values = numpy_helper.to_array(weight(proto, 4)).copy()
    values.flat[0] = np.nan
    put(weight(proto, 4), values)


def truncated_weights(proto):
    tensor = weight(proto, 4)
    values = numpy_helper.to_array(tensor).copy()
    values[len(values) // 2 :] = 0
    put(tensor, values)


def wrong_mean(proto):
    node = next(node for node in proto.graph.node if node.op_type == "Sub")
    tensor = next(t for t in proto.graph.initializer if t.name == node.input[1])
    put(tensor, numpy_helper.to_array(tensor) + 1)


def wrong_std(proto):
    node = next(node for node in proto.graph.node if node.op_type == "Div")
    tensor = next(t for t in proto.graph.initializer if t.name == node.input[1])
    put(tensor, numpy_helper.to_array(tensor) * 2)


def wrong_input_dtype(proto):
    proto.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT


def wrong_output_dtype(proto):
    proto.graph.output[1].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    node = next(node for node in proto.graph.node if "logits" in node.output)
    node.output[0] = "narrow"
    for other in proto.graph.node:
        other.input[:] = ["narrow" if name == "logits" else name for name in other.input]
    proto.graph.node.append(helper.make_node("Cast", ["narrow"], ["logits"], to=onnx.TensorProto.DOUBLE))


def custom_operator(proto):
    node = next(node for node in proto.graph.node if node.op_type == "Softmax")
    node.domain = "com.evil"
    proto.opset_import.append(helper.make_opsetid("com.evil", 1))


def hidden_custom_operator(proto):
    """Put the operator of another domain into one branch of an If."""
    inner = helper.make_node("Softmax", ["logits"], ["inner"], domain="com.evil")
    branch = helper.make_graph([inner], "b", [], [helper.make_tensor_value_info("inner", 1, None)])
    proto.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    proto.graph.node.append(helper.make_node("If", ["yes"], ["chosen"], then_branch=branch, else_branch=branch))


def wrong_opset(proto):
    proto.opset_import[0].version = 19


def foreign_opset(proto):
    proto.opset_import.append(helper.make_opsetid("com.evil", 1))


def extra_output(proto):
    extra = proto.graph.output.add()
    extra.CopyFrom(proto.graph.output[1])
    extra.name = "embedding"
    proto.graph.node.append(helper.make_node("Identity", ["logits"], ["embedding"]))


def outputs_exchanged(proto):
    first, second = (onnx.ValueInfoProto.FromString(o.SerializeToString()) for o in proto.graph.output)
    del proto.graph.output[:]
    proto.graph.output.extend([second, first])


def outside_weights(proto):
    tensor = weight(proto, 4)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")


def broken_graph(proto):
    del proto.graph.node[2]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (frozen_batch, r"input is input uint8 \(3, 8, 8\); accepted is input uint8 \('batch', 8, 8\)"),
        (transposed_input, r"input is input uint8 \(8, 'batch', 8\)"),
        (missing_softmax, "differs from the PyTorch model by"),
        (swapped_classes, "differs from the PyTorch model by"),
        (nan_weight, "weight '.*' is not finite"),
        (truncated_weights, "differs from the PyTorch model by"),
        (wrong_mean, "differs from the PyTorch model by"),
        (wrong_opset, "opsets are {'': 19}; accepted is ONNX 20 alone"),
        (foreign_opset, "uses operators of the domain com.evil"),
        (custom_operator, "uses operators of the domain com.evil"),
        (hidden_custom_operator, "uses operators of the domain com.evil"),
        (wrong_std, "differs from the PyTorch model by"),
        (wrong_input_dtype, "input is input float .*; accepted is input uint8"),
        (wrong_output_dtype, "output is .* logits double"),
        (extra_output, "output is probabilities .*, embedding float"),
        (outputs_exchanged, r"output is logits .*, probabilities .*; accepted is probabilities .*, logits"),
        (outside_weights, "takes weights from 'weights.bin'; accepted are weights inside the file"),
        (broken_graph, "not a valid ONNX graph"),
    ],
)
def test_a_bad_export_is_refused(good, tmp_path, spoil, message):
    model, path = good
    proto = onnx.load(path)
    spoil(proto)
    spoilt = tmp_path / "model.onnx"
    spoilt.write_bytes(proto.SerializeToString())
    with pytest.raises(ExportError, match=message):
        export.check(spoilt, ASKED)
        certify(model, ASKED, spoilt, ROWS, LIMIT)


def test_answers_that_are_not_numbers_are_above_any_limit(good, tmp_path):
    model, path = good
    proto = onnx.load(path)
    nan_weight(proto)
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ExportError, match="differs from the PyTorch model by nan"):
        certify(model, ASKED, tmp_path / "model.onnx", ROWS, LIMIT)


def test_the_file_of_another_model_is_refused(good):
    with pytest.raises(ExportError, match="differs from the PyTorch model by .*limit 0.0001; the top class changes in"):
        certify(build(seed=1), ASKED, good[1], ROWS, LIMIT)


class CentredByBatch(torch.nn.Module):
    """Do what batch norm does in training mode: answer by the rows beside it."""

    def __init__(self):
        super().__init__()
        self.out = torch.nn.Linear(64, 3)

    def forward(self, x):
        x = x.flatten(1)
        return self.out(x - x.mean(dim=0))


def test_a_model_whose_answer_depends_on_the_rows_beside_it_is_refused(tmp_path):
    model = models.Classifier(CentredByBatch(), moments(ROWS))
    export.export(model, ASKED, tmp_path / "model.onnx", FACTS)
    with pytest.raises(ExportError, match="differs from the PyTorch model by"):
        certify(model, ASKED, tmp_path / "model.onnx", ROWS, LIMIT)


class Undecided(torch.nn.Module):
    """Take another course for other numbers, which a graph cannot."""

    def __init__(self):
        super().__init__()
        self.out = torch.nn.Linear(64, 3)

    def forward(self, x):
        return self.out(x.flatten(1)) if x.sum() > 0 else self.out(-x.flatten(1))


def test_a_network_that_cannot_be_exported_is_refused_in_words(tmp_path):
    model = models.Classifier(Undecided(), moments(ROWS))
    with pytest.raises(ExportError, match="(?s)PyTorch cannot export this network: .*accepted are torch.nn layers"):
        export.export(model, ASKED, tmp_path / "model.onnx", FACTS)


def test_a_file_that_does_not_run_is_refused_by_its_batch_size(good):
    session = export.session_of(good[1].read_bytes())
    with pytest.raises(ExportError, match="does not run with 2 rows"):
        export.run(session, ROWS[:, :7], 2)
