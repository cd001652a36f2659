import dataclasses
import json

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from tiny_release import DIGITS, HOMES, IMAGE, TABLE, make_draft

from registry.errors import RequestError
from registry.release import InputSpec, Manifest, Release
from serving import wire
from serving.wire import json_rows
from serving.wire.request import Request
from serving.wire.rows import Layout

FINITE = st.floats(width=32, allow_nan=False, allow_infinity=False)
ROW = np.arange(64).reshape(8, 8).tolist()


def body(rows, **more):
    return json.dumps({"rows": rows} | more).encode()


def decode(sent, spec):
    return json_rows.decode_body(sent, Layout(spec))


def encode(release, ids, outputs):
    return json_rows.encode(release, Request(outputs, ids), "R", {release.manifest.output: outputs}).body


def changed(value, row=1, place=(2, 3)):
    rows = [np.array(ROW).tolist() for _ in range(3)]
    rows[row][place[0]][place[1]] = value
    return rows


@pytest.mark.parametrize(
    ("sent", "message", "reason"),
    [
        (b"{", "body: not valid JSON", "malformed"),
        (b"\xff", "body: not valid JSON", "malformed"),
        (b"[" * 100_000, "body: not valid JSON", "malformed"),
        (b"3", "body: must be an object with rows, ids, found the number 3", "malformed"),
        (b"{}", "rows: must be a list of at least one row, found null", "missing"),
        (body([]), "rows: must be a list of at least one row, found an empty list", "missing"),
        (body([ROW], row=1), "body: unknown field 'row'; known: rows, ids", "malformed"),
        (body([ROW, ROW[:7]]), "rows[1]: must hold 8 values, found 7", "shape"),
        (body([[*ROW[:7], ROW[7][:5]]]), "rows[0][7]: must hold 8 values, found 5", "shape"),
        (body([3]), "rows[0]: must be a list of 8, found the number 3", "shape"),
        (body([[ROW]]), "rows[0]: must hold 8 values, found 1", "shape"),
        (body(changed("a")), "rows[1][2][3]: must be a number, found a string", "dtype"),
        (body(changed(True)), "rows[1][2][3]: must be a number, found a boolean", "dtype"),
        (body(changed(None)), "rows[1][2][3]: must be a number, found null", "dtype"),
        (body(changed({})), "rows[1][2][3]: must be a number, found an object", "dtype"),
        (body(changed(float("nan"))), "rows[1][2][3]: must be a whole number from 0 to 255, found nan", "non_finite"),
        (body(changed(float("inf"))), "rows[1][2][3]: must be a whole number from 0 to 255, found inf", "non_finite"),
        (body(changed(-1)), "rows[1][2][3]: must be a whole number from 0 to 255, found -1", "range"),
        (body(changed(256)), "rows[1][2][3]: must be a whole number from 0 to 255, found 256", "range"),
        (body(changed(1.5)), "rows[1][2][3]: must be a whole number from 0 to 255, found 1.5", "range"),
        (body(changed(10**30)), "rows[1][2][3]", "range"),
        (body([{"age": 1}]), "rows[0]: must be a list of shape (8, 8): this model has no column names", "shape"),
        (body([ROW], ids=["a", "b"]), "ids: must be a list of 1 strings, one per row, found 2 of them", "malformed"),
        (body([ROW], ids="a"), "ids: must be a list of 1 strings, one per row, found a string", "malformed"),
        (body([ROW], ids=[]), "ids: must be a list of 1 strings, one per row, found an empty list", "malformed"),
        (body([ROW, ROW], ids=["a", "a"]), "ids: must differ from each other", "malformed"),
        (body([ROW], ids=[7]), "ids[0]: must be a string of 1 to 128 characters, found the number 7", "malformed"),
        (body([ROW], ids=["x" * 129]), "ids[0]: must be a string of 1 to 128 characters", "malformed"),
    ],
)
def test_what_is_wrong_is_named_by_field_and_row(sent, message, reason):
    with pytest.raises(RequestError) as caught:
        decode(sent, IMAGE)
    assert message in str(caught.value)
    assert caught.value.reason == reason
    assert caught.value.status in (400, 422)


