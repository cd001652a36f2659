import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper, numpy_helper

from registry.errors import ExportError
from registry.release import InputSpec
from training.config import Model
from training.export import certificate, export, precision
from training.export.certificate import Limit, certify
from training.fit import models
from training.rows.data import moments

ROWS = np.random.default_rng(0).integers(0, 17, (40, 8, 8), dtype=np.uint8)
ASKED = export.Asked(InputSpec("uint8", (8, 8)), ("a", "b", "c"))
LIMIT = Limit(1e-4)
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
    found = certify(model, ASKED, path, ROWS, LIMIT)
    assert found["batch_rows"] == [1, 2, 7, 64, 256]
    assert found["rows"] == 40
    assert 0 <= found["mean_difference"] <= found["max_difference"] <= found["limit"] == 1e-4
    assert found["top_class_changes"] == 0
    assert found["provider"] == "CPUExecutionProvider"
    assert export.versions().items() <= found["versions"].items()


def test_raw_rows_in_the_file_give_what_torch_gives(good):
    model, path = good
    session = export.session_of(path.read_bytes())
    expected = models.predict(model, ROWS)
    for got, want in zip(export.run(session, ROWS, 7), expected, strict=True):
        assert got.shape == want.shape
        assert got == pytest.approx(want, abs=1e-5)


@pytest.fixture(scope="module")
def large(good):
    """The same model with its weights in a file of their own, as one of more than 2 GiB has them."""
    path = good[1].parent / "large" / "model.onnx"
    path.parent.mkdir()
    export.export(good[0], ASKED, path, FACTS, most_inside=2000)
    return path


REBUILD = """
import sys
from pathlib import Path
from tests.training.export.test_export import ASKED, FACTS, ROWS, build
from training.export import export, precision
assert export.__file__.startswith(sys.argv[1]), export.__file__
model = build()
export.export(model, ASKED, Path("model.onnx"), FACTS)
Path("large").mkdir()
export.export(model, ASKED, Path("large/model.onnx"), FACTS, most_inside=2000)
precision.fp16(Path("model.onnx"), Path("fp16.onnx"))
precision.int8(Path("model.onnx"), Path("int8.onnx"), ROWS)
"""


def test_another_process_in_another_checkout_writes_the_same_bytes(good, large, tmp_path):
    root, checkout, files = Path(__file__).parents[3], tmp_path / "another" / "checkout", tmp_path / "files"
    for room in ("training", "registry", "monitoring", "tests/training"):
        shutil.copytree(root / room, checkout / room, ignore=shutil.ignore_patterns("__pycache__"))
    files.mkdir()
    environment = os.environ | {"PYTHONPATH": str(checkout), "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", REBUILD, str(checkout)]
    subprocess.run(command, cwd=files, env=environment, check=True, timeout=120)
    precision.fp16(good[1], tmp_path / "fp16.onnx")
    precision.int8(good[1], tmp_path / "int8.onnx", ROWS)
    for theirs, ours in (
        (files / "model.onnx", good[1]),
        (files / "fp16.onnx", tmp_path / "fp16.onnx"),
        (files / "int8.onnx", tmp_path / "int8.onnx"),
        (files / "large" / "model.onnx", large),
        (files / "large" / "model.onnx.data", export.beside(large)),
    ):
        assert theirs.read_bytes() == ours.read_bytes()


def test_weights_above_the_limit_lie_in_one_file_beside_and_answer_alike(good, large):
    model, path = good
    assert sorted(p.name for p in large.parent.iterdir()) == ["model.onnx", "model.onnx.data"]
    assert len(large.read_bytes()) + len(export.beside(large).read_bytes()) >= len(path.read_bytes())
    export.check(large, ASKED)
    found = certify(model, ASKED, large, ROWS, LIMIT)
    assert found["max_difference"] == certify(model, ASKED, path, ROWS, LIMIT)["max_difference"]


