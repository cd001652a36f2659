import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from tiny_export import ASKED, FACTS, LIMIT, ROWS

from registry.errors import ExportError
from registry.release import InputSpec
from training.export import certificate, export, precision
from training.export.certificate import certify
from training.fit import models
from training.rows.data import moments


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


REBUILD = """
import sys
from pathlib import Path
from tests.tiny_export import ASKED, FACTS, ROWS, build
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
    shutil.copy(root / "tests" / "tiny_export.py", checkout / "tests")
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


class Embeds(torch.nn.Module):
    def forward(self, x):
        return x[:, :1], torch.stack([x * 1e4, -x], dim=1)


def test_an_embedding_is_an_output_of_its_own_and_judged_by_its_size(tmp_path):
    model = models.Regressor(Embeds(), moments(HOMES), (3e5, 1e5)).eval()
    asked = replace(PRICES, embedding=models.embedding_width(model, HOMES[:2]))
    export.export(model, asked, tmp_path / "model.onnx", {"name": "prices"})
    found = certify(model, asked, tmp_path / "model.onnx", HOMES, LIMIT)
    assert found["outputs"] == ["prediction", "embedding"] and found["max_difference"] < 1e-5
    _, embedded = export.run(export.open_file(tmp_path / "model.onnx"), HOMES[:9], 2)
    assert embedded == pytest.approx(models.predict(model, HOMES[:9])[1], rel=1e-5) and embedded.shape == (9, 6)
    with pytest.raises(ExportError, match=r"embedding float \('batch', 6\); accepted is prediction float"):
        export.check(tmp_path / "model.onnx", PRICES)