@pytest.mark.parametrize(
    ("row", "message", "reason"),
    [
        ({"age": 1, "height": 2}, "rows[0]: column 'weight' is missing", "missing"),
        ({"age": 1}, "rows[0]: columns height, weight are missing", "missing"),
        ({"age": 1, "height": 2, "wieght": 3}, "unknown column 'wieght'; this model has age, height", "unknown_column"),
        ({"age": 1, "height": 2, "weight": "3"}, "rows[0]['weight']: must be a number, found a string", "dtype"),
        ([1, 2], "rows[0]: must hold 3 values, found 2", "shape"),
        ([1, 2, 1e300], "rows[0]['weight']: must be a finite float32, found inf", "non_finite"),
        ([1, float("nan"), 3], "rows[0]['height']: must be a finite float32, found nan", "non_finite"),
    ],
)
def test_what_is_wrong_in_a_table_is_named_by_column(row, message, reason):
    with pytest.raises(RequestError) as caught:
        decode(body([row]), TABLE)
    assert message in str(caught.value) and caught.value.reason == reason


def test_an_object_and_a_list_are_the_same_row_whatever_the_order_of_the_names():
    by_name = decode(body([{"weight": 3, "age": 1, "height": 2.5}]), TABLE).rows
    assert by_name.dtype == np.float32
    assert np.array_equal(by_name, decode(body([[1, 2.5, 3]]), TABLE).rows)


def test_an_object_among_lists_is_refused_by_row():
    with pytest.raises(RequestError, match=r"rows\[1\]: must be an object like row 0, found a list"):
        decode(body([{"age": 1, "height": 2, "weight": 3}, [1, 2, 3]]), TABLE)


def test_ids_are_kept_and_made_of_that_of_the_request_when_left_out():
    assert wire.ids_of(decode(body([ROW, ROW], ids=["a", "b"]), IMAGE), "R") == ["a", "b"]
    assert wire.ids_of(decode(body([ROW, ROW]), IMAGE), "R") == ["R-0", "R-1"]


@pytest.mark.parametrize(
    "sent",
    [
        b'{"rows":[[1,2,3]],"rows":[[4,5,6]]}',
        b'{"rows":[[1,2,3]],"r\\u006fws":[[4,5,6]]}',
        b'{"rows":[{"age":1,"height":2,"weight":3,"age":4}]}',
        b'{"rows":[{"age":1,"height":2,"weight":3},{"age":1,"height":2,"weight":3, "weight" : 4}]}',
        b'{"rows":[[1,2,3]],"ids":["a"],"ids":["b"]}',
    ],
)
def test_a_key_that_is_given_twice_is_refused(sent):
    with pytest.raises(RequestError, match="body: the field '.*' is given twice") as caught:
        decode(sent, TABLE)
    assert caught.value.status == 400 and caught.value.place["field"] in ("rows", "age", "weight", "ids")


def test_a_colon_in_an_id_is_not_taken_for_a_key():
    assert decode(body([[1, 2, 3]], ids=['2026-11-24T11:00:00Z ":']), TABLE).rows.tolist() == [[1, 2, 3]]


def test_half_a_character_is_refused_where_a_nan_would_be_named():
    with pytest.raises(RequestError, match="body: not valid JSON") as caught:
        decode(b'{"rows":[[1,2,3]],"ids":["\\ud800"]}', TABLE)
    assert caught.value.status == 400


@pytest.mark.parametrize("depth", [500, 1000, 1020, 1030, 100_000])
def test_json_of_any_depth_is_refused(depth):
    for sent in (b'{"rows":' * depth + b"1" + b"}" * depth, b'{"rows":' + b"[" * depth + b"]" * depth + b"}"):
        with pytest.raises(RequestError):
            decode(sent, IMAGE)


