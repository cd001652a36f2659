"""The whole pipeline on real data, into a real BentoML store in a temporary folder."""

import io
import json
import signal
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

import vigil
from monitoring.judge import slices
from monitoring.shift import reference
from registry import aliases, durable, signing, store
from registry.errors import ConfigError, DataError, ExportError, ReleaseError
from serving import wire
from serving.http import Call, Head
from training import outcome, run
from training.export import export
from training.fit import loop
from training.learn import Trained
from training.task import BusyError, Order

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A store of its own; BENTOML_HOME is read by the registry on each call."""
    folder = tmp_path_factory.mktemp("bentoml")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENTOML_HOME", str(folder))
        yield folder


@pytest.fixture(scope="module")
def digits(home, tmp_path_factory):
    """The outcome of examples/digits.toml, its release, and the lines of progress."""
    lines = []
    result = run.train(EXAMPLES / "digits.toml", tmp_path_factory.mktemp("digits"), progress=lines.append)
    return result, store.open_release(result.tag), lines


def test_digits_reach_the_accuracy_of_the_readme_and_beat_the_linear_baseline(digits):
    result, _, _ = digits
    accuracy = result.metrics["accuracy"]
    assert accuracy["value"] > 0.95
    assert accuracy["value"] > result.baselines["linear"]["accuracy"]["value"]
    assert result.baselines["majority"]["accuracy"]["value"] < 0.2
    assert result.gate["beats_baselines"]


def test_the_release_holds_its_five_files_and_every_fact_of_the_run(digits):
    result, release, _ = digits
    manifest = release.manifest
    estimation = reference.parse(release.read("reference.json")).estimation
    assert estimation.rows == 307 and np.array(estimation.confusion).sum(axis=1).min() > 20
    assert set(manifest.files) == {"model.onnx", "reference.json", "heldout.npz", "card.md", "card.html"}
    assert manifest.name == "digits"
    assert (manifest.input.dtype, manifest.input.shape, manifest.input.columns) == ("uint8", (8, 8), ())
    assert manifest.classes == tuple("0123456789")
    assert manifest.metrics == result.metrics
    assert manifest.metrics["rows"] == manifest.data["splits"]["test"] == 307
    assert manifest.parity["max_difference"] <= manifest.parity["limit"]
    assert manifest.parity["rows"] == 307 + 136
    assert manifest.quality["floor"] == manifest.baselines["linear"]["accuracy"]["lower"]
    assert manifest.config["loop"]["seed"] == 0
    assert manifest.data["label_noise"] == manifest.data["labels_changed"] == 0
    assert manifest.code["command"].startswith(f"vigil train {EXAMPLES / 'digits.toml'} --run-folder ")


def test_a_long_training_says_how_far_it_is(monkeypatch):
    lines, told = [], []
    tell = run._telling(told.append, 40, lines.append)
    entry = {"epoch": 4.0, "validation_loss": 0.25}
    tell(entry)
    assert (lines, told) == ([], [entry])
    monkeypatch.setattr(run, "SAY_EVERY_S", 0.0)
    tell(entry)
    assert lines == ["epoch 5 of 40: validation loss 0.25"]


def test_test_rows_too_few_for_the_drift_reference_are_refused_before_training(tmp_path):
    folder = tmp_path / "run"
    order = Order(EXAMPLES / "digits.toml", folder, overrides={"reference.bins": 16, "data.first_rows": 120})
    with pytest.raises(DataError, match="held-out rows cannot fill 16 bins; at least 80 are needed"):
        run.carry_out(order, print)
    assert not (folder / "last.pt").exists()


@pytest.mark.parametrize("taken", ["", "models", "vigil", "models/digits"])
def test_a_store_that_takes_no_release_stops_before_anything_is_read(tmp_path, monkeypatch, taken):
    place = tmp_path / "store" / taken
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text("a file")
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "store"))
    with pytest.raises(ReleaseError, match=f"{tmp_path}/store: is the store, and no release can be written there: "):
        run.train(EXAMPLES / "digits.toml", tmp_path / "run", progress=lambda line: pytest.fail(f"{line}: it went on"))
    assert not (tmp_path / "run").exists() and place.read_text() == "a file"


def test_the_held_out_rows_are_raw_and_the_file_answers_them_as_recorded(digits):
    _, release, _ = digits
    with np.load(io.BytesIO(release.read("heldout.npz")), allow_pickle=False) as heldout:
        key, x, y, recorded = (heldout[name] for name in ("key", "x", "y", "probabilities"))
    assert (key.dtype, x.dtype, y.dtype, recorded.dtype) == (np.uint64, np.uint8, np.int64, np.float32)
    assert len(key) == len(x) == len(y) == len(recorded) == 307
    answered, _ = export.run(export.session_of(release.read("model.onnx")), x, 64)
    assert np.array_equal(answered, recorded)
    accuracy = float((recorded.argmax(axis=1) == y).mean())
    assert accuracy == pytest.approx(release.manifest.metrics["accuracy"]["value"])


def test_the_reference_can_be_read_back_and_rests_on_the_test_rows(digits):
    _, release, _ = digits
    assert reference.parse(release.read("reference.json")).rows == 307


def test_the_card_states_numbers_parity_and_the_command_in_both_forms(digits):
    result, release, _ = digits
    accuracy = result.metrics["accuracy"]
    said = f"{accuracy['value']:.3f} ({accuracy['lower']:.3f}-{accuracy['upper']:.3f})"
    for file in ("card.md", "card.html"):
        text = release.read(file).decode()
        for expected in (
            said, release.manifest.data["digest"], f"{result.parity['max_difference']:.3g} (limit 0.0001)",
            release.manifest.code["command"], release.manifest.code["git_commit"], "optimizer.weight_decay",
            "Conv2d(1, 32", "trained parameters", "The weakest class is", "majority", "linear",
        ):  # fmt: skip
            assert expected in text, (file, expected)
    page = release.read("card.html").decode()
    assert page.count("<svg") == 3
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")


def test_progress_has_one_line_per_stage(digits):
    _, _, lines = digits
    stages = [line.split(":")[0] for line in lines if not line.startswith("epoch ")]  # said where training takes long
    assert stages == ["data", "baselines", "training", "export", "published"]


def test_the_outcome_is_one_table_for_people_and_one_object_for_machines(digits):
    result, _, _ = digits
    text = outcome.as_text(result)
    assert [line.split()[0] for line in text.splitlines()[1:4]] == ["model", "majority", "linear"]
    assert result.refusal == "" and f'next: vigil promote {result.tag} --why "..."' in text
    loaded = json.loads(outcome.as_json(result))
    assert loaded["tag"] == result.tag
    assert loaded["metrics"] == result.metrics
    assert "\n" not in outcome.as_json(result)


def test_the_worse_digits_are_bad_and_share_their_test_rows_with_the_good_ones(digits, home, tmp_path):
    _, good, _ = digits
    aliases.promote(good.tag, "good")
    result = run.train(EXAMPLES / "digits_worse.toml", tmp_path)
    worse = store.open_release(result.tag)
    assert result.tag.startswith("digits:")
    assert result.metrics["accuracy"]["upper"] < 0.7
    said = outcome.as_text(result)
    assert "\npromote will refuse it: on 307 common held-out rows its accuracy differs by -0." in said
    assert result.judged and "better settings with vigil search" in said and said.endswith("train again")
    assert worse.manifest.data["label_noise"] == 0.9
    assert worse.manifest.data["labels_changed"] > 300
    assert "90% of the training labels were replaced at random" in worse.read("card.md").decode()
    keys = [np.load(io.BytesIO(r.read("heldout.npz")), allow_pickle=False)["key"] for r in (good, worse)]
    assert np.array_equal(*keys)


def test_a_table_trains_with_its_columns_named(home, tmp_path):
    result = run.train(EXAMPLES / "breast_cancer.toml", tmp_path)
    manifest = store.open_release(result.tag).manifest
    assert result.metrics["accuracy"]["value"] > 0.94
    assert manifest.input.dtype == "float32"
    assert len(manifest.input.columns) == 30
    assert manifest.classes == ("malignant", "benign")
    assert manifest.gate["beats_baselines"]


SMALL = """
name = "small"
[data]
source = "digits"
[model]
width = 16
[loop]
epochs = 1
"""


def small(tmp_path, text):
    config = tmp_path / "small.toml"
    config.write_text(SMALL + text)
    return config


def test_where_signatures_are_demanded_a_new_release_is_published_and_told_to_be_signed(tmp_path, monkeypatch):
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "bentoml"))
    key = tmp_path / "public.pem"
    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    key.write_bytes(public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo))
    monkeypatch.setenv(signing.VARIABLE, str(key))
    result = run.train(small(tmp_path, ""), tmp_path / "run")
    assert [one.tag for one in store.releases("small")] == [result.tag]
    said = outcome.as_text(result).splitlines()[-2:]
    assert (
        said[0] == f"promote will refuse it: {result.tag}: is not signed; sign it: vigil sign {result.tag} --key FILE"
    )
    assert said[1] == f'next: see to that, vigil promote {result.tag} --why "..."'


def test_a_parity_limit_that_cannot_be_kept_stops_the_release(home, tmp_path):
    with pytest.raises(ExportError, match="the model was not published"):
        run.train(small(tmp_path, "[export]\nlimit = 1e-9\n"), tmp_path / "run")
    assert store.releases("small") == []


def test_two_runs_do_not_share_a_folder(home, tmp_path):
    busy = pytest.raises(BusyError, match="another run is at work in this folder.*--run-folder")
    with durable.locked(tmp_path / "run" / "run.lock"), busy:
        run.train(small(tmp_path, ""), tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["run.lock"]


def test_a_slice_that_is_not_in_the_rows_stops_before_anything_is_trained(home, tmp_path):
    order = Order(EXAMPLES / "digits.toml", tmp_path / "run", overrides={"quality.slices": ["country"]})
    with pytest.raises(ConfigError, match="quality.slices: 'country' is not in the rows of the traffic; accepted are"):
        run.carry_out(order, lambda line: pytest.fail(f"{line}: it went on"))


def test_a_threshold_for_ten_classes_stops_before_anything_is_trained(home, tmp_path):
    with pytest.raises(ConfigError, match="evaluate.threshold: f1 needs two classes.*there are 10 classes"):
        run.train(small(tmp_path, '[evaluate]\nthreshold = "f1"\n'), tmp_path / "run")
    assert not (tmp_path / "run" / loop.CHECKPOINT).exists()


def test_wrong_data_stops_before_anything_is_trained(home, tmp_path):
    config = tmp_path / "table.toml"
    config.write_text('name = "table"\n[data]\nsource = "csv"\npath = "absent.csv"\ntarget = "y"\n')
    with pytest.raises(DataError, match=f"{tmp_path / 'absent.csv'}: no such file"):
        run.train(config, tmp_path / "run")
    assert not (tmp_path / "run" / loop.CHECKPOINT).exists()


def test_a_csv_and_a_network_of_your_own_make_a_release(home, tmp_path):
    generator = np.random.default_rng(0)
    rows = generator.normal(size=(400, 3))
    labels = np.where(rows.sum(axis=1) > 0, "up", "down")
    lines = [f"{i},{a},{b},{c},{way}" for i, ((a, b, c), way) in enumerate(zip(rows, labels, strict=True))]
    (tmp_path / "rows.csv").write_text("\n".join(["id,a,b,c,way", *lines]))
    (tmp_path / "own_network_run.py").write_text(
        "import torch\ndef make(shape, classes):\n    return torch.nn.Linear(shape[0], classes)\n"
    )
    config = tmp_path / "own.toml"
    config.write_text(
        'name = "own"\n[data]\nsource = "csv"\npath = "rows.csv"\ntarget = "way"\nid = "id"\n'
        '[model]\nkind = "own_network_run:make"\n[schedule]\npeak = 0.1\n'
    )
    manifest = store.open_release(run.train(config, tmp_path / "run").tag).manifest
    assert manifest.input.columns == ("a", "b", "c")
    assert manifest.classes == ("down", "up")
    assert manifest.metrics["accuracy"]["value"] > 0.9
    assert manifest.purpose == ""


def test_columns_of_text_and_empty_cells_make_a_binary_release_with_a_threshold(home, tmp_path):
    generator = np.random.default_rng(0)
    town, size = generator.integers(0, 3, 500), generator.normal(80, 20, 500)
    sold = (town == 1) ^ (size > 100)  # no line through the index of the town can tell the middle one
    names = np.array(["Bern", "Chur", "Genf"])[town]
    cells = [f"{value:.2f}" if number % 20 else "" for number, value in enumerate(size)]
    lines = [f"{a},{b},{'yes' if c else 'no'}" for a, b, c in zip(names, cells, sold, strict=True)]
    (tmp_path / "flats.csv").write_text("\n".join(["town,size,sold", *lines]))
    config = tmp_path / "flats.toml"
    config.write_text(
        'name = "flats"\n[data]\nsource = "csv"\npath = "elsewhere.csv"\ntarget = "sold"\n'
        'categorical = ["town"]\nslices = ["town"]\nmissing = "fill"\nnullable = ["town"]\n'
        '[evaluate]\nthreshold = "f1"\n[model]\nwidth = 16\n[loop]\nepochs = 20\n'
        '[quality]\nslices = ["town", "size"]\ndecline = 0.02\n'
    )
    order = Order(config, tmp_path / "run", overrides={"data.path": str(tmp_path / "flats.csv")})
    release = store.open_release(run.carry_out(order, lambda line: None).tag)
    manifest = release.manifest
    assert manifest.input.categories == {"town": ("Bern", "Chur", "Genf")}
    assert set(manifest.input.fills) == {"town", "size"}  # the first is full in every row here
    counted = {bins.name for bins in reference.parse(release.read("reference.json")).bins}
    assert {"town empty", "size empty"} <= counted
    rows = [{"town": None, "size": 80.0}, {"town": "Bern"}]
    sent = Call(
        Head("POST", "/v1/predict", b"", {b"content-type": b"application/json"}), json.dumps({"rows": rows}).encode()
    )
    asked = wire.codec_of(sent.head).decode(sent, release).rows
    assert asked[:, 0].tolist() == [manifest.input.fills["town"], 0.0] and asked[1, 1] == manifest.input.fills["size"]
    assert manifest.metrics["accuracy"]["value"] > 0.9
    assert 0 < manifest.threshold < 1
    assert set(manifest.metrics["slices"]) == {"town"}
    floors = slices.floors(manifest.quality)
    assert {"town=Bern", "town=Chur", "town=Genf", "town=other"} < set(floors) and len(floors) == 8
    assert max(floors.values()) <= manifest.quality["floor"] and manifest.quality["decline"] == 0.02
    _, _, card = release.read("card.md").decode().partition("## Slices of live traffic")
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in card.splitlines() if line.startswith("|")]
    told = {cells[0].replace("\\", ""): cells for cells in lines[2:] if cells[0].startswith(("town", "size"))}
    assert [cells[3] for cells in told.values()][:3] == [f"{floor:.3f}" for floor in list(floors.values())[:3]]
    assert sum(int(cells[1]) for name, cells in told.items() if name.startswith("town=")) == manifest.metrics["rows"]
    assert told["town=other"][1:] == ["0", "-", "never"]
    assert manifest.data["skipped"] == []
    assert manifest.data["explore"]["overrides"] == []
    assert f"--data {tmp_path / 'flats.csv'}" in manifest.code["command"]


def test_a_regression_makes_a_release_that_answers_in_units_of_its_target(home, tmp_path):
    generator = np.random.default_rng(0)
    town, size = generator.integers(0, 3, 400), generator.normal(80, 20, 400)
    price = 3000 * size + np.array([2e5, 1e5, 5e4])[town] + generator.normal(0, 1e4, 400)
    names = np.array(["Bern", "Chur", "Genf"])[town]
    lines = [f"{a},{b:.2f},{c:.0f}" for a, b, c in zip(names, size, price, strict=True)]
    (tmp_path / "prices.csv").write_text("\n".join(["town,size,price", *lines]))
    config = tmp_path / "prices.toml"
    config.write_text(
        'name = "prices"\ntask = "regression"\n[data]\nsource = "csv"\npath = "prices.csv"\ntarget = "price"\n'
        'categorical = ["town"]\n[model]\nwidth = 32\n[loop]\nepochs = 60\nbatch_rows = 32\n[schedule]\npeak = 1e-2\n'
    )
    result = run.train(config, tmp_path / "run")
    release = store.open_release(result.tag)
    assert (release.manifest.task, release.manifest.classes, release.manifest.threshold) == ("regression", (), None)
    assert result.metrics["r2"]["value"] > 0.9
    assert set(result.baselines) == {"mean", "linear"}
    assert result.baselines["mean"]["r2"]["value"] < 0.1
    with np.load(io.BytesIO(release.read("heldout.npz")), allow_pickle=False) as heldout:
        x, y, recorded = (heldout[name] for name in ("x", "y", "prediction"))
    assert (y.dtype, recorded.dtype, recorded.shape) == (np.float64, np.float32, (len(y), 1))
    (answered,) = export.run(export.session_of(release.read("model.onnx")), x, 64)
    assert np.array_equal(answered, recorded)
    error = np.abs(recorded[:, 0] - y)
    assert error.mean() == pytest.approx(result.metrics["mae"]["value"], rel=1e-6)
    within = (error <= release.manifest.quality["tolerance"]).mean()
    assert within == pytest.approx(result.metrics["within_tolerance"]["value"])
    assert "NaN" not in release.read("card.html").decode()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("stage", ["fit_baselines", "write_model"])
def test_a_signal_before_or_after_the_epochs_ends_with_the_command_that_goes_on(
    home, tmp_path, monkeypatch, capsys, number, status, stage
):
    monkeypatch.setattr(run, stage, lambda *_: signal.raise_signal(number))
    monkeypatch.setattr(
        run, "_learn", run._learn if stage == "fit_baselines" else lambda *_: (None, {}, Trained(None, None))
    )
    words = ["train", str(EXAMPLES / "digits.toml"), "--run-folder", str(tmp_path)]
    # A shell's `&` has SIGINT ignored, and a library that another test used may have taken SIGTERM.
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {one: signal.signal(one, handler) for one, handler in usual.items()}
    try:
        assert vigil.main(words) == status
        assert {one: signal.getsignal(one) for one in usual} == usual
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith(f"vigil: stopped by {number.name} before the first epoch or after the last; resume with ")
    assert said.endswith(f"vigil {' '.join(words)} --resume")
