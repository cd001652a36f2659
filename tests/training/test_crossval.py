import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from registry import durable
from registry.errors import CheckpointError, ConfigError, StackError
from training import crossval
from training.config import Config, Data, Split
from training.rows import data, split
from training.task import BusyError, Order

CONFIG = """
name = "folds"
[data]
source = "breast_cancer"
[model]
width = 8
[loop]
epochs = 3
batch_rows = 32
"""


def order(tmp_path, text=CONFIG, **changed):
    (tmp_path / "folds.toml").write_text(text)
    return Order(tmp_path / "folds.toml", tmp_path / "run", **changed)


def run(asked, count=3):
    lines = []
    return crossval.crossval(asked, count, lines.append), lines


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished cross-validation of breast_cancer, and the lines of its progress."""
    return run(order(tmp_path_factory.mktemp("crossval")))


def test_each_row_is_held_out_once_and_no_copy_of_it_is_learnt_from(tmp_path):
    table = data.load(Data("breast_cancer"), tmp_path)
    config, held = Config("folds"), []
    for number in range(4):
        parts = crossval.parts_of(table, config, 4, number)
        assert sum(parts.counts().values()) == len(table.y)
        assert not set(table.unit[parts.test]) & set(table.unit[np.concatenate([parts.train, parts.validation])])
        held.extend(parts.test.tolist())
    assert sorted(held) == list(range(len(table.y)))


def test_the_rows_of_a_given_test_set_are_in_no_fold(tmp_path):
    x = np.random.default_rng(0).normal(size=(400, 3))
    y = np.arange(400) % 2
    np.savez(tmp_path / "a.npz", x_train=x[:300], y_train=y[:300], x_test=x[300:], y_test=y[300:])
    table = data.load(Data("npz", "a.npz"), tmp_path)
    parts = [crossval.parts_of(table, Config("folds"), 3, number) for number in range(3)]
    used = np.concatenate([np.concatenate([p.train, p.validation, p.test]) for p in parts])
    assert set(used.tolist()) == set(range(300))


def test_the_rest_is_dealt_to_training_and_validation_by_their_shares(tmp_path):
    table = data.load(Data("digits"), tmp_path)
    parts = crossval.parts_of(table, Config("folds", split=Split(0.6, 0.2, 0.2)), 5, 0)
    counts = parts.counts()
    assert counts["validation"] / (counts["train"] + counts["validation"]) == pytest.approx(0.25, abs=0.03)
    assert counts["test"] == (split.folds(table.unit, 5, 0) == 0).sum()


def test_every_model_has_a_score_in_every_fold_and_the_network_has_learnt(done):
    found, lines = done
    assert sum(found.fold_rows) == 569
    assert len(lines) == 3
    for scores in found.scores.values():
        assert scores.keys() == {"model", "majority", "linear"}
        assert all(len(values) == 3 for values in scores.values())
    assert min(found.scores["accuracy"]["model"]) > 0.8 > max(found.scores["accuracy"]["majority"])


def test_the_pooled_share_is_that_of_all_rows(done):
    found, _ = done
    right = np.dot(found.scores["accuracy"]["model"], found.fold_rows)
    assert found.pooled["value"] == pytest.approx(right / 569)
    assert found.pooled["lower"] < found.pooled["value"] < found.pooled["upper"]


def test_the_result_is_a_table_for_people_and_one_object_for_machines(done):
    found, _ = done
    values = found.scores["log_loss"]["model"]
    assert f"{np.mean(values):.3f} ± {np.std(values, ddof=1):.3f}" in crossval.as_text(found)
    said = json.loads(crossval.as_json(found))
    assert said["scores"] == found.scores
    assert said["summary"]["log_loss"]["model"]["deviation"] == pytest.approx(np.std(values, ddof=1))
    assert "\n" not in crossval.as_json(found)
    page = Path(said["page"]).read_text()
    assert str(found.page) in crossval.as_text(found) and page == crossval.as_html(found)
    assert page.count("<circle") == sum(len(values) for scores in found.scores.values() for values in scores.values())


def test_finished_folds_are_taken_as_they_are(done, tmp_path):
    found, _ = done
    folder = found.run_folder
    times = [(folder / f"fold-{k}" / crossval.ANSWERS).stat().st_mtime_ns for k in range(3)]
    again = crossval.crossval(Order(folder.parent / "folds.toml", folder, resume=True), 3, lambda line: None)
    assert again.scores == found.scores
    assert [(folder / f"fold-{k}" / crossval.ANSWERS).stat().st_mtime_ns for k in range(3)] == times


def test_folds_of_other_settings_are_refused_by_name(done):
    found, _ = done
    changed = Order(found.run_folder.parent / "folds.toml", found.run_folder, True, {"optimizer.beta1": 0.8})
    with pytest.raises(CheckpointError, match="optimizer.beta1 was 0.9, is now 0.8; put them back, or cross-validate"):
        crossval.crossval(changed, 3, lambda line: None)


def test_folds_answered_with_a_threshold_of_another_rule_are_refused(done):
    found, _ = done
    changed = Order(found.run_folder.parent / "folds.toml", found.run_folder, True, {"evaluate.threshold": "f1"})
    with pytest.raises(CheckpointError, match="evaluate.threshold was 'half', is now 'f1'"):
        crossval.crossval(changed, 3, lambda line: None)


def test_two_cross_validations_do_not_share_a_folder(tmp_path):
    asked = order(tmp_path)
    with durable.locked(asked.run_folder / "run.lock"), pytest.raises(BusyError, match="another run is at work"):
        run(asked)


def test_labels_that_carry_nothing_score_at_chance(tmp_path):
    generator = np.random.default_rng(0)
    np.savez(tmp_path / "n.npz", x=generator.normal(size=(600, 10)), y=generator.integers(0, 2, 600))
    text = 'name = "n"\n[data]\nsource = "npz"\npath = "n.npz"\n[loop]\nepochs = 15\n'
    found, _ = run(order(tmp_path, text), 2)
    assert found.pooled["lower"] < 0.5 < found.pooled["upper"]


def test_several_processes_are_sent_back_to_one(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(StackError, match="vigil crossval: started 2 times by torchrun; accepted is one process"):
        crossval.crossval(order(tmp_path), 3, lambda line: None)


def test_one_fold_is_no_cross_validation(tmp_path):
    with pytest.raises(ConfigError, match="--folds 1: accepted is 2 to 50"):
        crossval.crossval(order(tmp_path), 1, lambda line: None)


def test_a_regression_is_judged_by_one_tolerance_in_all_folds(tmp_path):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(300, 2))
    np.savez(tmp_path / "r.npz", x=x, y=x.sum(axis=1) + generator.normal(0, 0.1, 300))
    text = 'name = "r"\ntask = "regression"\n[data]\nsource = "npz"\npath = "r.npz"\n[model]\nwidth = 8\n'
    found, _ = run(order(tmp_path, text + "[loop]\nepochs = 2\n"), 2)
    assert found.scores.keys() == {"mae", "rmse", "r2", "within_tolerance"}
    assert found.pooled_metric == "within_tolerance"
    assert found.pooled["value"] == pytest.approx(0.8, abs=0.01)
    assert np.mean(found.scores["r2"]["linear"]) > 0.95


def test_empty_cells_are_filled_in_the_rows_that_are_held_out_too(tmp_path):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(400, 2))
    lines = [f"{'' if n % 7 == 0 else a},{b},{a + b}" for n, (a, b) in enumerate(x)]
    (tmp_path / "g.csv").write_text("\n".join(["a,b,y", *lines]))
    text = 'name = "g"\ntask = "regression"\n[data]\nsource = "csv"\npath = "g.csv"\ntarget = "y"\nmissing = "fill"\n'
    found, _ = run(order(tmp_path, text + "[loop]\nepochs = 8\n[schedule]\npeak = 0.03\n"), 2)
    assert min(found.scores["r2"]["model"]) > 0.5


COMMAND = "import sys, vigil; sys.exit(vigil.main(sys.argv[1:]))"


def test_a_killed_run_goes_on_and_ends_with_the_same_scores(tmp_path, done, eventually):
    asked = order(tmp_path, CONFIG.replace("epochs = 3", "epochs = 3\ncheckpoint_steps = 1"))
    words = ["crossval", str(asked.config_path), "--run-folder", str(asked.run_folder), "--folds", "3"]
    process = subprocess.Popen([sys.executable, "-c", COMMAND, *words], cwd=Path(__file__).parents[2])
    eventually("a checkpoint of the second fold", (asked.run_folder / "fold-1" / "last.pt").exists, 60)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    first = (asked.run_folder / "fold-0" / crossval.ANSWERS).stat().st_mtime_ns
    assert first < time.time_ns()
    found, _ = run(Order(asked.config_path, asked.run_folder, resume=True))
    assert (asked.run_folder / "fold-0" / crossval.ANSWERS).stat().st_mtime_ns == first
    assert found.scores == done[0].scores
