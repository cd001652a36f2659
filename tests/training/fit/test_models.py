import numpy as np
import pytest
import torch

from registry.errors import ConfigError
from training.config import Model
from training.fit import models
from training.rows.data import Moments, moments

SHAPES = {"grey": (8, 8), "colour": (9, 7, 3), "table": (5,)}


def classifier(kind, shape, classes=3, folder=None):
    torch.manual_seed(0)
    body = models.build(Model(kind=kind, width=8), shape, classes, folder)
    return models.Classifier(body, Moments(np.float32(7.0), np.float32(3.0)))


@pytest.mark.parametrize(
    ("kind", "shape"), [("mlp", s) for s in SHAPES.values()] + [("cnn", (8, 8)), ("cnn", (9, 7, 3))]
)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_raw_rows_of_any_kind_become_probabilities(kind, shape, dtype):
    x = np.random.default_rng(0).integers(0, 17, (6, *shape)).astype(dtype)
    probabilities, logits = models.predict(classifier(kind, shape), x)
    assert probabilities.shape == logits.shape == (6, 3)
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(6))


def test_the_body_sees_standardised_rows_with_channels_first():
    seen = []

    class Spy(torch.nn.Module):
        def forward(self, x):
            seen.append(x)
            return x.flatten(1)[:, :2]

    x = np.random.default_rng(0).integers(0, 255, (4, 5, 6, 3), dtype=np.uint8)
    models.predict(models.Classifier(Spy(), moments(x)), x)
    expected = (x.astype(np.float32) - x.mean()) / x.std()
    assert seen[0].numpy() == pytest.approx(expected.transpose(0, 3, 1, 2), abs=1e-4)


def test_the_temperature_divides_the_logits_and_keeps_the_class():
    model = classifier("mlp", (5,))
    x = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    before, logits = models.predict(model, x)
    model.temperature.fill_(2.0)
    after, halved = models.predict(model, x)
    assert halved == pytest.approx(logits / 2, abs=1e-6)
    assert np.array_equal(before.argmax(axis=1), after.argmax(axis=1))


def test_an_answer_does_not_depend_on_the_rows_beside_it():
    model = classifier("cnn", (8, 8))
    x = np.random.default_rng(0).integers(0, 17, (10, 8, 8), dtype=np.uint8)
    alone = np.concatenate([models.predict(model, x[i : i + 1])[0] for i in range(10)])
    assert models.predict(model, x)[0] == pytest.approx(alone, abs=1e-6)


def test_a_regressor_answers_in_units_of_the_target_and_learns_on_the_standardised_one():
    x = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    y = 1e5 + 1e3 * x[:, 0].astype(np.float64)
    torch.manual_seed(0)
    body = models.build(Model(width=8), (5,), 1, None)
    model = models.Regressor(body, moments(x), (1e5, 1e3)).eval()
    (prediction,) = models.predict(model, x)
    assert prediction.shape == (20, 1) and prediction.dtype == np.float32
    with torch.no_grad():
        raw = model.raw(torch.from_numpy(x))
        losses = model.losses(raw, torch.from_numpy(y))
    assert prediction == pytest.approx(raw.numpy() * 1e3 + 1e5, rel=1e-6)
    assert losses.numpy() == pytest.approx((raw[:, 0].numpy() - (y - 1e5) / 1e3) ** 2, rel=1e-4)


OWN = """
import torch
def small(shape, classes):
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(classes))
def wrong(shape, classes):
    return torch.nn.Flatten()
def other(shape, classes):
    return torch.nn.Linear(3, classes)
def text(shape, classes):
    return "network"
class Embeds(torch.nn.Module):
    def __init__(self, classes, *embeddings):
        super().__init__()
        self.last, self.embeddings = torch.nn.Linear(5, classes), embeddings
    def forward(self, x):
        return self.last(x), *(made(x) for made in self.embeddings)
def embeds(shape, classes):
    return Embeds(classes, lambda x: (2 * x).reshape(-1, 1, 5))
def flat(shape, classes):
    return Embeds(classes, lambda x: x[:, 0])
def whole(shape, classes):
    return Embeds(classes, lambda x: x.long())
def twice(shape, classes):
    return Embeds(classes, lambda x: x, lambda x: x)
"""


def test_a_network_of_your_own_beside_the_toml_file_is_used(tmp_path):
    (tmp_path / "own_networks_a.py").write_text(OWN)
    model = classifier("own_networks_a:small", (4, 4), folder=tmp_path)
    assert models.parameter_count(model) == 16 * 3 + 3


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("own_networks_b:absent", "cannot be imported"),
        ("no_such_module:small", "cannot be imported: No module named 'no_such_module'"),
        ("own_networks_b:wrong", r"answers \(2, 16\) for 2 rows; accepted is \(2, 3\)"),
        ("own_networks_b:other", r"does not take rows of shape \(1, 4, 4\)"),
        ("own_networks_b:text", "returned str; accepted is a torch.nn.Module"),
    ],
)
def test_a_network_of_your_own_that_does_not_fit_is_refused(tmp_path, kind, message):
    (tmp_path / "own_networks_b.py").write_text(OWN)
    with pytest.raises(ConfigError, match=message):
        models.build(Model(kind=kind), (4, 4), 3, tmp_path)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("flat", r"embeds 2 rows as torch.float32 \(2,\); accepted are floats \(2, ...\)"),
        ("whole", r"embeds 2 rows as torch.int64 \(2, 5\)"),
        ("twice", r"answers tuple for 2 rows"),
    ],
)
def test_an_embedding_that_is_none_is_refused(tmp_path, kind, message):
    (tmp_path / "own_networks_c.py").write_text(OWN)
    with pytest.raises(ConfigError, match=message):
        models.build(Model(kind=f"own_networks_c:{kind}"), (5,), 3, tmp_path)


@pytest.mark.parametrize("classes", [3, 0])
def test_the_embedding_of_a_network_comes_last_and_flat_and_is_not_what_training_works_on(tmp_path, classes):
    (tmp_path / "own_networks_d.py").write_text(OWN)
    x = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    body = models.build(Model(kind="own_networks_d:embeds"), (5,), classes or 1, tmp_path)
    model = models.Classifier(body, moments(x)) if classes else models.Regressor(body, moments(x), (0.0, 1.0))
    *answers, embedded = models.predict(model, x)
    assert [answer.shape for answer in answers] == ([(6, 3)] * 2 if classes else [(6, 1)])
    assert embedded == pytest.approx(2 * model.encoder(torch.from_numpy(x)).numpy(), abs=1e-5)
    assert models.embedding_width(model, x[:2]) == 5
    assert model.raw(torch.from_numpy(x)).shape == (6, classes or 1)


@pytest.mark.parametrize(("shape", "depth", "message"), [((30,), 2, "cnn needs images"), ((8, 8), 4, "4 halvings")])
def test_a_cnn_that_does_not_fit_the_rows_is_refused(tmp_path, shape, depth, message):
    with pytest.raises(ConfigError, match=message):
        models.build(Model("cnn", depth=depth), shape, 3, tmp_path)
