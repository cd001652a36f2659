import hashlib

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer, load_digits

from registry.errors import DataError
from training.config import Data
from training.rows import data


def npz(tmp_path, **arrays):
    np.savez(tmp_path / "rows.npz", **arrays)
    return data.load(Data("npz", "rows.npz"), tmp_path)


def csv(tmp_path, text, **settings):
    (tmp_path / "rows.csv").write_text(text)
    return data.load(Data("csv", "rows.csv", **{"target": "y"} | settings), tmp_path)


def test_digits_are_the_rows_of_scikit_learn_in_file_order(tmp_path):
    table = data.load(Data("digits", first_rows=900), tmp_path)
    whole = load_digits()
    assert table.x.dtype == np.uint8
    assert np.array_equal(table.x, whole.images[:900])
    assert np.array_equal(table.y, whole.target[:900])
    assert table.classes == tuple("0123456789")
    assert table.names == ()


def test_breast_cancer_has_float_columns_with_names(tmp_path):
    table = data.load(Data("breast_cancer"), tmp_path)
    assert table.x.dtype == np.float32
    assert np.array_equal(table.x, load_breast_cancer().data.astype(np.float32))
    assert len(table.names) == 30
    assert table.names[0] == "mean_radius"
    assert table.classes == ("malignant", "benign")


def test_an_npz_keeps_bytes_and_makes_other_numbers_float32(tmp_path):
    images = np.arange(4 * 6, dtype=np.uint8).reshape(4, 2, 3)
    table = npz(tmp_path, x=images, y=np.array([0, 1, 0, 1]), classes=np.array(["a", "b", "c"]))
    assert table.x.dtype == np.uint8
    assert table.classes == ("a", "b", "c")
    table = npz(tmp_path, x=np.arange(8).reshape(4, 2), y=np.array(["no", "yes", "no", "no"]))
    assert table.x.dtype == np.float32
    assert table.names == ("x0", "x1")
    assert (table.classes, table.y.tolist()) == (("no", "yes"), [0, 1, 0, 0])


def test_a_csv_gives_its_columns_without_target_id_and_group(tmp_path):
    text = "id,a,site,y,b\n7,1,n,cat,2.5\n8,-3,s,dog,0\n9,1,n,dog,2.5\n"
    table = csv(tmp_path, text, id="id", group="site")
    assert table.names == ("a", "b")
    assert table.x.tolist() == [[1, 2.5], [-3, 0], [1, 2.5]]
    assert (table.classes, table.y.tolist()) == (("cat", "dog"), [0, 1, 1])
    assert table.unit[0] == table.unit[2] != table.unit[1]
    assert table.key[0] == table.key[2] != table.key[1]


