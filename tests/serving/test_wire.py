import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_release import DIGITS, IMAGE, TABLE

from registry.errors import RequestError
from serving import wire

ROW = np.arange(64).reshape(8, 8).tolist()


def body(rows, **more):
    return json.dumps({"rows": rows} | more).encode()


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
        (body([]), "rows: must be a list of at least one row, found a list", "missing"),
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
        (body([ROW], ids=["a", "b"]), "ids: must be a list of 1 strings, one per row", "malformed"),
        (body([ROW, ROW], ids=["a", "a"]), "ids: must differ from each other", "malformed"),
        (body([ROW], ids=[7]), "ids[0]: must be a string of 1 to 128 characters, found the number 7", "malformed"),
        (body([ROW], ids=["x" * 129]), "ids[0]: must be a string of 1 to 128 characters", "malformed"),
    ],
)
def test_what_is_wrong_is_named_by_field_and_row(sent, message, reason):
    with pytest.raises(RequestError) as caught:
        wire.decode_predict(sent, IMAGE)
    assert message in str(caught.value)
    assert caught.value.reason == reason
    assert caught.value.status in (400, 422)


@pytest.mark.parametrize(
    ("row", "message", "reason"),
    [
        ({"age": 1, "height": 2}, "rows[0]: column 'weight' is missing", "missing"),
        ({"age": 1, "height": 2, "wieght": 3}, "unknown column 'wieght'; this model has age, height", "unknown_column"),
        ({"age": 1, "height": 2, "weight": "3"}, "rows[0][2]: must be a number, found a string", "dtype"),
        ([1, 2], "rows[0]: must hold 3 values, found 2", "shape"),
        ([1, 2, 1e300], "rows[0]['weight']: must be a finite float32, found inf", "non_finite"),
        ([1, float("nan"), 3], "rows[0]['height']: must be a finite float32, found nan", "non_finite"),
    ],
)
def test_what_is_wrong_in_a_table_is_named_by_column(row, message, reason):
    with pytest.raises(RequestError) as caught:
        wire.decode_predict(body([row]), TABLE)
    assert message in str(caught.value) and caught.value.reason == reason


def test_an_object_and_a_list_are_the_same_row_whatever_the_order_of_the_names():
    by_name = wire.decode_predict(body([{"weight": 3, "age": 1, "height": 2.5}]), TABLE).rows
    assert by_name.dtype == np.float32
    assert np.array_equal(by_name, wire.decode_predict(body([[1, 2.5, 3]]), TABLE).rows)


def test_an_object_among_lists_is_refused_by_row():
    with pytest.raises(RequestError, match=r"rows\[1\]: must be an object like row 0, found a list"):
        wire.decode_predict(body([{"age": 1, "height": 2, "weight": 3}, [1, 2, 3]]), TABLE)


def test_ids_are_kept_and_made_when_left_out():
    assert wire.decode_predict(body([ROW, ROW], ids=["a", "b"]), IMAGE).ids == ["a", "b"]
    made = wire.decode_predict(body([ROW, ROW]), IMAGE).ids
    assert len(set(made)) == 2


def test_a_word_true_in_an_id_does_not_spoil_good_rows():
    assert wire.decode_predict(body([ROW], ids=["true"]), IMAGE).rows.tolist() == [ROW]


@given(
    st.lists(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=3, max_size=3), min_size=1)
)
def test_valid_rows_arrive_bit_for_bit(rows):
    got = wire.decode_predict(body(rows), TABLE).rows
    assert got.tobytes() == np.array(rows, dtype=np.float32).tobytes()


NESTED = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["rows", "ids", "age", "x"]), inner),
    max_leaves=20,
)


@settings(suppress_health_check=[HealthCheck.too_slow])
@given(NESTED | st.fixed_dictionaries({"rows": NESTED}), st.sampled_from([IMAGE, TABLE]))
def test_any_json_is_answered_or_refused_but_never_crashes(said, spec):
    for decode in (lambda b: wire.decode_predict(b, spec), lambda b: wire.decode_labels(b, DIGITS)):
        try:
            decode(json.dumps(said).encode())
        except RequestError as error:
            assert 400 <= error.status < 500 and str(error)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_but_never_crash(sent):
    with pytest.raises(RequestError):
        wire.decode_predict(sent, IMAGE)


def test_labels_are_class_names_or_numbers_of_classes():
    sent = json.dumps({"labels": [{"id": "a", "label": "b"}, {"id": "c", "label": 0}]}).encode()
    assert wire.decode_labels(sent, ("a", "b")) == [("a", "b"), ("c", "a")]


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ({"id": "a", "label": "z"}, "labels[0]: label 'z' is not a class; this model has a, b"),
        ({"id": "a", "label": 2}, "labels[0]: label 2 is not a class"),
        ({"id": "a", "label": True}, "labels[0]: label True is not a class"),
        ({"id": "", "label": "a"}, "labels[0]: id must be a string"),
        ({"id": "a"}, "labels[0]: must be an object with id and label"),
        (3, "labels[0]: must be an object with id and label, found the number 3"),
    ],
)
def test_a_wrong_label_is_named_by_its_place(label, message):
    with pytest.raises(RequestError) as caught:
        wire.decode_labels(json.dumps({"labels": [label]}).encode(), ("a", "b"))
    assert message in str(caught.value)
