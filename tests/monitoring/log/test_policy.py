import numpy as np
import pytest
from tiny_release import HOMES, IMAGE, TABLE, rows_of

from monitoring.log import policy
from monitoring.log.pseudonym import Pseudonyms, from_environment
from monitoring.log.redaction import Redaction, decode
from monitoring.shift import reference
from registry.errors import ConfigError
from registry.release import InputSpec

KEY = "0123456789abcdef-secret"


@pytest.fixture
def write(tmp_path):
    path = tmp_path / "policy.toml"

    def read(text, key=KEY):
        path.write_text(text)
        return policy.read(path, Pseudonyms(key.encode()) if key else None)

    return read


def bins_of(spec):
    rows = rows_of(spec, 300)
    outputs = np.full((300, 1), 0.5, dtype=np.float32) + np.arange(300, dtype=np.float32)[:, None]
    return reference.build(reference.ReferenceSettings(), reference.HeldOut(spec, rows, outputs)).bins


def stored(redaction, rows):
    blobs, hashed = redaction.apply(rows)
    return decode(redaction.spec, blobs), hashed


def test_each_column_is_treated_as_it_was_declared(write):
    made = write('[models.homes.columns]\narea = [0, 1, 2]\ncity = "hash"\nheating = "keep"\n')
    rows = np.array([[0.25, 1, 0], [9.0, 2, 1]], dtype=np.float32)
    found, hashed = stored(made.redaction("homes", HOMES, bins_of(HOMES)), rows)
    np.testing.assert_array_equal(found, np.array([[0.5, np.nan, 0], [2.5, np.nan, 1]], dtype=np.float32))
    secret = Pseudonyms(KEY.encode())
    assert hashed == [f'{{"city": "{secret.value("city", value)}"}}' for value in ("Oslo", "Rome")]
    np.testing.assert_array_equal(rows, np.array([[0.25, 1, 0], [9.0, 2, 1]], dtype=np.float32))


def test_what_is_not_declared_is_dropped(write):
    found, hashed = stored(write("").redaction("homes", HOMES, ()), rows_of(HOMES, 5))
    assert np.isnan(found).all() and hashed == [None] * 5
    assert np.isnan(stored(write("").redaction("digits", IMAGE, ()), rows_of(IMAGE, 5))[0]).all()


def test_columns_of_text_that_are_not_declared_are_dropped_even_where_numbers_are_kept(write):
    rows = rows_of(HOMES, 5)
    made = write('undeclared = "keep"\n[models.homes.columns]\nheating = "keep"\n')
    found, _ = stored(made.redaction("homes", HOMES, ()), rows)
    np.testing.assert_array_equal(found[:, [0, 2]], rows[:, [0, 2]])
    assert np.isnan(found[:, 1]).all()
    np.testing.assert_array_equal(stored(made.redaction("digits", IMAGE, ()), rows_of(IMAGE, 5))[0], rows_of(IMAGE, 5))


def test_rows_of_images_and_of_tables_are_kept_or_dropped_as_a_whole(write):
    made = write('[models.digits]\nrows = "keep"\n[models.homes]\nrows = "drop"\n')
    assert made.redaction("digits", IMAGE, ()) == Redaction(IMAGE)
    blobs, _ = made.redaction("homes", HOMES, ()).apply(rows_of(HOMES, 3))
    assert blobs == [b""] * 3


