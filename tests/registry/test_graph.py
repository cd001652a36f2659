import numpy as np
import onnx
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from tiny_release import DIGITS, IMAGE, onnx_bytes

from registry import graph
from registry.errors import ReleaseError

GOOD = onnx_bytes(IMAGE, len(DIGITS), 0)


def outside(tensor, location):
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="length", value="8")
    tensor.external_data.add(key="location", value=location)
    return tensor


def small(location=None):
    tensor = numpy_helper.from_array(np.zeros(2, np.float32), "w")
    return tensor if location is None else outside(tensor, location)


def in_a_weight(model):
    outside(model.graph.initializer[0], "here.bin")


def in_a_sparse_weight(model):
    sparse = helper.make_sparse_tensor(small("here.bin"), numpy_helper.from_array(np.zeros(2, np.int64), "i"), [9])
    model.graph.sparse_initializer.append(sparse)


def in_an_attribute(model):
    model.graph.node.append(helper.make_node("Constant", [], ["c"], value=small("here.bin")))


def in_a_list_of_tensors(model):
    model.graph.node.append(helper.make_node("Custom", [], ["c"], values=[small(), small("here.bin")]))


def in_a_branch(model):
    inner = helper.make_graph([], "b", [], [], [small("here.bin")])
    outer = helper.make_graph([helper.make_node("Loop", [], ["l"], body=inner)], "o", [], [])
    model.graph.node.append(helper.make_node("If", ["x"], ["c"], then_branch=outer, else_branch=outer))


def in_a_function(model):
    node = helper.make_node("Constant", [], ["c"], value=small("here.bin"))
    model.functions.append(helper.make_function("", "f", [], ["c"], [node], [helper.make_opsetid("", 20)]))


@pytest.mark.parametrize(
    "hide",
    [in_a_weight, in_a_sparse_weight, in_an_attribute, in_a_list_of_tensors, in_a_branch, in_a_function],
)
def test_a_weight_that_lies_in_another_file_is_found_wherever_it_hides(hide):
    model = onnx.ModelProto.FromString(GOOD)
    hide(model)
    assert graph.references(model.SerializeToString(), "tiny").files == {"here.bin"}
    with pytest.raises(ReleaseError, match=r"tiny: takes weights from 'here.bin'; accepted are weights of the main"):
        graph.weights(model.SerializeToString(), {"model.onnx.data": b""}, "tiny")
    if hide is not in_a_weight:  # only those of the main graph are handed over as verified bytes
        with pytest.raises(ReleaseError, match=r"tiny: takes weights from 'here.bin'"):
            graph.weights(model.SerializeToString(), {"here.bin": bytes(8)}, "tiny")


@pytest.mark.parametrize("dtype", ["f4", "u1", "i1", "u2", "i2", "i4", "i8", "?", "f2", "f8", "u4", "u8"])
def test_weights_outside_are_the_numbers_that_onnx_reads(dtype):
    values = np.arange(24).reshape(2, 3, 4).astype(dtype)
    tensor = numpy_helper.from_array(values, "w")
    content = b"junk" + tensor.raw_data
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "d"), ("offset", "4"), ("length", str(len(content) - 4))):
        tensor.external_data.add(key=key, value=value)
    model = helper.make_model(helper.make_graph([], "g", [], [], [tensor]))
    found = graph.weights(model.SerializeToString(), {"d": content}, "tiny")["w"]
    assert found.dtype == values.dtype and np.array_equal(found, values)


@pytest.mark.parametrize(
    "change", [{"length": "4"}, {"length": "12"}, {"offset": "1"}, {"offset": "-8"}, {"offset": "9999999999999"}]
)
def test_a_weight_that_ends_outside_its_file_or_has_another_size_is_refused(change):
    tensor = small()
    tensor.ClearField("raw_data")
    for key, value in ({"location": "d", "offset": "0", "length": "8"} | change).items():
        tensor.external_data.add(key=key, value=value)
    model = helper.make_model(helper.make_graph([], "g", [], [], [tensor]))
    with pytest.raises(ReleaseError, match="tiny: weight 'w' needs 8 bytes and names"):
        graph.weights(model.SerializeToString(), {"d": bytes(8)}, "tiny")


