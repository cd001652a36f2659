import os

import pytest

from training.config import Config, Loop
from training.fit import follow

CONFIG = Config("digits", loop=Loop(epochs=3))
ENTRIES = [{"epoch": epoch, "step": 10 * epoch, "train_loss": 1 / (epoch + 1)} for epoch in range(4)]


def events(folder):
    """Return {name: {epoch: value}} as TensorBoard itself reads it."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    read = EventAccumulator(str(folder / follow.TENSORBOARD)).Reload()
    return {name: {e.step: e.value for e in read.Scalars(name)} for name in read.Tags()["scalars"]}


def tell(folder, entries, resume=False):
    with follow.followers(CONFIG, folder, resume) as heard:
        for entry in entries:
            heard(entry)


def test_tensorboard_reads_every_number_and_a_resumed_run_goes_on_in_its_curve(tmp_path):
    tell(tmp_path, ENTRIES[:3])
    tell(tmp_path, ENTRIES[2:], resume=True)
    assert events(tmp_path)["train_loss"] == pytest.approx({0: 1.0, 1: 0.5, 2: 1 / 3, 3: 0.25})
    assert set(events(tmp_path)) == {"step", "train_loss"}


def test_a_new_run_in_the_same_folder_leaves_the_old_curve_behind(tmp_path):
    tell(tmp_path, ENTRIES)
    tell(tmp_path, ENTRIES[:1])
    assert list(events(tmp_path)["train_loss"]) == [0]


def test_mlflow_gets_numbers_and_settings_and_a_resumed_run_is_the_same_run(tmp_path, monkeypatch):
    import mlflow

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path / 'mlruns'}")
    monkeypatch.setattr(follow, "installed", lambda package: package == "mlflow")
    tell(tmp_path, ENTRIES[:2])
    tell(tmp_path, ENTRIES[2:], resume=True)
    (run,) = mlflow.search_runs(experiment_names=["digits"], output_format="list")
    assert run.info.status == "FINISHED"
    assert run.data.params["loop.epochs"] == "3"
    history = mlflow.MlflowClient().get_metric_history(run.info.run_id, "train_loss")
    assert {m.step: m.value for m in history} == pytest.approx({0: 1.0, 1: 0.5, 2: 1 / 3, 3: 0.25})


def test_a_stopped_run_is_told_to_mlflow_as_stopped(tmp_path, monkeypatch):
    import mlflow

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path / 'mlruns'}")
    with pytest.raises(KeyboardInterrupt), follow.mlflow(CONFIG, tmp_path, False) as heard:
        heard(ENTRIES[0])
        raise KeyboardInterrupt
    (run,) = mlflow.search_runs(experiment_names=["digits"], output_format="list")
    assert run.info.status == "KILLED"


def test_nothing_follows_where_nothing_is_installed_or_asked_for(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(follow, "installed", lambda package: False)
    tell(tmp_path, ENTRIES)
    assert os.listdir(tmp_path) == []


def test_a_follower_that_fails_is_logged_once_and_left_behind(tmp_path, caplog, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / follow.TENSORBOARD).write_text("a file where the folder of events should be")
    tell(tmp_path, ENTRIES, resume=True)
    (record,) = (r for r in caplog.records if r.message == "follower lost")
    assert record.follower == "tensorboard"
