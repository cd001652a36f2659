import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper

from registry.errors import ExportError
from registry.release import InputSpec
from training import export, models
from training.config import Model
from training.data import moments

ROWS = np.random.default_rng(0).integers(0, 17, (40, 8, 8), dtype=np.uint8)
ASKED = export.Asked(InputSpec("uint8", (8, 8)), ("a", "b", "c"))
FACTS = {"name": "demo", "classes": json.dumps(ASKED.classes)}


def build(seed=0):
    torch.manual_seed(seed)
    model = models.Classifier(models.build(Model("cnn", width=4), (8, 8), 3, Path()), moments(ROWS))
    model.train()
    for _ in range(5):  # so that the running statistics of batch norm are not those of a fresh layer
        model(torch.from_numpy(ROWS))
    model.temperature.fill_(1.3)
    return model.eval()


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A model and the file exported from it."""
    model, path = build(), tmp_path_factory.mktemp("good") / "model.onnx"
    export.export(model, ASKED, path, FACTS)
    return model, path


def test_the_file_is_whole_free_in_batch_and_says_where_it_came_from(good):
    _, path = good
    assert [p.name for p in path.parent.iterdir()] == ["model.onnx"]
    proto = onnx.load(path)
    assert {p.key: p.value for p in proto.metadata_props} == FACTS
    assert [entry.version for entry in proto.opset_import] == [20]
    assert proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert [output.name for output in proto.graph.output] == ["probabilities", "logits"]
    kinds = {node.op_type for node in proto.graph.node}
    assert {"Cast", "Conv", "Softmax"} <= kinds
    assert not kinds & {"BatchNormalization", "Dropout"}
    assert b".py" not in path.read_bytes()


def test_the_certificate_covers_every_batch_size_and_states_its_limit(good):
    model, path = good
    certificate = export.certify(model, path, ROWS, 1e-4)
    assert certificate["batch_rows"] == [1, 2, 7, 64, 256]
    assert certificate["rows"] == 40
    assert 0 <= certificate["mean_difference"] <= certificate["max_difference"] <= certificate["limit"] == 1e-4
    assert certificate["top_class_changes"] == 0
    assert certificate["provider"] == "CPUExecutionProvider"
    assert certificate["versions"] == export.versions()


def test_raw_rows_in_the_file_give_what_torch_gives(good):
    model, path = good
    session = export.session_of(path.read_bytes())
    expected = models.predict(model, ROWS)
    for got, want in zip(export.run(session, ROWS, 7), expected, strict=True):
        assert got.shape == want.shape
        assert got == pytest.approx(want, abs=1e-5)


REBUILD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from tests.training.test_export import ASKED, FACTS, build
from training import export
export.export(build(), ASKED, Path("model.onnx"), FACTS)
"""


def test_another_process_in_another_folder_writes_the_same_bytes(good, tmp_path):
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, "-c", REBUILD, str(root)], cwd=tmp_path, check=True, timeout=120)
    assert (tmp_path / "model.onnx").read_bytes() == good[1].read_bytes()


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
        (foreign_opset, "opsets are .*com.evil"),
        (extra_output, "output is probabilities .*, embedding float"),
        (outputs_exchanged, r"output is logits .*, probabilities .*; accepted is probabilities .*, logits"),
        (outside_weights, "not a valid ONNX graph: .* should be stored in weights.bin"),
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
        export.check(proto, ASKED, str(spoilt))
        export.certify(model, spoilt, ROWS, 1e-4)


def test_answers_that_are_not_numbers_are_above_any_limit(good, tmp_path):
    model, path = good
    proto = onnx.load(path)
    nan_weight(proto)
    (tmp_path / "model.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ExportError, match="differs from the PyTorch model by nan"):
        export.certify(model, tmp_path / "model.onnx", ROWS, 1e-4)


def test_the_file_of_another_model_is_refused(good):
    with pytest.raises(ExportError, match="differs from the PyTorch model by .*limit 0.0001; the top class changes in"):
        export.certify(build(seed=1), good[1], ROWS, 1e-4)


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
        export.certify(model, tmp_path / "model.onnx", ROWS, 1e-4)


def test_a_file_that_does_not_run_is_refused_by_its_batch_size(good):
    session = export.session_of(good[1].read_bytes())
    with pytest.raises(ExportError, match="does not run with 2 rows"):
        export.run(session, ROWS[:, :7], 2)
