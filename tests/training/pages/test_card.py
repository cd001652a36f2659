"""Cards of every kind of model, from real metrics of answers that are made up."""

import functools

import numpy as np
import pytest
from tiny_release import make_draft, rows_of

from monitoring.shift import reference
from registry.release import InputSpec
from training.config import Config, Evaluate
from training.fit import loop
from training.judge import verdict
from training.pages import card

HISTORY = [
    {"epoch": e, "rate": 0.01 / (1 + e), "train_loss": 1 / (1 + e), "validation_loss": 1.2 / (1 + e)} for e in range(9)
]
FIT = loop.Fit(HISTORY, 8, 90, [{"rows": 1000, "train_s": 2.0, "outside_share": 0.03}] * 2)
generator = np.random.default_rng(0)


def softmax(z):
    p = np.exp(z - z.max(axis=1, keepdims=True))
    return (p / p.sum(axis=1, keepdims=True)).astype(np.float32)


def classified(classes, rows=600, sharp=1.5):
    y = np.arange(rows) % classes
    return y, softmax(generator.normal(size=(rows, classes)) + sharp * np.eye(classes)[y] * np.log(classes + 2))


def answered(classes, threshold=None, **changed):
    y, model = classified(len(classes))
    baselines = {"majority": np.full(model.shape, 1 / len(classes)), "linear": softmax(np.log(model) / 2)}
    site = np.array(["north", "south", "east"])[np.arange(len(y)) % 3]
    return verdict.Answered(y, classes, model, baselines, {"site": site}, threshold, 1.3, **changed)


def numeric():
    y = generator.gamma(3, 1000, 600)
    baselines = {"mean": np.full(600, y.mean()), "linear": y + generator.normal(0, 900, 600)}
    site = np.array(["north", "south"])[np.arange(600) % 2]
    return verdict.Answered(y, (), (y + generator.normal(0, 400, 600))[:, None], baselines, {"site": site})


KINDS = {
    "ten classes": (answered(tuple("0123456789")), Config("demo")),
    "binary": (answered(("no", "yes"), 0.31), Config("demo", evaluate=Evaluate("f1"))),
    "youden": (answered(("no", "yes"), 0.42), Config("demo", evaluate=Evaluate("youden"))),
    "many classes": (answered(tuple(f"class-{c}" for c in range(150))), Config("demo")),
    "regression": (numeric(), Config("demo", task="regression")),
}
SPEC = InputSpec("float32", (3,), ("age", "height", "town"), {"town": ("Bonn", "Ulm")}, {"age": 41.5})
DATA = {
    "source": "people.csv", "digest": "d1g35t", "rows": 2400, "label_noise": 0.0, "skipped": ["a.png: not an image"],
    "splits": {"train": 1500, "validation": 300, "test": 600},
    "explore": {"rows_in_two_parts": 4, "rows_dropped": 4, "leaks": {}, "overrides": ["4 rows stand in two parts"]},
}  # fmt: skip
PARITY = {
    "provider": "CPUExecutionProvider", "precision": "fp32", "rows": 900, "batch_rows": [1, 64],
    "max_difference": 1.5e-6, "mean_difference": 2e-8, "limit": 1e-4, "top_class_changes": 0,
    "versions": {"torch": "2.13.0"},
}  # fmt: skip
SKIPPED = {"provider": "CUDAExecutionProvider", "precision": "fp32", "skipped": "no device"}


@functools.cache
def judged(kind):
    said, config = KINDS[kind]
    return verdict.judge(config, said)


def facts_of(kind, folder):
    (said, config), found = KINDS[kind], judged(kind)
    draft = make_draft(
        "demo", SPEC, said.classes, task="classification" if said.classes else "regression", metrics=found.metrics,
        baselines=found.baselines, gate=found.gate, quality=found.quality, data=DATA, config=config.as_dict(),
        parity=PARITY | {"by_provider": [PARITY, SKIPPED]}, threshold=said.threshold,
        code={"git_commit": "c0ffee", "command": "vigil train demo.toml", "versions": {"numpy": "2.3"}},
    )  # fmt: skip
    inputs = rows_of(InputSpec("float32", (3,), ("age", "height", "town")), len(said.y))
    built = reference.build(
        reference.ReferenceSettings(), reference.HeldOut(InputSpec("float32", (3,), SPEC.columns), inputs, said.model)
    )
    (folder / "reference.json").write_bytes(built.to_json())
    return card.Facts(draft, said, "Linear(3, 2)", 1234567, FIT, folder)