@pytest.mark.parametrize("word", ["true", "false"])
@pytest.mark.parametrize("letters", [0, 1, 15, 16, 60])
def test_true_and_false_are_no_numbers_however_many_such_letters_come_before(word, letters):
    sent = '{"ids":["x' + "tf" * letters + '"],"rows":[[1,' + word + ",3]]}"
    with pytest.raises(RequestError, match=r"rows\[0\]\['height'\]: must be a number, found a boolean"):
        decode(sent.encode(), TABLE)


def test_a_whole_number_may_be_written_as_a_float():
    assert decode(body([np.array(ROW, float).tolist()]), IMAGE).rows.tolist() == [ROW]


@given(
    st.lists(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**70), 2**70), min_size=3, max_size=3)
)
def test_numbers_are_rounded_as_numpy_rounds_them(row):
    with np.errstate(over="ignore"):
        expected = np.array([row], float).astype(np.float32)
    if np.isfinite(expected).all():
        assert decode(body([row]), TABLE).rows.tobytes() == expected.tobytes()
        return
    with pytest.raises(RequestError, match="must be a finite float32, found -?inf"):
        decode(body([row]), TABLE)


def test_a_word_true_in_an_id_does_not_spoil_good_rows():
    assert decode(body([ROW], ids=["true"]), IMAGE).rows.tolist() == [ROW]


@given(
    st.lists(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=3, max_size=3), min_size=1)
)
def test_valid_rows_arrive_bit_for_bit(rows):
    got = decode(body(rows), TABLE).rows
    assert got.tobytes() == np.array(rows, dtype=np.float32).tobytes()


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"area": 50, "city": "Oslo", "heating": "wood"}, [50, 1, 1]),
        ({"heating": "gas", "city": "Rome", "area": 50.5}, [50.5, 2, 0]),
        ([50, "Oslo", "wood"], [50, 1, 1]),
        ({"area": None, "city": "Bern", "heating": None}, [80, 0, 1]),
        ({"city": "Bern"}, [80, 0, 1]),
        ([None, "Bern", None], [80, 0, 1]),
    ],
)
def test_text_becomes_the_index_of_its_value_and_an_empty_cell_its_fill(row, expected):
    got = decode(body([row, row]), HOMES).rows
    assert got.dtype == np.float32 and got.tolist() == [expected, expected]


@pytest.mark.parametrize(
    ("row", "message", "reason"),
    [
        ([1, "Paris", "gas"], "rows[0]['city']: must be one of Bern, Oslo, Rome, found 'Paris'", "unknown_category"),
        ([1, "oslo", "gas"], "rows[0]['city']: must be one of Bern, Oslo, Rome, found 'oslo'", "unknown_category"),
        ([1, "", "gas"], "rows[0]['city']: must be one of Bern, Oslo, Rome, found ''", "unknown_category"),
        ([1, 1, "gas"], "rows[0]['city']: must be one of Bern, Oslo, Rome, found the number 1", "unknown_category"),
        ([1, True, "gas"], "rows[0]['city']: must be one of Bern, Oslo, Rome, found a boolean", "unknown_category"),
        ([1, ["Oslo"], "gas"], "rows[0]['city']: must be one of Bern, Oslo, Rome, found a list", "unknown_category"),
        ([1, None, "gas"], "rows[0]['city']: must be one of Bern, Oslo, Rome, found null", "unknown_category"),
        ({"area": 1, "heating": "gas"}, "rows[0]: column 'city' is missing", "missing"),
        (["Oslo", "Oslo", "gas"], "rows[0]['area']: must be a number, found a string", "dtype"),
        ([1, "Oslo"], "rows[0]: must hold 3 values, found 2", "shape"),
        ([float("nan"), "Oslo", "gas"], "rows[0]['area']: must be a finite float32, found nan", "non_finite"),
        ("Oslo", "rows[0]: must be a list of 3, found a string", "shape"),
    ],
)
def test_a_value_that_a_column_does_not_have_is_named_with_those_it_has(row, message, reason):
    with pytest.raises(RequestError) as caught:
        decode(body([row]), HOMES)
    assert message in str(caught.value) and caught.value.reason == reason


