import io
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import scipy.stats
import torch
from onnx import numpy_helper
from sklearn.datasets import load_digits
from sklearn.metrics import r2_score

from registry import gate, store
from registry.errors import ExportError
from registry.release import InputSpec
from serving.engine import Engine
from training import outcome, run
from training.config import Config, Export, Model
from training.export import certificate, export, precision, variants
from training.fit import models
from training.pages import results
from training.rows.data import moments

DIGITS = export.Asked(InputSpec("uint8", (8, 8)), tuple("0123456789"))
LARGE = export.Asked(InputSpec("float32", (3,), ("a", "b", "c")), task="regression", unit=1e6)


def asked_for(*names, task="classification", most_accuracy_lost=0.01, least_speedup=0.0):
    wanted = Export(variants=names, most_accuracy_lost=most_accuracy_lost, least_speedup=least_speedup)
    return Config(name="digits", task=task, export=wanted)


def fitted(model, x, y, epochs):
    """Train with whole batches in one thread: quick, and good enough to have an accuracy to lose."""
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(epochs):
        model.train()
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(torch.from_numpy(x))[1], torch.from_numpy(y)).backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A trained network of convolutions with its file, its certificate and the rows that judge variants."""
    digits = load_digits()
    x, y = digits.images.astype(np.uint8), digits.target.astype(np.int64)
    torch.manual_seed(0)
    body = models.build(Model("cnn", width=8), (8, 8), 10, Path())
    model = fitted(models.Classifier(body, moments(x[:900])), x[:900], y[:900], epochs=40)
    path = tmp_path_factory.mktemp("digits") / "model.onnx"
    export.export(model, DIGITS, path, {"name": "digits"})
    parity = certificate.certify(model, DIGITS, path, x[1100:], certificate.Limit(1e-4))
    answers = export.run(export.open_file(path), x[1100:], 64)[0]
    source = variants.Source(model, DIGITS, variants.Variant("fp32", path, parity, answers))
    return source, variants.Rows(x[900:1100], x[1100:], y[1100:])


@pytest.fixture(scope="module")
def made(digits, tmp_path_factory):
    return variants.make(asked_for("fp16", "int8"), *digits, tmp_path_factory.mktemp("made"))


@pytest.fixture(scope="module")
def prices(tmp_path_factory):
    """A regression whose raw rows and targets are far above the largest number of fp16."""
    torch.manual_seed(1)
    x = np.random.default_rng(0).normal(4e6, 1e6, (700, 3)).astype(np.float32)
    body = models.build(Model("mlp", width=16, depth=2), (3,), 1, Path())
    model = models.Regressor(body, moments(x[:400]), (5e6, 1e6)).eval()
    path = tmp_path_factory.mktemp("prices") / "model.onnx"
    export.export(model, LARGE, path, {"name": "prices"})
    answers = models.predict(model, x)[0]
    y = answers[:, 0].astype(np.float64) + np.random.default_rng(1).normal(0, 2e5, 700)
    parity = certificate.certify(model, LARGE, path, x[400:], certificate.Limit(1e-4))
    source = variants.Source(model, LARGE, variants.Variant("fp32", path, parity, answers[400:]))
    return source, variants.Rows(x[:400], x[400:], y[400:])


def test_every_precision_has_a_row_with_what_it_costs_and_gains(digits, made):
    source, rows = digits
    full, *others = made.table
    assert [row["precision"] for row in made.table] == ["fp32", "fp16", "int8"]
    assert full["value"] == (source.full.answers.argmax(axis=1) == rows.y).mean() > 0.8
    assert full["max_difference"] == source.full.parity["max_difference"]
    for row in others:
        assert row["size_mb"] < full["size_mb"]
        assert row["lost"]["value"] == pytest.approx(full["value"] - row["value"])
        assert row["lost"]["value"] < row["lost"]["upper"]
        assert full["max_difference"] < row["max_difference"] <= variants.LIMITS[row["precision"]].value
        for size in (1, 64):
            ratio = row[f"fp32_ms_batch_{size}"] / row[f"ms_batch_{size}"]
            assert row[f"speedup_batch_{size}"] == pytest.approx(ratio)
    assert full["ms_batch_64"] == others[0]["fp32_ms_batch_64"]


def test_an_accepted_variant_is_a_file_whose_answers_and_certificate_are_its_own(digits, made):
    source, rows = digits
    assert [variant.precision for variant in made.accepted] == ["fp16", "int8"]
    for variant in made.accepted:
        assert [path.name for path in variant.path.parent.iterdir()] == ["model.onnx"]
        assert np.array_equal(export.run(export.open_file(variant.path), rows.x, 64)[0], variant.answers)
        assert not np.array_equal(variant.answers, source.full.answers)
        assert variant.parity["precision"] == variant.precision
        assert variant.parity["rows"] == len(rows.x) + len(rows.calibration)
        assert variant.parity["outputs"] == ["probabilities"]
        assert [entry["provider"] for entry in variant.parity["by_provider"]] == list(certificate.PROVIDERS)
        assert export.open_file(variant.path).get_modelmeta().custom_metadata_map == {"name": "digits"}


def test_fp16_halves_the_layers_and_leaves_what_is_around_them(made):
    graph = onnx.load(made.accepted[0].path).graph
    kinds = {tensor.name: numpy_helper.to_array(tensor).dtype for tensor in graph.initializer}
    layers = [node for node in graph.node if node.op_type in precision.HEAVY]
    assert len(layers) == 5
    assert {kinds[node.input[1]] for node in layers} == {np.dtype(np.float16)}
    around = [node for node in graph.node if node.op_type in ("Sub", "Div")]
    assert {kinds[node.input[1]] for node in around} == {np.dtype(np.float32)}


def test_int8_has_one_scale_per_channel_and_keeps_the_last_layer(made):
    graph = onnx.load(made.accepted[1].path).graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    first = next(node for node in graph.node if node.op_type == "Conv")
    scaled = next(node for node in graph.node if node.output[0] == first.input[1])
    assert scaled.op_type == "DequantizeLinear"
    assert weights[scaled.input[0]].dtype == np.int8 and np.abs(weights[scaled.input[0]]).max() <= 64
    assert weights[scaled.input[1]].shape == (8,)
    last = next(node for node in graph.node if node.op_type == "Gemm")
    assert weights[last.input[1]].dtype == np.float32


def test_the_same_file_gives_the_same_bytes_again(digits, made, tmp_path):
    source, rows = digits
    precision.fp16(source.full.path, tmp_path / "fp16.onnx")
    precision.int8(source.full.path, tmp_path / "int8.onnx", rows.calibration)
    for variant in made.accepted:
        assert (tmp_path / f"{variant.precision}.onnx").read_bytes() == variant.path.read_bytes()


def test_a_variant_that_loses_accuracy_or_gains_no_speed_is_refused_with_numbers(digits, tmp_path):
    strict = asked_for("int8", most_accuracy_lost=0.0, least_speedup=1000.0)
    found = variants.make(strict, *digits, tmp_path)
    row = found.table[1]
    assert found.accepted == [] and not row["accepted"]
    assert "of accuracy on 697 test rows (95% upper bound 0.00" in row["reason"]
    assert "allowed 0" in row["reason"]
    for size in (1, 64):
        assert f"times as fast at batch {size}, demanded 1000" in row["reason"]


def test_too_few_rows_are_said_to_be_too_few(digits, tmp_path):
    source, rows = digits
    few = variants.Rows(rows.calibration, rows.x[:60], rows.y[:60])
    found = variants.make(asked_for("fp16"), _with(source, answers=source.full.answers[:60]), few, tmp_path)
    assert "; too few rows to tell)" in found.table[1]["reason"]


def _with(source, model=None, **changed):
    return replace(source, model=model or source.model, full=replace(source.full, **changed))


def test_no_variant_is_made_unless_it_is_asked_for(digits, tmp_path):
    assert variants.make(asked_for(), *digits, tmp_path) == variants.Made([], [])
    assert list(tmp_path.iterdir()) == []


def test_numbers_above_the_largest_of_fp16_survive_because_only_layers_are_halved(prices, tmp_path):
    found = variants.make(asked_for("fp16", "int8", task="regression", most_accuracy_lost=0.1), *prices, tmp_path)
    assert [row["accepted"] for row in found.table] == [True, True, True], found.table
    half = found.accepted[0]
    assert half.parity["max_difference"] < 0.01
    assert half.answers.min() > 65504
    assert found.table[1]["metric"] == "r2" and found.table[1]["top_class_share"] is None


def test_what_a_regression_loses_is_the_difference_in_r2(prices):
    source, rows = prices
    coarse = source.full.answers + np.random.default_rng(2).normal(0, 1e5, source.full.answers.shape).astype(np.float32)
    found = variants.lost(asked_for(task="regression"), rows, source.full.answers, coarse)
    assert found["value"] == pytest.approx(r2_score(rows.y, source.full.answers) - r2_score(rows.y, coarse), abs=1e-6)
    squares = [(answers[:, 0] - rows.y) ** 2 / rows.y.var() for answers in (coarse, source.full.answers)]
    upper = scipy.stats.ttest_rel(*squares).confidence_interval(0.90).high
    assert found["upper"] == pytest.approx(upper, rel=1e-4)


@pytest.mark.parametrize(("dropped", "gained"), [(0, 0), (3, 0), (5, 5), (0, 4)])
def test_what_a_classifier_loses_is_judged_by_the_rows_it_answers_otherwise(dropped, gained):
    rows = variants.Rows(np.empty(0), np.empty(500), np.zeros(500, np.int64))
    full, coarse = np.tile([0.9, 0.1], (500, 1)), np.tile([0.9, 0.1], (500, 1))
    coarse[:dropped] = full[100 : 100 + gained] = [0.1, 0.9]
    found = variants.lost(asked_for(), rows, full, coarse)
    assert found["value"] == pytest.approx((dropped - gained) / 500)
    assert found["value"] + 0.001 < found["upper"] < found["value"] + 0.02


def test_the_threshold_of_a_binary_classifier_decides_what_is_lost():
    rows = variants.Rows(np.empty(0), np.empty(9), np.ones(9, np.int64), threshold=0.3)
    full, coarse = np.tile([0.69, 0.31], (9, 1)), np.tile([0.71, 0.29], (9, 1))
    assert variants.lost(asked_for(), rows, full, coarse)["value"] == 1.0


def test_the_faster_of_two_files_is_found_faster(digits, tmp_path):
    source, rows = digits
    torch.manual_seed(0)
    wide = models.Classifier(models.build(Model("cnn", width=64), (8, 8), 10, Path()), moments(rows.x))
    export.export(wide, DIGITS, tmp_path / "wide.onnx", {})
    found = variants.speed(tmp_path / "wide.onnx", source.full.path, rows.x)
    assert variants.least_speedup(found) > 2
    assert found["provider"] in certificate.PROVIDERS


class OneLayer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.out = torch.nn.Linear(64, 10)

    def forward(self, x):
        return self.out(x.flatten(1))


def test_a_network_of_one_layer_has_nothing_to_quantise_and_says_so(digits, tmp_path):
    _, rows = digits
    export.export(models.Classifier(OneLayer(), moments(rows.x)), DIGITS, tmp_path / "model.onnx", {})
    with pytest.raises(ExportError, match="has one layer, which stays in fp32; int8 needs two of Conv"):
        precision.int8(tmp_path / "model.onnx", tmp_path / "int8.onnx", rows.calibration)
    precision.fp16(tmp_path / "model.onnx", tmp_path / "fp16.onnx")
    export.check(tmp_path / "fp16.onnx", DIGITS)


def test_a_model_with_its_weights_outside_is_refused_as_a_row_not_as_an_error(digits, tmp_path):
    source, rows = digits
    path = tmp_path / "model.onnx"
    export.export(source.model, DIGITS, path, {}, most_inside=0)
    found = variants.make(asked_for("fp16", "int8"), _with(source, path=path), rows, tmp_path)
    assert found.accepted == []
    assert all("has its weights in a second file" in row["reason"] for row in found.table[1:])


def test_a_variant_that_answers_otherwise_than_the_model_is_refused(digits, tmp_path):
    source, rows = digits
    torch.manual_seed(5)
    other = models.Classifier(models.build(Model("cnn", width=8), (8, 8), 10, Path()), moments(rows.x))
    found = variants.make(asked_for("fp16"), _with(source, model=other), rows, tmp_path)
    assert "differs from the PyTorch model by" in found.table[1]["reason"]
    assert found.accepted == []


def test_a_file_the_converter_cannot_read_is_refused_as_a_row(digits, tmp_path):
    source, rows = digits
    (tmp_path / "model.onnx").write_bytes(b"not a model")
    found = variants.make(asked_for("fp16"), _with(source, path=tmp_path / "model.onnx"), rows, tmp_path)
    assert "cannot be converted to fp16" in found.table[1]["reason"]


def test_converting_says_nothing_and_leaves_the_logging_of_the_process_alone(digits, tmp_path, capfd):
    source, rows = digits
    root, handler = logging.getLogger(), logging.NullHandler()
    root.addHandler(handler)
    before = root.handlers[:]
    precision.int8(source.full.path, tmp_path / "int8.onnx", rows.calibration)
    assert root.handlers == before
    root.removeHandler(handler)
    assert capfd.readouterr() == ("", "")


RUN = """
name = "digits"
[data]
source = "digits"
[model]
kind = "cnn"
width = 8
[loop]
epochs = 3
[export]
variants = ["fp16", "int8"]
most_accuracy_lost = 1.0
least_speedup = 0.0
"""


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """A run with both variants, and the store it published into."""
    folder = tmp_path_factory.mktemp("run")
    (folder / "run.toml").write_text(RUN)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(folder / "bentoml"))
        return run.train(folder / "run.toml", folder / "run"), folder / "bentoml"


@pytest.fixture
def trained(once, home, monkeypatch):
    monkeypatch.setenv("BENTOML_HOME", str(once[1]))
    return once[0]


def test_variants_are_releases_of_their_own_that_serve_and_may_be_promoted(trained):
    parent = store.open_release(trained.tag)
    assert (parent.manifest.precision, parent.manifest.parent) == ("fp32", None)
    assert [row["accepted"] for row in parent.manifest.parity["variants"]] == [True, True, True]
    for tag, wanted in zip(trained.variants, ("fp16", "int8"), strict=True):
        made = store.open_release(tag)
        assert (made.name, made.manifest.precision, made.manifest.parent) == ("digits", wanted, trained.tag)
        assert made.manifest.parity["precision"] == wanted
        assert made.manifest.parity["variants"] == parent.manifest.parity["variants"]
        with np.load(io.BytesIO(made.read("heldout.npz")), allow_pickle=False) as held:
            x, y, recorded = held["x"], held["y"], held["probabilities"]
        assert np.abs(Engine(made, ("cpu",), threads=1).run(x)[0] - recorded).max() < 1e-6
        assert made.manifest.metrics["accuracy"]["value"] == pytest.approx((recorded.argmax(axis=1) == y).mean())
        assert not [said for said in gate.objections(made, parent) if "parity" in said]
        assert f"It computes in {wanted} and was made from {trained.tag}." in made.read("card.md").decode()


def test_the_outcome_and_the_card_show_the_table_and_the_tags(trained):
    text = outcome.as_text(trained)
    card = store.open_release(trained.tag).read("card.md").decode()
    for wanted in ("fp32", "fp16", "int8"):
        assert any(line.split()[:1] == [wanted] and line.endswith("accepted") for line in text.splitlines())
        assert f"| {wanted} | 0." in card
    for tag in trained.variants:
        assert f"published {tag}" in text


def test_a_refused_variant_is_shown_with_its_reason_and_not_published():
    tried = [{"precision": "fp32", "accepted": True}, {"precision": "int8", "accepted": False, "reason": "too slow"}]
    assert results.refusals(tried) == ["int8 was refused: too slow."]
    assert [row[-1] for row in results.variants(tried).rows] == ["accepted", "refused"]


def test_a_loss_that_rounds_to_nothing_has_no_sign():
    row = {"precision": "fp16", "accepted": True, "lost": {"value": -1e-6, "upper": -1e-7}}
    assert results.variants([row]).rows[0][2] == "0.0000 (0.0000)"
