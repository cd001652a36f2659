"""What is said of a command line that cannot be read, and where options may stand."""

import pytest

import vigil


@pytest.mark.parametrize(
    "words",
    [
        ("serve", "--port", "65536"), ("watch", "--port", "0"), ("watch", "--window-s", "0"),
        ("watch", "--interval-s", "nan"), ("unpack", "x.bentomodel", "--most-gb", "nan"),
        ("unpack", "x.bentomodel", "--most-gb", "-1"), ("challenge", "--why", "x", "--share", "0%"),
        ("challenge", "--why", "x", "--share", "11"), ("challenge", "--why", "x", "--share", "half"),
    ],
)  # fmt: skip
def test_a_number_that_makes_no_sense_is_refused_with_its_option(words, capsys):
    with pytest.raises(SystemExit, match="2"):
        vigil.main(list(words))
    assert f"argument {words[-2]}: accepted " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("intit", "vigil: 'intit' is no verb; did you mean init; see vigil --help"),
        ("log shwo", "vigil log: 'shwo' is no action; did you mean show; see vigil log --help"),
        ("promote x", "vigil promote: the following arguments are required: --why; see vigil promote --help"),
        ("models sync --halt", "vigil models: unrecognized arguments: --halt; see vigil models --help"),
        ("log show --rows x", "vigil log show: argument --rows: "),
        ("gc extra", "vigil gc: unrecognized arguments: extra; see vigil gc --help"),
        ("", "vigil: the following arguments are required: VERB; see vigil --help"),
    ],
)
def test_what_cannot_be_read_is_one_line_of_its_verb_with_the_nearest_one(words, said, capsys):
    with pytest.raises(SystemExit, match="2"):
        vigil.main(words.split())
    err = capsys.readouterr().err
    assert err.startswith(said) and err.count("\n") == 1


def test_options_may_stand_before_the_words_of_a_verb():
    found = vigil.parser().parse_args(["models", "push", "--overwrite", "file:///x"])
    assert (found.name, found.url, found.overwrite) == ("push", "file:///x", True)
    found = vigil.parser().parse_args(["models", "sync", "--every", "2", "file:///x", "--model", "a"])
    assert (found.name, found.url, found.every, found.model) == ("sync", "file:///x", 2.0, "a")