def test_a_file_of_weights_that_an_earlier_export_left_is_not_taken_for_one_of_this(good, tmp_path):
    (tmp_path / "model.onnx.data").write_bytes(b"old")
    export.export(good[0], ASKED, tmp_path / "model.onnx", FACTS)
    assert [p.name for p in tmp_path.iterdir()] == ["model.onnx"]


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


def priced(scale=1e5):
    """Return a regression of a target that is counted in hundreds of thousands."""
    torch.manual_seed(0)
    return models.Regressor(torch.nn.Linear(3, 1), moments(HOMES), (3e5, scale)).eval()


PRICES = export.Asked(InputSpec("float32", (3,), ("a", "b", "c")), task="regression", unit=1e5)
HOMES = np.random.default_rng(1).standard_normal((1100, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def regression(tmp_path_factory):
    model, path = priced(), tmp_path_factory.mktemp("regression") / "model.onnx"
    export.export(model, PRICES, path, {"name": "prices"})
    return model, path


def test_a_regression_answers_one_prediction_per_row_in_units_of_the_target(regression):
    model, path = regression
    session = export.open_file(path)
    assert [(output.name, output.shape) for output in session.get_outputs()] == [("prediction", ["batch", 1])]
    (answered,) = export.run(session, HOMES[:9], 2)
    assert answered == pytest.approx(model(torch.from_numpy(HOMES[:9])).detach().numpy(), rel=1e-5)


def test_a_regression_is_judged_in_standard_deviations_of_its_target(regression):
    model, path = regression
    found = certify(model, PRICES, path, HOMES, LIMIT)
    assert found["unit"] == "standard deviations of the target"
    assert found["rows"] == 1000 and found["outputs"] == ["prediction"] and found["top_class_share"] is None
    with pytest.raises(
        ExportError, match="differs .* by .* standard deviations of the target, limit 0.0001; the model"
    ):
        certify(priced(1.001e5), PRICES, path, HOMES, LIMIT)
    assert certify(priced(1.000001e5), PRICES, path, HOMES, LIMIT)["max_difference"] > 0


def test_a_classifier_is_no_regression(good):
    with pytest.raises(ExportError, match="accepted is prediction float"):
        export.check(good[1], export.Asked(ASKED.input, task="regression"))


def test_each_provider_is_judged_or_its_absence_is_said(good):
    model, path = good
    entries = certify(model, ASKED, path, ROWS, LIMIT)["by_provider"]
    assert [entry["provider"] for entry in entries] == list(certificate.PROVIDERS)
    assert all(entry["precision"] == "fp32" for entry in entries)
    for entry in entries:
        present = entry["provider"] in onnxruntime.get_available_providers()
        assert ("skipped" in entry) or (present and entry["max_difference"] <= 1e-4 and entry["versions"]["provider"])
    if not set(certificate.PROVIDERS[1:]) & set(onnxruntime.get_available_providers()):
        assert "was installed without it" in entries[1]["skipped"]


def test_a_provider_that_is_listed_but_cannot_run_is_skipped_with_the_reason(good, monkeypatch):
    present = [*onnxruntime.get_available_providers(), "TensorrtExecutionProvider", "CUDAExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: present)
    for provider in certificate.PROVIDERS[1:]:
        found = certificate.session_on(provider, good[1])
        assert not isinstance(found, str) or "it cannot load the file" in found or "no device or driver" in found


@pytest.mark.gpu
@pytest.mark.skipif(
    "CUDAExecutionProvider" not in onnxruntime.get_available_providers(),
    reason="pip install onnxruntime-gpu[cuda,cudnn] on a machine with an NVIDIA GPU",
)
def test_on_a_gpu_the_file_answers_as_torch_does(good, regression):
    for (model, path), asked, rows in ((good, ASKED, ROWS), (regression, PRICES, HOMES)):
        entry = certify(model, asked, path, rows, LIMIT)["by_provider"][1]
        assert "skipped" not in entry and entry["max_difference"] <= 1e-4
        assert entry["versions"]["provider"].startswith("CUDA ")


def test_what_the_file_says_about_itself_can_be_read_when_it_runs(good):
    found = export.open_file(good[1]).get_modelmeta().custom_metadata_map
    assert found == FACTS