def test_the_key_of_a_row_is_the_hash_of_its_bytes_alone():
    x = np.array([[1.0, -0.0], [1.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    keys = data.row_keys(x)
    content = b"<f4(2,)" + np.array([1.0, 0.0], dtype="<f4").tobytes()
    assert keys[0] == keys[1] == int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little")
    assert keys[2] != keys[0]
    assert np.array_equal(data.row_keys(x[::-1]), keys[::-1])


def test_the_digest_changes_with_any_value_label_or_name(tmp_path):
    x, y = np.arange(12, dtype=np.float32).reshape(4, 3), np.array([0, 1, 0, 1])
    other_x, other_y = x.copy(), y.copy()
    other_x[3, 2] += 1
    other_y[0] = 1
    variants = [
        {"x": x, "y": y}, {"x": other_x, "y": y}, {"x": x, "y": other_y},
        {"x": x, "y": y, "names": ["p", "q", "r"]}, {"x": x, "y": y, "classes": ["m", "n"]},
    ]  # fmt: skip
    assert npz(tmp_path, x=x, y=y).digest == npz(tmp_path, x=x.copy(), y=y.copy()).digest
    assert len({npz(tmp_path, **variant).digest for variant in variants}) == len(variants)


def test_moments_are_per_column_for_tables_and_one_number_for_images():
    table = np.array([[1.0, 5.0], [3.0, 5.0]], dtype=np.float32)
    found = data.moments(table)
    assert found.mean.tolist() == [2.0, 5.0]
    assert found.std.tolist() == [1.0, 1.0]  # a constant column is divided by 1
    images = np.random.default_rng(0).integers(0, 255, (9, 4, 4), dtype=np.uint8)
    found = data.moments(images)
    assert found.mean.shape == found.std.shape == ()
    assert float(found.mean) == pytest.approx(images.mean())


X, Y = np.zeros((4, 2)), np.array([0, 1, 0, 1])


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": X}, "no array y; found x; accepted are x and y"),
        ({"x": X, "y": Y[:3]}, "y has shape (3,), x has 4 rows"),
        ({"x": X[:, 0], "y": Y}, "x is float64 of shape (4,); accepted are"),
        ({"x": X[:0], "y": Y[:0]}, "x is float64 of shape (0, 2); accepted are"),
        ({"x": X, "y": Y * 0}, "one class only (0) in 4 rows; at least two are needed"),
        ({"x": X, "y": Y + 0.5}, "y is float64; accepted are whole numbers or text"),
        ({"x": X, "y": Y, "names": ["a"]}, "1 different names for rows of shape (2,)"),
        ({"x": X, "y": Y + 1, "classes": ["a", "b"]}, "y goes from 1 to 2; with 2 named classes"),
        (
            {"x": np.where(np.eye(4, 2) > 0, np.nan, 0), "y": Y},
            "row 0 (of 0 to 3), column 'x0' is not a finite",
        ),
        ({"x": X + 1e39, "y": Y}, "is not a finite float32 (8 such values in all)"),
        ({"x": X.astype(object), "y": Y}, "not an NPZ file of plain arrays"),
    ],
)
def test_a_wrong_npz_says_what_was_found_and_what_is_accepted(tmp_path, arrays, message):
    if "names" in arrays or "classes" in arrays:
        arrays = {key: np.array(value) for key, value in arrays.items()}
    with pytest.raises(DataError) as caught:
        npz(tmp_path, **arrays)
    assert message in str(caught.value)
    assert "rows.npz" in str(caught.value)


def test_images_with_their_channels_first_are_refused_and_small_ones_with_many_channels_are_not(tmp_path):
    x, y = np.zeros((4, 3, 8, 9), dtype=np.uint8), np.array([0, 1, 0, 1])
    with pytest.raises(DataError, match="seems to have its channels first; accepted is .* np.moveaxis"):
        npz(tmp_path, x=x, y=y)
    assert npz(tmp_path, x=np.moveaxis(x, 1, 3), y=y).spec.shape == (8, 9, 3)
    assert npz(tmp_path, x=np.zeros((4, 3, 3, 7), dtype=np.uint8), y=y).spec.shape == (3, 3, 7)


@pytest.mark.parametrize("source", ["npz", "csv"])
def test_an_absent_file_or_one_of_another_kind_is_refused(tmp_path, source):
    with pytest.raises(DataError, match="no such file"):
        data.load(Data(source, "absent", target="y"), tmp_path)
    (tmp_path / "junk").write_bytes(b"\xff\x00\xfejunk")
    with pytest.raises(DataError, match="not a"):
        data.load(Data(source, "junk", target="y"), tmp_path)


def test_the_digest_covers_groups_times_slices_fills_and_the_given_test(tmp_path):
    plain = "a,g,t,s,y\n1,u,1,k,p\n2,v,2,m,q\n,v,3,m,q\n"
    roles = {"group": "g", "time": "t", "slices": ("s",), "drop": ("s",), "missing": "fill"}
    first = csv(tmp_path, plain, **roles).digest
    assert first == csv(tmp_path, plain.replace(",", ";"), **roles).digest
    variants = [("2,v,2", "2,u,2"), ("v,3,m", "v,4,m"), ("3,m", "3,k"), (",v,3", "1.5,v,3")]
    assert len({first, *(csv(tmp_path, plain.replace(*change), **roles).digest for change in variants)}) == 5
    x, y = np.arange(12).reshape(4, 3), np.array([0, 1, 0, 1])
    parts = {"x_train": x[:2], "y_train": y[:2], "x_test": x[2:], "y_test": y[2:]}
    assert npz(tmp_path, **parts).digest != npz(tmp_path, x=x, y=y).digest


def test_keys_digest_and_checks_of_many_rows_are_those_of_the_whole(tmp_path, monkeypatch):
    x = np.random.default_rng(0).normal(size=(5000, 3)).astype(np.float32)
    y = np.arange(5000) % 2
    in_parts = npz(tmp_path, x=x, y=y)
    monkeypatch.setattr(data, "_CHUNK_ROWS", 10_000)
    whole = npz(tmp_path, x=x, y=y)
    assert np.array_equal(in_parts.key, whole.key)
    assert in_parts.digest == whole.digest
    monkeypatch.undo()
    x[4500, 2] = np.inf
    with pytest.raises(DataError, match=r"row 4500 \(of 0 to 4999\), column 'x2' is not a finite float32 \(1 such"):
        npz(tmp_path, x=x, y=y)
