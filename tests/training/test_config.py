from pathlib import Path

import pytest

from registry.errors import ConfigError
from training import config


def load(tmp_path, text, name='name = "demo"\n'):
    path = tmp_path / "run.toml"
    path.write_text(name + text)
    return config.load(path)


def test_left_out_keys_keep_their_defaults(tmp_path):
    loaded = load(tmp_path, "[loop]\nepochs = 3\n")
    assert loaded.loop.epochs == 3
    assert loaded.loop.batch_rows == config.Loop().batch_rows
    assert loaded.optimizer == config.Optimizer()


def test_a_whole_number_may_stand_for_a_float(tmp_path):
    rate = load(tmp_path, "[augment]\nrotate_degrees = 10\n").augment.rotate_degrees
    assert rate == 10.0
    assert type(rate) is float


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[loop]\nepoch = 3\n", "unknown key 'loop.epoch'; did you mean 'loop.epochs'?"),
        ("[lop]\nepochs = 3\n", "unknown key 'lop'; did you mean 'loop'?"),
        ("zebra = 1\n", "unknown key 'zebra'; known: name, purpose, task, data"),
        ("[loop]\nepochs = '3'\n", "'loop.epochs' must be int, got '3'"),
        ("[loop]\nepochs = true\n", "'loop.epochs' must be int, got True"),
        ("[augment]\nnoise = true\n", "'augment.noise' must be float, got True"),
        ("[loop]\nepochs = 0\n", "'loop.epochs' is 0; accepted is 1 to 100000"),
        ("[schedule]\npeak = nan\n", "'schedule.peak' is nan; accepted is"),
        (
            "[data]\nsource = 'digit'\n",
            "accepted are digits, breast_cancer, npz, csv, parquet, images; did you mean 'digits'?",
        ),
        ("[data]\nsource = 'csv'\npath = 'a.csv'\n", "'data.target' is missing; a csv source needs it"),
        ("[data]\nsource = 'npz'\n", "'data.path' is missing; a npz source needs it"),
        (
            "[data]\nsource = 'npz'\npath = 'a.npz'\ngroup = 'site'\n",
            "'data.group' means nothing to the source npz; it belongs to csv, parquet: change data.source",
        ),
        ("[data]\nsource = 'csv'\npath = 'a'\ntarget = 'y'\ncorrupt = 'skip'\n", "it belongs to images"),
        ("[data]\npath = 'a.csv'\n", "'data.path' means nothing to the source digits"),
        ("[reference]\nbins = 17\n", "'reference.bins' is 17; accepted is 2 to 16"),
        ("[split]\ntrain = 0.5\n", "split.train + split.validation + split.test is 0.9; accepted is 1"),
        (
            "[model]\nkind = 'transformer'\n",
            "'model.kind' is 'transformer'; accepted are mlp, cnn, resnet or module:function",
        ),
        ("[schedule]\nfloor = 1.0\n", "'schedule.floor' is 1, above 'schedule.peak' 0.003"),
        (
            "task = 'regression'\n[data]\nlabel_noise = 0.1\n",
            "'data.label_noise' means nothing to a regression; leave it out",
        ),
        ("task = 'regression'\n[evaluate]\nthreshold = 'f1'\n", "'evaluate.threshold' means nothing to a regression"),
        ("[quality]\ntolerance = 2.0\n", "'quality.tolerance' means nothing to a classification"),
        ("loop = 3\n", "'loop' must be a table, got 3; write [loop]"),
        ("[loop\n", "not valid TOML"),
    ],
)
def test_a_wrong_file_names_the_key_and_what_was_wanted(tmp_path, text, message):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert message in str(caught.value)
    assert str(tmp_path / "run.toml") in str(caught.value)


@pytest.mark.parametrize("name", ["", "Digits", "a b", "x" * 64, "-a", "a/b", "a:b"])
def test_a_name_that_cannot_become_a_tag_is_refused(tmp_path, name):
    with pytest.raises(ConfigError, match="'name' is .*accepted are 1 to 63 of a-z"):
        load(tmp_path, "", name=f'name = "{name}"\n')


def test_a_file_without_a_name_or_no_file_at_all_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="'name' is missing"):
        load(tmp_path, "", name="")
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        config.load(tmp_path / "absent.toml")


def test_every_example_loads_and_survives_as_plain_values():
    paths = sorted((Path(__file__).parents[2] / "examples").glob("*.toml"))
    assert {path.stem for path in paths} >= {"digits", "digits_worse", "breast_cancer"}
    for path in paths:
        loaded = config.load(path, {"data.path": "rows"} if "--data" in path.read_text() else None)
        sections = {key: value for key, value in loaded.as_dict().items() if isinstance(value, dict)}
        rebuilt = {key: type(getattr(loaded, key))(**value) for key, value in sections.items()}
        assert config.Config(loaded.name, loaded.purpose, **rebuilt) == loaded


def test_the_worse_digits_compete_for_the_same_name_on_the_same_split():
    examples = Path(__file__).parents[2] / "examples"
    good, worse = (config.load(examples / f"{stem}.toml") for stem in ("digits", "digits_worse"))
    assert (good.name, good.split, good.data.first_rows) == (worse.name, worse.split, worse.data.first_rows)
    assert worse.data.label_noise > good.data.label_noise == 0


def test_words_of_the_command_line_replace_values_of_the_file(tmp_path, monkeypatch):
    path = tmp_path / "run.toml"
    path.write_text('name = "a"\n[data]\nsource = "csv"\ntarget = "y"\n[loop]\nepochs = 3\n')
    monkeypatch.chdir(tmp_path)
    words = ["loop.epochs=5", "model.kind=cnn", 'data.slices=["town"]', "augment.noise=0.5"]
    found = config.overrides("rows.csv", words)
    assert found["data.path"] == str(tmp_path / "rows.csv")
    loaded = config.load(path, found)
    assert (loaded.loop.epochs, loaded.model.kind, loaded.augment.noise) == (5, "cnn", 0.5)
    assert loaded.data.slices == ("town",)
    assert config.overrides("", []) == {}


def test_a_word_that_sets_nothing_is_refused():
    with pytest.raises(ConfigError, match="--set loop.epochs: accepted is KEY=VALUE, for example loop.epochs=40"):
        config.overrides("", ["loop.epochs"])


@pytest.mark.parametrize(("word", "message"), [
    ("name.x=1", "'name.x': 'name' is 'a', no table; accepted is 'name' alone"),
    ("loop.epochs.most=1", "'epochs.most': 'epochs' is 3, no table"),
    ("loop.epoch=1", "unknown key 'loop.epoch'; did you mean 'loop.epochs'?"),
])  # fmt: skip
def test_a_word_for_a_key_that_cannot_be_is_refused(tmp_path, word, message):
    path = tmp_path / "run.toml"
    path.write_text('name = "a"\n[loop]\nepochs = 3\n')
    with pytest.raises(ConfigError) as caught:
        config.load(path, config.overrides("", [word]))
    assert message in str(caught.value)