def test_a_code_may_be_sent_as_a_whole_number_which_is_never_taken_for_an_index():
    spec = InputSpec("float32", (1,), ("zip",), {"zip": ("1", "10", "20")})
    assert decode(body([[10], ["10"], [1]]), spec).rows.tolist() == [[1], [1], [0]]
    for wrong in (0, 2, 1.0, True, 10**40):
        with pytest.raises(RequestError, match=r"rows\[0\]\['zip'\]: must be one of 1, 10, 20, found"):
            decode(body([[wrong]]), spec)


def test_a_column_of_true_and_false_takes_them_as_json_has_them():
    spec = InputSpec("float32", (1,), ("garage",), {"garage": ("false", "true")})
    assert decode(body([[True], ["true"], [False]]), spec).rows.tolist() == [[1], [1], [0]]
    of_pandas = InputSpec("float32", (1,), ("garage",), {"garage": ("False", "True")})
    assert decode(body([[True], ["True"], [False]]), of_pandas).rows.tolist() == [[1], [1], [0]]


def test_null_in_a_column_without_a_fill_is_refused():
    with pytest.raises(RequestError, match=r"rows\[0\]\['\w+'\]: must be a number, found null"):
        decode(body([[1, None, 3]]), TABLE)


@given(st.lists(st.tuples(st.floats(0, 1e6, width=32) | st.none(), st.sampled_from(HOMES.categories["city"]))))
def test_mixed_rows_by_name_and_by_place_are_those_of_plain_python(cells):
    by_name = [{"area": area, "city": city} for area, city in [*cells, (1.0, "Bern")]]
    by_place = [[one["area"], one["city"], None] for one in by_name]
    expected = [[80.0 if a is None else a, HOMES.categories["city"].index(c), 1.0] for a, c, _ in by_place]
    for rows in (by_name, by_place):
        assert decode(body(rows), HOMES).rows.tolist() == expected


def release_of(**changed):
    draft = make_draft("homes", **changed)
    return Release("homes:20261124-110000-00000000", None, Manifest(**vars(draft)), "0" * 64)


def test_a_threshold_decides_the_class_and_its_probability_is_told():
    outputs = np.array([[0.75, 0.25], [0.9, 0.1]], dtype=np.float32)
    made = release_of(spec=TABLE, classes=("no", "yes"), threshold=0.2)
    said = json.loads(encode(made, ["a", "b"], outputs))["predictions"]
    assert [(one["class"], one["probability"]) for one in said] == [("yes", 0.25), ("no", 0.9)]


@given(
    arrays.arrays(np.float32, st.tuples(st.integers(1, 3), st.just(3)), elements=FINITE),
    st.lists(st.text(max_size=9), min_size=3, max_size=3, unique=True),
    st.text(max_size=9) | st.lists(st.text(max_size=9), min_size=3, max_size=3),
)
def test_an_answer_is_the_text_that_orjson_makes_of_its_objects(outputs, classes, ids):
    made, count = release_of(spec=TABLE, classes=tuple(classes)), len(outputs)
    ids, ident = (ids[:count], "R") if isinstance(ids, list) else ([f"{ids}-{i}" for i in range(count)], ids)
    rows = [
        {"id": one, "class": classes[k], "probability": row[k], "probabilities": row}
        for one, k, row in zip(ids, outputs.argmax(axis=1), outputs, strict=True)
    ]
    said = {"model": "homes", "version": made.version, "id": ident, "predictions": rows}
    request = Request(outputs, None if ids[0] == f"{ident}-0" else ids)
    reply = json_rows.encode(made, request, ident, {"probabilities": outputs})
    assert reply.body == orjson.dumps(said, option=orjson.OPT_SERIALIZE_NUMPY)


