"""The recipes in examples/: they load, fit the rows that they are for, and train."""

from pathlib import Path

import pytest

from registry.errors import ConfigError
from training import config
from training.fit import augment, schedule

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
RECIPES = {"mnist": (28, 28), "images": (32, 32, 3)}


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_example_holds_only_settings_that_exist(path):
    assert config.load(path, {"data.path": "rows"} if path.stem in RECIPES else None).name


@pytest.mark.parametrize(("name", "shape"), RECIPES.items())
def test_a_recipe_without_data_says_how_to_name_them(name, shape):
    with pytest.raises(ConfigError, match="'data.path' is missing.*--data"):
        config.load(EXAMPLES / f"{name}.toml")


@pytest.mark.parametrize(("name", "shape"), RECIPES.items())
def test_a_recipe_changes_its_rows_and_its_rate_as_it_should(name, shape):
    settings = config.load(EXAMPLES / f"{name}.toml", {"data.path": "rows"})
    augment.check(settings.augment, shape)
    rates = [schedule.rate(step, 100, settings.schedule) for step in range(100)]
    assert max(rates) == pytest.approx(settings.schedule.peak)
    assert rates[-1] < settings.schedule.peak / 400
