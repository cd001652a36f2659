import json
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import r2_score

from registry.errors import CheckpointError, DataError
from training.config import Augment, Config, Loop, Model, Schedule
from training.fit import checkpoint, loop, models, stop
from training.rows.data import moments

generator = np.random.default_rng(0)
X = generator.normal(size=(120, 6)).astype(np.float32)
Y = (X @ generator.normal(size=(6, 3))).argmax(axis=1)
TRAIN, VALIDATION = loop.Rows(X[:80], Y[:80]), loop.Rows(X[80:], Y[80:])
CONFIG = Config("demo", loop=Loop(epochs=6, batch_rows=16), model=Model(width=16), augment=Augment(noise=0.1))


def build(config=CONFIG):
    torch.manual_seed(0)
    return models.Classifier(models.build(config.model, (6,), 3, None), moments(TRAIN.x))


def fit(folder, config=CONFIG, resume=False, **more):
    folder.mkdir(exist_ok=True)
    model = build(config)
    run = loop.Run(folder, config.as_dict(), resume, "vigil train demo.toml --resume", **more)
    return model, loop.fit(config, model, TRAIN, VALIDATION, run)


def same_bits(one, two):
    pairs = zip(one.state_dict().values(), two.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_training_learns_and_keeps_the_epoch_with_the_lowest_loss(tmp_path):
    config = replace(CONFIG, loop=replace(CONFIG.loop, epochs=30, patience_epochs=30))
    model, fitted = fit(tmp_path, config)
    losses = [entry["validation_loss"] for entry in fitted.history]
    assert fitted.best_epoch == int(np.argmin(losses))
    logits = model(torch.from_numpy(VALIDATION.x))[1]
    smoothed = torch.nn.CrossEntropyLoss(label_smoothing=0.05)(logits, torch.from_numpy(VALIDATION.y))
    assert float(smoothed.detach()) == pytest.approx(min(losses), abs=1e-6)
    assert loop.validate(model, VALIDATION)[1] > 0.8
    lines = [json.loads(line) for line in (tmp_path / "epochs.jsonl").read_text().splitlines()]
    assert lines == fitted.history
    assert [line["epoch"] for line in lines] == list(range(30))


class KilledError(Exception): ...


def killed():
    raise KilledError


def kill_at(monkeypatch, step):
    """Make the run die without a word before `step`, as a kill -9 would."""
    original = loop.schedule.rate

    def rate(now, total, settings):
        if now == step:
            raise KilledError
        return original(now, total, settings)

    monkeypatch.setattr(loop.schedule, "rate", rate)


@pytest.mark.parametrize("step", [2, 10, 13, 29], ids=["first epoch", "end of epoch", "mid-epoch", "last step"])
@pytest.mark.parametrize("every", [0, 1, 3])
def test_a_killed_and_resumed_run_ends_with_the_same_bits(tmp_path, monkeypatch, step, every):
    config = replace(CONFIG, loop=replace(CONFIG.loop, checkpoint_steps=every))
    whole, expected = fit(tmp_path / "whole", config)
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        kill_at(patch, step)
        fit(tmp_path, config)
    torch.manual_seed(99)  # a new process starts elsewhere in the random stream
    resumed, found = fit(tmp_path, config, resume=True)
    assert same_bits(whole, resumed)
    assert found == expected
    assert (tmp_path / "epochs.jsonl").read_bytes() == (tmp_path / "whole" / "epochs.jsonl").read_bytes()


@pytest.mark.parametrize("step", [7, 13])
def test_resuming_is_exact_with_everything_on(tmp_path, monkeypatch, step):
    config = replace(
        CONFIG, loop=replace(CONFIG.loop, checkpoint_steps=3, micro_rows=6, ema=0.9, precision="bf16"),
        augment=Augment(noise=0.1, mask_share=0.1), model=replace(CONFIG.model, dropout=0.3),
    )  # fmt: skip
    whole, expected = fit(tmp_path / "whole", config)
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        kill_at(patch, step)
        fit(tmp_path, config)
    torch.manual_seed(99)
    resumed, found = fit(tmp_path, config, resume=True)
    assert same_bits(whole, resumed)
    assert found == expected
    assert (tmp_path / "epochs.jsonl").read_bytes() == (tmp_path / "whole" / "epochs.jsonl").read_bytes()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_step_saves_and_names_the_command_to_go_on(tmp_path, monkeypatch, number):
    whole, expected = fit(tmp_path / "whole")
    original = loop.schedule.rate

    def rate(now, total, settings):
        if now == 12:
            os.kill(os.getpid(), number)
        return original(now, total, settings)

    before = signal.getsignal(number)
    with monkeypatch.context() as patch, pytest.raises(stop.StoppedError) as caught:
        patch.setattr(loop.schedule, "rate", rate)
        fit(tmp_path)
    assert str(caught.value).startswith(
        f"stopped by {signal.Signals(number).name} after 2 of 6 epochs (step 13 of 30), saved in "
    )
    assert caught.value.exit_status == 128 + number
    assert str(caught.value).endswith("resume with vigil train demo.toml --resume")
    assert signal.getsignal(number) is before
    assert checkpoint.load(tmp_path / "last.pt", CONFIG.as_dict()).step == 13
    resumed, found = fit(tmp_path, resume=True)
    assert same_bits(whole, resumed)
    assert found == expected


def test_a_run_killed_between_its_last_checkpoint_and_its_history_writes_the_history_on_resume(tmp_path, monkeypatch):
    fit(tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(loop._Trainer, "_tell", lambda self: killed() if self.state.step == self.total else None)
        fit(tmp_path)
    fit(tmp_path, resume=True)
    assert (tmp_path / "epochs.jsonl").read_bytes() == (tmp_path / "whole" / "epochs.jsonl").read_bytes()


def test_resuming_a_finished_run_changes_nothing(tmp_path):
    model, fitted = fit(tmp_path)
    again, found = fit(tmp_path, resume=True)
    assert same_bits(model, again)
    assert found == fitted


def test_resuming_under_other_settings_or_another_network_is_refused(tmp_path):
    fit(tmp_path)
    with pytest.raises(CheckpointError, match="loop.seed was 0, is now 1"):
        fit(tmp_path, replace(CONFIG, loop=replace(CONFIG.loop, seed=1)), resume=True)
    other = models.Classifier(torch.nn.Linear(6, 3), moments(TRAIN.x))
    with pytest.raises(CheckpointError, match="does not fit the network"):
        loop.fit(CONFIG, other, TRAIN, VALIDATION, loop.Run(tmp_path, CONFIG.as_dict(), resume=True))


def test_without_resume_an_old_checkpoint_is_left_behind(tmp_path):
    fit(tmp_path, replace(CONFIG, loop=replace(CONFIG.loop, seed=5)))
    fresh, _ = fit(tmp_path)
    expected, _ = fit(tmp_path / "whole")
    assert same_bits(fresh, expected)


def test_training_stops_when_the_loss_no_longer_falls(tmp_path):
    config = replace(CONFIG, loop=replace(CONFIG.loop, epochs=500, patience_epochs=4))
    _, fitted = fit(tmp_path, config)
    assert len(fitted.history) == fitted.best_epoch + 1 + 4 < 500


@pytest.mark.parametrize(
    ("losses", "stale"),
    [
        ([], 0),
        ([3.0], 0),
        ([3.0, 2.0], 0),
        ([2.0, 3.0, 2.5], 2),
        ([-1.0, -0.5], 1),
        ([-0.5, -1.0], 0),
        ([1.0, 1.0], 1),
    ],
)
def test_a_worsening_loss_is_no_progress_also_below_zero(losses, stale):
    assert loop.stale_epochs(losses) == stale


def test_the_loss_of_a_step_is_that_of_torch_with_smoothing_and_clipping(tmp_path):
    config = replace(
        CONFIG, loop=replace(CONFIG.loop, epochs=1, batch_rows=80, clip_norm=0.5), augment=Augment(),
        model=replace(CONFIG.model, dropout=0.0),
    )  # fmt: skip
    model, fitted = fit(tmp_path, config)
    plain = build(config).train()
    optimizer = torch.optim.AdamW(plain.parameters(), lr=fitted.history[0]["rate"], betas=(0.9, 0.99), weight_decay=0)
    order = checkpoint.order(80, 0, 0)
    loss = torch.nn.CrossEntropyLoss(label_smoothing=0.05)(
        plain(torch.from_numpy(X)[order])[1], torch.from_numpy(Y)[order]
    )
    loss.backward()
    torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
    decay = 1 - fitted.history[0]["rate"] * config.optimizer.weight_decay
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter *= decay if parameter.ndim >= 2 else 1
    optimizer.step()
    assert fitted.history[0]["train_loss"] == pytest.approx(loss.item(), abs=1e-6)
    for got, want in zip(model.parameters(), plain.parameters(), strict=True):
        assert got.detach().numpy() == pytest.approx(want.detach().numpy(), abs=1e-6)


def test_the_training_loss_of_an_epoch_is_the_mean_over_its_own_rows(tmp_path):
    config = replace(
        CONFIG, augment=Augment(), schedule=Schedule(peak=1e-9, floor=0.0),
        model=replace(CONFIG.model, dropout=0.0), loop=replace(CONFIG.loop, batch_rows=80),
    )  # fmt: skip
    _, fitted = fit(tmp_path, config)
    losses = [entry["train_loss"] for entry in fitted.history]
    assert losses == pytest.approx([losses[0]] * 6, abs=1e-5)  # nothing is learnt at this rate


def test_a_loss_that_is_not_finite_says_what_to_change(tmp_path):
    model = build()
    with torch.no_grad():
        next(model.parameters()).fill_(float("inf"))
    with pytest.raises(DataError, match="the loss is not finite after step 5.*lower schedule.peak"):
        loop.fit(CONFIG, model, TRAIN, VALIDATION, loop.Run(tmp_path, {}))


def test_the_average_of_the_weights_is_judged_and_kept(tmp_path):
    config = replace(CONFIG, loop=replace(CONFIG.loop, ema=0.99))
    model, fitted = fit(tmp_path, config)
    last = checkpoint.load(tmp_path / "last.pt", config.as_dict())
    assert fitted.best_epoch == 5  # the loss still falls, so the average of the last step is the best
    assert all(torch.equal(last.average[name], value) for name, value in model.state_dict().items())
    assert not torch.equal(last.model["body.1.weight"], last.average["body.1.weight"])
    found, _ = loop.validate(model, VALIDATION, smoothing=config.optimizer.label_smoothing)
    assert found == pytest.approx(fitted.history[5]["validation_loss"], abs=1e-6)


def test_a_regression_learns_its_target_and_reports_r2(tmp_path):
    target = 1e4 + 200 * (X[:, 0] - X[:, 3]).astype(np.float64)
    rows = loop.Rows(X[:80], target[:80]), loop.Rows(X[80:], target[80:])
    torch.manual_seed(0)
    body = models.build(CONFIG.model, (6,), 1, None)
    model = models.Regressor(body, moments(X[:80]), (target[:80].mean(), target[:80].std()))
    config = replace(CONFIG, loop=replace(CONFIG.loop, epochs=20))
    fitted = loop.fit(config, model, *rows, loop.Run(tmp_path, {}))
    (prediction,) = models.predict(model, X[80:])
    best = fitted.history[fitted.best_epoch]
    assert best["validation_r2"] == pytest.approx(r2_score(target[80:], prediction), abs=1e-4)
    assert best["validation_r2"] > 0.7
    assert best["validation_loss"] == pytest.approx(
        np.mean((prediction[:, 0] - target[80:]) ** 2) / target[:80].var(), rel=1e-3
    )


def test_the_pace_of_each_epoch_stands_in_a_file_of_its_own(tmp_path):
    _, fitted = fit(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "timing.jsonl").read_text().splitlines()]
    assert lines == fitted.timing
    assert [line["epoch"] for line in lines] == list(range(6))
    for line in lines:
        assert line["rows"] == 80
        assert line["rows_per_s"] == pytest.approx(80 / line["train_s"], rel=0.05)
        assert 0 < line["outside_share"] < 1


def test_those_who_follow_hear_of_each_epoch_once(tmp_path):
    heard = []
    _, fitted = fit(tmp_path, follow=heard.append)
    assert heard == [entry | timing for entry, timing in zip(fitted.history, fitted.timing, strict=True)]


def test_nothing_is_drawn_when_stderr_is_not_a_terminal(tmp_path, capsys):
    fit(tmp_path)
    assert capsys.readouterr() == ("", "")


def test_threads_and_determinism_are_put_back(tmp_path):
    before = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    fit(tmp_path)
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before
