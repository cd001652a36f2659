import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import optuna
import pytest

from registry import durable
from registry.errors import CheckpointError, ConfigError, DataError, StackError
from training import config, search
from training.config import Config, Model, Schedule
from training.task import BusyError, Order

CONFIG = """
name = "tried"
[data]
source = "npz"
path = "rows.npz"
[model]
kind = "mlp"
width = 8
[loop]
epochs = 3
batch_rows = 32
[search]
trials = 3
[search.space]
schedule.peak = [1e-4, 1e-1, "log"]
"model.width" = [4, 8, 16]
"model.dropout" = [0.0, 0.1, "linear"]
"""


def rows(folder, test_seed=1):
    """Write 400 rows to learn from, and 100 test rows drawn with another seed."""
    parts = {}
    for part, count, seed in (("train", 400, 0), ("test", 100, test_seed)):
        generator = np.random.default_rng(seed)
        x = generator.normal(size=(count, 4))
        parts |= {f"x_{part}": x, f"y_{part}": (x.sum(axis=1) + generator.normal(size=count) > 0).astype(int)}
    np.savez(folder / "rows.npz", **parts)


def order(folder, text=CONFIG, **changed):
    folder.mkdir(exist_ok=True)
    rows(folder)
    (folder / "tried.toml").write_text(text)
    return Order(folder / "tried.toml", folder / "run", **changed)


