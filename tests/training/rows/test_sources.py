import numpy as np
import pytest

from registry.errors import DataError
from training.config import Data
from training.rows import data, sources

IMAGES = np.arange(6 * 4, dtype=np.uint8).reshape(6, 2, 2)


def read(tmp_path, **arrays):
    np.savez(tmp_path / "rows.npz", **arrays)
    return sources.read(Data("npz", "rows.npz"), tmp_path, "classification")


def test_an_npz_gives_x_y_names_and_classes_as_they_are(tmp_path):
    raw = read(
        tmp_path, x=np.eye(3), y=np.arange(3), names=np.array(["a", "b", "c"]), classes=np.array(["p", "q", "r"])
    )
    assert np.array_equal(raw.x, np.eye(3))
    assert (raw.names, raw.classes, raw.given_test) == (("a", "b", "c"), ("p", "q", "r"), None)


def test_train_and_test_arrays_follow_one_another_and_the_test_rows_are_marked(tmp_path):
    y = np.array([0, 1, 0, 1])
    raw = read(tmp_path, x_train=IMAGES[:4], y_train=y, x_test=IMAGES[4:], y_test=y[:2])
    assert np.array_equal(raw.x, IMAGES)
    assert raw.labels.tolist() == [0, 1, 0, 1, 0, 1]
    assert raw.given_test.tolist() == [False] * 4 + [True] * 2
    table = data.load(Data("npz", "rows.npz"), tmp_path)
    assert table.given_test.tolist() == raw.given_test.tolist()
    assert data.load(Data("npz", "rows.npz", first_rows=5), tmp_path).given_test.tolist() == [False] * 4 + [True]


def test_a_regression_takes_the_numbers_of_an_npz_and_refuses_text(tmp_path):
    np.savez(tmp_path / "rows.npz", x=np.eye(3), y=np.array([0.5, 1.5, 2.5], np.float32))
    table = data.load(Data("npz", "rows.npz"), tmp_path, "regression")
    assert (table.y.dtype, table.y.tolist()) == (np.float64, [0.5, 1.5, 2.5])
    np.savez(tmp_path / "rows.npz", x=np.eye(3), y=np.array(["a", "b", "c"]))
    with pytest.raises(DataError, match='task = "regression" needs a number per row'):
        data.load(Data("npz", "rows.npz"), tmp_path, "regression")


@pytest.mark.parametrize("y", [[np.nan, 1, 2], [1.0, 1.0, 1.0]])
def test_a_target_that_is_not_finite_or_never_changes_is_refused(tmp_path, y):
    np.savez(tmp_path / "rows.npz", x=np.eye(3), y=np.array(y))
    with pytest.raises(DataError, match="y is not finite|y is 1 in all 3 rows"):
        data.load(Data("npz", "rows.npz"), tmp_path, "regression")


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": IMAGES}, "no array x and y; found a; accepted are x and y, or x_train, y_train, x_test and y_test"),
        ({"x_train": IMAGES, "y_train": np.arange(6)}, "no array x and y; found x_train, y_train; accepted"),
        (
            {"x_train": IMAGES, "y_train": np.arange(6), "x_test": np.eye(3), "y_test": np.arange(3)},
            "x_train and x_test, or y_train and y_test, do not fit",
        ),
        ({"x": np.array([{}]), "y": np.arange(1)}, "not an NPZ file of plain arrays"),
    ],
)
def test_an_npz_of_another_kind_says_what_was_found(tmp_path, arrays, message):
    with pytest.raises(DataError) as caught:
        read(tmp_path, **arrays)
    assert message in str(caught.value)


def test_a_path_starts_at_the_folder_of_the_toml_file_unless_it_is_absolute(tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    np.savez(tmp_path / "rows.npz", x=np.eye(2), y=np.arange(2))
    monkeypatch.chdir(tmp_path / "elsewhere")
    for path in ("rows.npz", str(tmp_path / "rows.npz")):
        assert len(sources.read(Data("npz", path), tmp_path, "classification").x) == 2
    with pytest.raises(DataError, match=r"rows.npz: no such file; a path in the TOML file starts at its folder"):
        sources.read(Data("npz", "rows.npz"), tmp_path / "elsewhere", "classification")


@pytest.mark.parametrize("source", ["csv", "npz", "parquet"])
def test_a_folder_in_place_of_a_file_is_refused(tmp_path, source):
    (tmp_path / "rows").mkdir()
    with pytest.raises(DataError, match="rows: no such file"):
        sources.read(Data(source, "rows", target="y"), tmp_path, "classification")