@pytest.fixture(scope="module", params=KINDS)
def made(request, tmp_path_factory):
    """The facts of one kind of model with its card in both forms."""
    facts = facts_of(request.param, tmp_path_factory.mktemp("release"))
    return facts, card.markdown(facts), card.html(facts)


def test_every_card_states_where_the_model_comes_from_and_how_good_it_is(made):
    facts, *texts = made
    share = facts.draft.metrics["accuracy" if facts.draft.classes else "within_tolerance"]
    for text in texts:
        for expected in (
            f"{share['value']:.3f} ({share['lower']:.3f}-{share['upper']:.3f})", "d1g35t", "c0ffee", "1,234,567",
            "vigil train demo.toml", "optimizer.weight_decay", "people.csv", "a.png: not an image", "age: 41.500",
            "Bonn, Ulm", "4 rows stand in two parts", "not run: no device", "1.5e-06", "500 rows/s", "3.0%",
            "numpy 2.3", "The weakest slice is site", "linear",
        ):  # fmt: skip
            assert expected in text, expected


def test_every_headline_metric_stands_beside_those_of_the_baselines(made):
    facts, text, _ = made
    for found in (facts.draft.metrics, *facts.draft.baselines.values()):
        for name in card.results.headlines(facts.draft.task):
            assert card.interval(found[name]) in text


def test_a_card_says_what_shift_shows_in_which_window(made):
    facts, text, _ = made
    shifts = reference.parse((facts.files / "reference.json").read_bytes()).shifts
    (typical,) = [shift for shift in shifts if (shift.rows_per_h, shift.window) == (500, "medium")]
    if facts.draft.classes and len(facts.draft.classes) <= 16:
        assert f"With 500 rows/h a change of {typical.class_points:g} points in the share of a class" in text
    assert "shows within 24 h." in text and "| 10,000 |" in text
    assert f"{typical.deviations:.2g} sd" in text


def test_a_card_says_nothing_that_its_kind_does_not_have(made):
    facts, text, page = made
    assert ("## Classes" in text) == ("## Calibration" in text) == bool(facts.draft.classes)
    assert ("## Errors" in text) == (not facts.draft.classes)
    assert ("## Threshold" in text) == (facts.draft.threshold is not None)
    assert "nan" not in page.lower().replace("nanch", "")


def test_a_card_stays_small_and_asks_for_nothing_from_elsewhere(made):
    _, text, page = made
    assert len(text) < 60_000
    assert len(page) < 400_000
    assert "http" not in page
    assert "<script" not in page


def test_many_classes_show_the_weakest_and_the_pairs_that_are_confused(tmp_path):
    text = card.markdown(facts_of("many classes", tmp_path))
    assert "The 20 weakest of 150 classes" in text
    assert "confused most often" in text
    assert "Fewer than 20 test rows: class-0," in text
    assert "and 138 more" in text


def test_a_slice_that_surely_differs_is_named_among_the_limits():
    said, config = KINDS["binary"]
    bad = np.where(np.arange(600) % 3 == 2, 1 - said.y, said.y)
    model = np.eye(2)[bad] * 0.8 + 0.1
    found = verdict.judge(config, verdict.Answered(said.y, said.classes, model, said.baselines, said.slices))
    draft = make_draft("demo", SPEC, said.classes, metrics=found.metrics, data=DATA, gate=found.gate)
    (line,) = [line for line in card.limits(draft) if "weakest slice" in line]
    assert line.startswith("The weakest slice is site east: accuracy 0.000")
    assert "it differs from the other rows" in line


@pytest.mark.parametrize(("value", "text"), [
    (0.97123, "0.971"), (0.0, "0"), (12.3456, "12.346"), (0.00012347, "0.000123"), (123456.7, "123457"),
    (1.5e9, "1.5e+09"),
])  # fmt: skip
def test_a_number_is_told_with_digits_that_mean_something(value, text):
    assert card.number(value) == text


def test_the_numbers_of_an_interval_have_the_same_decimals():
    found = {"value": -0.001186, "lower": -0.0098, "upper": -3e-6}
    assert card.interval(found) == "-0.00119 (-0.00980 to -0.00000)"
    assert card.interval({"value": 0.0, "lower": 0.0, "upper": 0.025}) == "0.000 (0.000-0.025)"
    assert card.interval({"value": 0.0, "lower": 0.0, "upper": 0.0}) == "0 (0-0)"


def test_an_interval_with_a_negative_end_is_not_mistaken_for_a_difference():
    assert card.interval({"value": 0.1, "lower": -0.2, "upper": 0.3}) == "0.100 (-0.200 to 0.300)"