def searched(asked, trials=0):
    lines = []
    return search.search(asked, trials, lines.append), lines


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A finished search, and the lines of its progress."""
    return searched(order(tmp_path_factory.mktemp("search")))


def test_the_trials_stand_in_order_of_their_validation_loss_and_inside_the_space(done):
    found, lines = done
    losses = [trial.loss for trial in found.trials]
    assert losses == sorted(losses)
    assert sorted(trial.number for trial in found.trials) == [1, 2, 3]
    assert len(lines) == 3
    for trial in found.trials:
        assert 1e-4 <= trial.settings["schedule.peak"] <= 1e-1
        assert trial.settings["model.width"] in (4, 8, 16)
        assert 0 <= trial.settings["model.dropout"] <= 0.1
        assert trial.epochs == 3


def test_the_best_settings_are_written_as_a_file_that_trains_the_same(done):
    found, _ = done
    best, written = found.trials[0].settings, config.load(found.written)
    assert found.written.name == "tried.best.toml"
    assert (written.schedule.peak, written.model.width) == (best["schedule.peak"], best["model.width"])
    assert written.loop.epochs == 3
    assert written.search == config.Search()
    again, _ = searched(Order(found.written, found.run_folder.parent / "again", overrides={"search.space": {
        "schedule.peak": [best["schedule.peak"], best["schedule.peak"]],
    }}), 1)  # fmt: skip
    assert again.trials[0].loss == found.trials[0].loss


def test_other_test_rows_change_nothing(done, tmp_path):
    asked = order(tmp_path)
    rows(tmp_path, test_seed=7)
    found, _ = searched(asked)
    assert [(t.settings, t.loss) for t in found.trials] == [(t.settings, t.loss) for t in done[0].trials]


def test_the_result_is_a_table_for_people_and_one_object_for_machines(done):
    found, _ = done
    text = search.as_text(found)
    assert text.splitlines()[0].split()[:3] == ["trial", "validation", "loss"]
    assert f"next: vigil train {found.written}" in text
    said = json.loads(search.as_json(found))
    assert said["trials"][0]["loss"] == found.trials[0].loss
    assert str(found.page) in text and Path(said["page"]).read_text().count("<circle") == 3 * 3


def test_a_finished_search_that_is_resumed_only_adds_what_is_missing(tmp_path):
    asked = order(tmp_path)
    first, _ = searched(asked, 1)
    more, lines = searched(Order(asked.config_path, asked.run_folder, resume=True), 2)
    assert len(lines) == 1
    assert {t.number: t.loss for t in more.trials}[1] == first.trials[0].loss
    assert len({str(t.settings) for t in more.trials}) == 2


def test_a_search_with_other_settings_is_refused_by_name(done):
    found, _ = done
    changed = Order(found.run_folder.parent / "tried.toml", found.run_folder, True, {"loop.epochs": 4})
    with pytest.raises(CheckpointError, match="loop.epochs was 3, is now 4; put them back, or search without --resume"):
        searched(changed)


def test_a_trial_behind_the_median_of_the_others_is_ended_early_and_stands_last(tmp_path):
    text = CONFIG.split("[search.space]")[0] + "[search.space]\nschedule.peak = [2e-2, 1e-2, 5e-3, 2e-5]\n"
    found, lines = searched(order(tmp_path, text.replace("epochs = 3", "epochs = 5")), 10)
    early = [trial for trial in found.trials if trial.loss is None]
    assert early
    assert found.trials[-len(early) :] == early
    assert all(2 <= trial.epochs < 5 for trial in early)
    assert sum("ended early" in line for line in lines) == len(early)
    assert "ended early" in search.as_text(replace(found, trials=found.trials[-3:]))


COMMAND = "import sys, vigil; sys.exit(vigil.main(sys.argv[1:]))"


def test_a_trial_that_was_killed_goes_on_where_it_was(tmp_path, eventually, caplog):
    caplog.set_level("INFO")
    asked = order(tmp_path, CONFIG.replace("epochs = 3", "epochs = 12\ncheckpoint_steps = 1"))
    words = ["search", str(asked.config_path), "--run-folder", str(asked.run_folder), "--trials", "1"]
    process = subprocess.Popen([sys.executable, "-c", COMMAND, *words], cwd=Path(__file__).parents[2])
    eventually("a checkpoint", (asked.run_folder / "trial" / "last.pt").exists, 60)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    resumed, _ = searched(Order(asked.config_path, asked.run_folder, resume=True), 1)
    (event,) = (record for record in caplog.records if record.message == "resumed")
    assert event.step > 0
    whole, _ = searched(Order(asked.config_path, tmp_path / "whole"), 1)
    assert [(t.settings, t.loss) for t in resumed.trials] == [(t.settings, t.loss) for t in whole.trials]


def test_a_trial_killed_before_it_began_leaves_the_folder_of_the_one_before_alone(tmp_path):
    asked = order(tmp_path)
    searched(asked, 1)
    storage = f"sqlite:///{asked.run_folder / search.STUDY}"
    begun = optuna.load_study(study_name="search", storage=storage).ask()  # as far as a killed process came
    begun.suggest_float("schedule.peak", 1e-4, 1e-1, log=True)
    found, _ = searched(Order(asked.config_path, asked.run_folder, resume=True), 2)
    assert [trial.number for trial in sorted(found.trials, key=lambda one: one.number)] == [1, 3]
    assert found.trials[0].settings != found.trials[1].settings


def test_a_column_that_is_the_answer_stops_a_search_as_it_stops_training(tmp_path):
    asked = order(tmp_path)
    x = np.random.default_rng(0).normal(size=(400, 2))
    np.savez(tmp_path / "rows.npz", x=x, y=(x[:, 0] > 0).astype(int))
    with pytest.raises(DataError, match="one column alone gives the target away: 'x0'"):
        searched(asked)


def test_a_peak_that_would_fall_below_the_floor_is_refused_before_the_first_trial(tmp_path):
    text = CONFIG + 'schedule.floor = [1e-5, 1e-3, "log"]\n'
    with pytest.raises(ConfigError, match="'schedule.floor' is 0.001, above 'schedule.peak' 0.0001"):
        searched(order(tmp_path, text))
    assert not (tmp_path / "run").exists()


def test_two_searches_do_not_share_a_folder(tmp_path):
    asked = order(tmp_path)
    with durable.locked(asked.run_folder / "run.lock"), pytest.raises(BusyError, match="another run is at work"):
        searched(asked)


def test_several_processes_are_sent_back_to_one(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(StackError, match="vigil search: started 2 times by torchrun"):
        searched(order(tmp_path))


def test_without_optuna_the_message_names_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(StackError, match=r"pip install 'vigil\[search\]'"):
        searched(order(tmp_path))


def test_the_usual_space_fits_the_config_it_starts_from():
    space = search.usual(Config("tried", model=Model(width=1), schedule=Schedule(peak=0.5, floor=0.1)))
    assert space["schedule.peak"][0] >= 0.1
    assert space["schedule.peak"][0] < space["schedule.peak"][1]
    assert space["model.width"] == (1, 2)
    assert "model.width" not in search.usual(Config("tried", model=Model("own:build")))


@pytest.mark.parametrize(("text", "message"), [
    ('data.first_rows = [1, 9, "log"]', "names 'data.first_rows'; accepted are settings of augment, model"),
    ('schedule.peek = [1e-4, 1e-2, "log"]', "names 'schedule.peek'"),
    ("optimizer.label_smoothing = [0.0, 0.1]", "trials that differ in it cannot be compared: choose it in .optimizer."),
    ("schedule.peak = 0.1", "accepted are .low, high, .log.."),
    ('schedule.peak = [1e-2, 1e-4, "log"]', "schedule.peak goes from 0.01 to 0.0001"),
    ('model.dropout = [0.0, 0.5, "log"]', "above 0 for log"),
    ('schedule.peak = [1e-4, 99.0, "log"]', "'search.space.schedule.peak' is 99.0; accepted is"),
    ('model.width = [8, "wide"]', "'search.space.model.width' must be int, got 'wide'"),
])  # fmt: skip
def test_a_space_that_cannot_be_searched_is_refused_before_anything_runs(tmp_path, text, message):
    asked = order(tmp_path, f'name = "tried"\n[search.space]\n{text}\n')
    with pytest.raises(ConfigError, match=message):
        config.load(asked.config_path)
