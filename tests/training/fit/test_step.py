from dataclasses import replace

import numpy as np
import pytest
import torch

from registry.errors import ConfigError
from training.config import Augment, Config, Loop, Model, Optimizer
from training.fit import batches, models, step
from training.fit.distributed import World
from training.rows.data import moments

generator = np.random.default_rng(0)
X = generator.normal(size=(40, 6)).astype(np.float32)
Y = generator.integers(0, 3, 40)
CONFIG = Config("demo", model=Model(width=16, dropout=0.0), loop=Loop(batch_rows=40, clip_norm=0.7))
CPU = torch.device("cpu")


def linear():
    torch.manual_seed(0)
    return models.Classifier(torch.nn.Linear(6, 3), moments(X))


def stepped(model, config, steps=3):
    """Train `model` for some steps on the batch of all rows; return the losses."""
    stepper = step.Stepper(config, model, World())
    feed = batches.Feed(config, batches.Rows(X, Y), model.encoder.augmentable(), World(), CPU)
    return [stepper.step(feed.batch(number), 0.01)[0] for number in range(steps)]


def plain(model, config, loss_of, steps=3):
    """The same in plain PyTorch: one loss over all rows of a step."""
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in model.parameters() if p.ndim >= 2], "weight_decay": config.optimizer.weight_decay},
            {"params": [p for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
        ],
        lr=0.01, betas=(config.optimizer.beta1, config.optimizer.beta2),
    )  # fmt: skip
    losses = []
    for number in range(steps):
        optimizer.zero_grad()
        loss = loss_of(model, number)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.loop.clip_norm)
        optimizer.step()
        losses.append(loss.item())
    return losses


def smoothed(model, _step):
    return torch.nn.CrossEntropyLoss(label_smoothing=0.05)(model(torch.from_numpy(X))[1], torch.from_numpy(Y))


def same_weights(one, two, tolerance=1e-6):
    pairs = zip(one.parameters(), two.parameters(), strict=True)
    return all(torch.allclose(a, b, atol=tolerance) for a, b in pairs)


@pytest.mark.parametrize("micro_rows", [0, 40, 7, 2])
def test_a_batch_in_pieces_of_unequal_size_is_one_step_of_plain_torch(micro_rows):
    config = replace(CONFIG, loop=replace(CONFIG.loop, micro_rows=micro_rows))
    ours, theirs = linear(), linear()
    assert stepped(ours, config) == pytest.approx(plain(theirs, config, smoothed), abs=1e-6)
    assert same_weights(ours, theirs)


def test_mixup_is_the_blended_loss_of_plain_torch_on_blended_rows():
    rng = np.random.default_rng(1)
    images = batches.Rows(rng.integers(0, 255, (40, 2, 3), dtype=np.uint8), Y)
    config = replace(CONFIG, augment=Augment(mixup=0.4))

    def network():
        torch.manual_seed(0)
        return models.Classifier(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(6, 3)), moments(images.x))

    ours, theirs = network(), network()
    feed = batches.Feed(config, images, ours.encoder.augmentable(), World(), CPU)
    stepper = step.Stepper(config, ours, World())
    losses = [stepper.step(feed.batch(number), 0.01)[0] for number in range(3)]

    def blended(model, number):
        (piece,) = feed.batch(number)
        truth = torch.nn.functional.one_hot(piece.y, 3) * piece.share[:, None]
        truth = truth + torch.nn.functional.one_hot(piece.partner_y, 3) * (1 - piece.share[:, None])
        return torch.nn.CrossEntropyLoss(label_smoothing=0.05)(model(piece.x)[1], truth)

    assert losses == pytest.approx(plain(theirs, config, blended), abs=1e-5)
    assert same_weights(ours, theirs, 1e-5)
    (piece,) = feed.batch(0)
    assert 0 < float(piece.share.min()) < float(piece.share.max()) < 1


def test_bf16_computes_in_half_the_bits_and_keeps_the_weights_in_float32():
    config = replace(CONFIG, loop=replace(CONFIG.loop, precision="bf16"))
    half, full = linear(), linear()
    seen = []
    half.body.register_forward_hook(lambda _module, _rows, answer: seen.append(answer.dtype))
    losses = stepped(half, config)
    assert seen == [torch.bfloat16] * 3
    assert {parameter.dtype for parameter in half.parameters()} == {torch.float32}
    assert losses == pytest.approx(stepped(full, CONFIG), rel=0.02)


def test_precisions_and_devices_that_are_not_there_are_refused_and_auto_finds_one():
    with pytest.raises(ConfigError, match="'fp16' needs a GPU; accepted on the CPU are fp32, bf16 and auto"):
        step.precision(Loop(precision="fp16"), CPU)
    found = torch.cpu.get_capabilities()
    computes = found.get("avx512_bf16") or found.get("amx_bf16")
    assert step.precision(Loop(precision="auto"), CPU) == ("bf16" if computes else "fp32")
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="finds no GPU; accepted here are cpu and auto"):
            step.device(Loop(device="cuda"))
        assert step.device(Loop(device="auto")) == CPU


def test_only_weights_decay():
    torch.manual_seed(0)
    model = models.Classifier(models.build(CONFIG.model, (6,), 3, None), moments(X))
    groups = step.optimizer(model, Optimizer(weight_decay=0.1)).param_groups
    assert {p.ndim >= 2 for p in groups[0]["params"]} == {True}
    assert {p.ndim for p in groups[1]["params"]} == {1}
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))


def test_a_request_to_stop_that_comes_during_the_step_is_told_after_it():
    model = linear()
    stepper = step.Stepper(CONFIG, model, World())
    pieces = batches.Feed(CONFIG, batches.Rows(X, Y), model.encoder.augmentable(), World(), CPU).batch(0)
    assert stepper.step(pieces, 0.01, lambda: 15)[1]
    assert not stepper.step(pieces, 0.01, lambda: 0)[1]