def test_a_weight_of_a_type_without_a_name_in_numpy_is_refused():
    tensor = outside(small(), "d")
    tensor.data_type = onnx.TensorProto.FLOAT8E4M3FN
    model = helper.make_model(helper.make_graph([], "g", [], [], [tensor]))
    with pytest.raises(ReleaseError, match="needs -1 bytes"):
        graph.weights(model.SerializeToString(), {"d": bytes(8)}, "tiny")


def evil_node(model):
    model.graph.node.append(helper.make_node("Softmax", ["logits"], ["c"], domain="com.evil"))


def evil_node_in_a_function(model):
    node = helper.make_node("Softmax", ["a"], ["c"], domain="com.evil")
    model.functions.append(helper.make_function("", "f", ["a"], ["c"], [node], [helper.make_opsetid("", 20)]))


def evil_function(model):
    model.functions.append(helper.make_function("com.evil", "f", [], [], [], [helper.make_opsetid("", 20)]))


def evil_opset(model):
    model.opset_import.append(helper.make_opsetid("com.evil", 1))


@pytest.mark.parametrize("change", [evil_node, evil_node_in_a_function, evil_function, evil_opset])
def test_an_operator_of_another_domain_is_refused_wherever_it_hides(change):
    model = onnx.ModelProto.FromString(GOOD)
    change(model)
    with pytest.raises(ReleaseError, match=r"tiny: uses operators of the domain com\.evil"):
        graph.weights(model.SerializeToString(), {}, "tiny")


def test_a_field_that_others_would_read_under_another_number_is_refused():
    opset = helper.make_opsetid("com.evil", 1).SerializeToString()
    key = b"\xc2\x80\x80\x80\x10"  # 2**32 + (8 << 3 | 2): a reader of 32 bits sees an opset_import
    with pytest.raises(ReleaseError, match="tiny: not an ONNX file: a field without a valid number"):
        graph.weights(GOOD + key + bytes([len(opset)]) + opset, {}, "tiny")


def test_a_plain_file_refers_to_nothing():
    assert graph.references(GOOD, "tiny") == graph.References(frozenset({""}), (), frozenset())
    assert graph.weights(GOOD, {}, "tiny") == {}


def test_a_file_that_onnx_runtime_would_read_in_another_format_is_refused():
    model = onnx.ModelProto.FromString(GOOD)
    fields = b"\x12\x20..ORTM" + b"." * 26  # producer_name, which puts the mark where ONNX Runtime looks for it
    both = fields + model.SerializeToString()
    assert onnx.ModelProto.FromString(both).graph == model.graph
    with pytest.raises(ReleaseError, match="tiny: not an ONNX file: it is marked as a file in the format of ONNX Runt"):
        graph.weights(both, {}, "tiny")


def test_a_file_in_the_format_of_onnx_runtime_is_refused(tmp_path):
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "model.ort")
    options.add_session_config_entry("session.save_model_format", "ORT")
    onnxruntime.InferenceSession(GOOD, options, providers=["CPUExecutionProvider"])
    with pytest.raises(ReleaseError, match="in the format of ONNX Runtime"):
        graph.weights((tmp_path / "model.ort").read_bytes(), {}, "tiny")


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
def test_a_damaged_file_is_read_or_refused_and_nothing_else(place, byte):
    damaged = GOOD[:place] + bytes([byte]) + GOOD[place + 1 :]
    for content in (damaged, GOOD[:place], damaged[place:]):
        try:
            graph.weights(content, {}, "tiny")
        except ReleaseError as error:
            assert str(error).startswith("tiny: ")