def test_a_regression_answers_one_number_per_row():
    outputs = np.array([[0.1], [1e6]], dtype=np.float32)
    said = json.loads(encode(release_of(spec=HOMES, classes=()), ["a", "b"], outputs))
    assert said["predictions"] == [{"id": "a", "prediction": 0.1}, {"id": "b", "prediction": 1e6}]


def test_the_description_says_what_each_cell_may_hold():
    fills = {"area": float(np.float32(84.7)), "heating": 1.0}
    said = json.loads(wire.describe(release_of(spec=dataclasses.replace(HOMES, fills=fills), classes=())))
    assert said["row"]["categories"] == {"city": ["Bern", "Oslo", "Rome"], "heating": ["gas", "wood"]}
    assert said["row"]["fills"] == {"area": 84.7, "heating": "wood"}
    assert (said["task"], said["classes"], said["threshold"], said["tolerance"]) == ("regression", [], None, 2.5)


def test_an_answer_that_is_not_finite_is_refused_by_row():
    wire.demand_finite(np.ones((3, 2)))
    with pytest.raises(RequestError, match=r"rows\[1\]: holds numbers so extreme") as caught:
        wire.demand_finite(np.array([[1.0], [np.inf], [np.nan]]))
    assert (caught.value.status, caught.value.reason, caught.value.place["row"]) == (422, "no_answer", 1)


NESTED = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["rows", "ids", "age", "x"]), inner),
    max_leaves=20,
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(NESTED | st.fixed_dictionaries({"rows": NESTED}), st.sampled_from([IMAGE, TABLE, HOMES]))
def test_any_json_is_answered_or_refused_but_never_crashes(said, spec):
    for read in (
        lambda b: decode(b, spec),
        lambda b: wire.decode_labels(b, DIGITS),
        lambda b: wire.decode_labels(b, ()),
    ):
        try:
            read(json.dumps(said).encode())
        except RequestError as error:
            assert 400 <= error.status < 500 and str(error)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_but_never_crash(sent):
    with pytest.raises(RequestError):
        decode(sent, IMAGE)


def test_labels_are_class_names_or_numbers_of_classes():
    sent = json.dumps({"labels": [{"id": "a", "label": "b"}, {"id": "c", "label": 0}]}).encode()
    assert wire.decode_labels(sent, ("a", "b")) == [("a", "b"), ("c", "a")]


def test_the_labels_of_a_regression_are_finite_numbers():
    sent = json.dumps({"labels": [{"id": "a", "label": 12}, {"id": "b", "label": -0.1}]}).encode()
    assert wire.decode_labels(sent, ()) == [("a", "12.0"), ("b", "-0.1")]


@pytest.mark.parametrize("label", ["12", True, None, [1], float("nan"), float("inf"), 10**400])
def test_a_label_of_a_regression_that_is_no_finite_number_is_refused(label):
    with pytest.raises(RequestError, match=r"labels\[0\]: label must be a finite number, found"):
        wire.decode_labels(json.dumps({"labels": [{"id": "a", "label": label}]}).encode(), ())


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ({"id": "a", "label": "z"}, "labels[0]: label 'z' is not a class; this model has a, b"),
        ({"id": "a", "label": 2}, "labels[0]: label 2 is not a class"),
        ({"id": "a", "label": True}, "labels[0]: label True is not a class"),
        ({"id": "", "label": "a"}, "labels[0]: id must be a string"),
        ({"id": "a"}, "labels[0]: must be an object with id and label, found an object without label"),
        ({"id": "a", "lable": "b"}, "id and label, found an object without label with 'lable'"),
        ({"id": "a", "label": "b", "x": 1}, "id and label, found an object with 'x'"),
        (3, "labels[0]: must be an object with id and label, found the number 3"),
    ],
)
def test_a_wrong_label_is_named_by_its_place(label, message):
    with pytest.raises(RequestError) as caught:
        wire.decode_labels(json.dumps({"labels": [label]}).encode(), ("a", "b"))
    assert message in str(caught.value)
