import shlex
from pathlib import Path

from training import config
from training.task import Order


def test_the_words_of_an_order_ask_for_the_same_order(tmp_path):
    for path in ("rows of mine.csv", str(tmp_path / "rows.csv")):
        given = {"loop.epochs": 5, "augment.noise": 1e-5, "purpose": 'say "it\'s" 😀\n', "data.slices": ["a b", "c"]}
        overrides = given | {"data.path": path}
        words = shlex.split(Order(Path("a.toml"), Path("run"), overrides=overrides).words("train"))
        assert words[:5] == ["vigil", "train", "a.toml", "--run-folder", "run"]
        pairs = list(zip(words[5::2], words[6::2], strict=True))
        data, assignments = ([value for option, value in pairs if option == name] for name in ("--data", "--set"))
        assert config.overrides("".join(data), assignments) == overrides
