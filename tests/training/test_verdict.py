import numpy as np

from training import verdict
from training.config import Config, Gate, Quality

CLASSES, ROWS = 4, 400
Y = np.arange(ROWS) % CLASSES


def answers(right, sureness=0.9, seed=0):
    """Return probabilities that are right for a share of the rows, the wrong ones picked at random."""
    wrong = np.random.default_rng(seed).permutation(ROWS) >= round(right * ROWS)
    table = np.full((ROWS, CLASSES), (1 - sureness) / (CLASSES - 1))
    table[np.arange(ROWS), (Y + wrong) % CLASSES] = sureness
    return table


BASELINES = {"majority": np.full((ROWS, CLASSES), 1 / CLASSES), "linear": answers(0.9)}


def beats(model, baselines=BASELINES):
    return verdict.gate(Config("demo"), Y, model, baselines)["beats_baselines"]


def test_a_model_that_is_better_or_cannot_be_told_from_linear_holds():
    assert beats(answers(0.97, seed=1))
    assert beats(answers(0.9, seed=1))
    assert beats(answers(0.895, seed=1))


def test_a_model_worse_than_linear_beyond_noise_does_not_hold():
    assert not beats(answers(0.8, seed=1))


def test_a_model_as_accurate_but_wrongly_sure_of_itself_does_not_hold():
    assert not beats(answers(0.9, sureness=0.9999999))


def test_a_model_no_better_than_the_majority_does_not_hold_even_beside_a_bad_linear_one():
    assert not beats(answers(0.26), BASELINES | {"linear": answers(0.1, seed=2)})


def test_the_gate_states_its_rules_and_the_gain_over_each_baseline():
    config = Config("demo", gate=Gate(margin=0.03, confidence=0.9))
    gate = verdict.gate(config, Y, answers(0.97, seed=1), BASELINES)
    assert (gate["margin"], gate["confidence"]) == (0.03, 0.9)
    gain = gate["gain_over"]["linear"]["accuracy"]
    assert gain["lower"] < gain["value"] < gain["upper"]
    assert abs(gain["value"] - 0.07) < 1e-9
    assert gate["gain_over"]["linear"]["log_loss"]["value"] > 0


def test_the_floor_is_that_of_the_config_or_else_of_the_linear_baseline():
    measured = {"linear": {"accuracy": {"value": 0.96, "lower": 0.94, "upper": 0.98}}}
    assert verdict.quality(Config("demo"), measured) == {
        "metric": "accuracy", "floor": 0.94, "source": "linear baseline, lower end",
    }  # fmt: skip
    own = verdict.quality(Config("demo", quality=Quality(0.8)), measured)
    assert own == {"metric": "accuracy", "floor": 0.8, "source": "config"}