def test_a_column_of_an_older_release_is_no_error_once_it_is_said(write):
    said = '[models.t]\nretired = ["fax"]\n[models.t.columns]\nfax = "drop"\nage = "keep"\n'
    rows = rows_of(TABLE, 4)
    found, _ = stored(write(said).redaction("t", TABLE, ()), rows)
    np.testing.assert_array_equal(found[:, 0], rows[:, 0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ids = ", "policy.toml: not valid TOML"),
        ("id = 'hash'", "policy.toml:1: id: is no key of a policy; did you mean 'ids'?"),
        ("ids = 'hide'", "policy.toml:1: ids: accepted is keep, hash; found 'hide'"),
        ("undeclared = true", "policy.toml:1: undeclared: accepted is keep, drop; found True"),
        ("models = 3", "policy.toml:1: models: must be a table, found 3"),
        ("[models.'A B']", "models.A B: is no model name"),
        ("\n[models.m]\ncolumn = 1", "policy.toml:3: models.m.column: is no key of a policy; did you mean 'columns'?"),
        ("[models.m]\nrows = 'hash'", "policy.toml:2: models.m.rows: accepted is keep, drop; found 'hash'"),
        ("[models.m]\nretired = 'a'", "policy.toml:2: models.m.retired: must be a list of columns, found 'a'"),
        (
            "[models.m.columns]\na = 'keep'\n\nb = 'kep'",
            "policy.toml:4: models.m.columns.b: accepted is keep, drop, hash, bucket or a list of edges; found 'kep'",
        ),
        ("[models.m.columns]\na = [1]", "policy.toml:2: models.m.columns.a: edges [1] must be two or more rising"),
        ("[models.m.columns]\na = [2, 1]", "edges [2, 1] must be two or more rising numbers"),
        ("[models.m.columns]\na = [1, true]", "edges [1, True] must be two or more rising numbers"),
        ("[models.m.columns]\na = [1.00000012, 1.00000024]", "lie too near to each other for float32"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_with_its_place(write, text, message):
    with pytest.raises(ConfigError) as caught:
        write(text)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "text", "message"),
    [
        (TABLE, "[models.m.columns]\nhight = 'keep'", ":2: models.m.columns.hight: is no column of the release; did "
         "you mean 'height'?"),
        (IMAGE, "[models.m.columns]\na = 'keep'", ":2: models.m.columns.a: m has no columns; say rows"),
        (TABLE, "[models.m]\nrows = 'keep'", ":2: models.m.rows: can only be drop"),
        (HOMES, "[models.m.columns]\ncity = [0, 1]", ":2: models.m.columns.city: holds text, which has no edges"),
        (TABLE, "[models.m.columns]\nage = 'bucket'", ":2: models.m.columns.age: has no drift signal"),
        (InputSpec("int32", (2,), ("a", "b")), "[models.m.columns]\na = 'keep'", "columns.b: a row holds int32"),
    ],
)  # fmt: skip
def test_a_policy_that_does_not_fit_the_release_is_refused_with_its_place(write, spec, text, message):
    with pytest.raises(ConfigError) as caught:
        write(text).redaction("m", spec, ())
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["ids = 'hash'", "[models.m.columns]\na = 'hash'"])
def test_a_policy_that_hashes_needs_a_key(write, text):
    with pytest.raises(ConfigError, match="hashes with a key, and there is none; set VIGIL_RECORD_KEY_FILE"):
        write(text, key="")


def test_the_key_comes_from_the_environment_or_a_file_and_is_never_shown(tmp_path):
    file = tmp_path / "key"
    file.write_text(KEY + "\n")
    by_file = from_environment({"VIGIL_RECORD_KEY_FILE": str(file)})
    by_text = from_environment({"VIGIL_RECORD_KEY": KEY})
    assert by_file.ident("a") == by_text.ident("a") != Pseudonyms(b"another key of 16").ident("a")
    assert KEY not in repr(by_text) + repr(vars(by_text).keys())
    assert from_environment({}) is None
    for said in (
        {"VIGIL_RECORD_KEY": KEY, "VIGIL_RECORD_KEY_FILE": "x"},
        {"VIGIL_RECORD_KEY": "short-key"},
        {"VIGIL_RECORD_KEY_FILE": str(tmp_path / "none")},
    ):
        with pytest.raises(ConfigError, match="VIGIL_RECORD_KEY") as caught:
            from_environment(said)
        assert KEY not in str(caught.value) and "short-key" not in str(caught.value)
