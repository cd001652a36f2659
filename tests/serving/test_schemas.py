"""What the schemas say a release takes, its codecs take: held against each other on bodies good and nearly good."""

from pathlib import Path

import jsonschema_rs
import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_release import DIGITS, HOMES, TABLE, make_draft

from registry.errors import RequestError
from registry.release import InputSpec, Manifest, Release
from serving import schemas
from serving.http import Call, Head
from serving.wire import Request, decode_labels, json_rows

CODES = InputSpec("float32", (2,), ("status", "used"), {"status": ("404", "ok"), "used": ("true", "no")}, {"used": 1.0})
SPECS = {"table": TABLE, "text": HOMES, "codes": CODES, "image": InputSpec("uint8", (2, 3))}
SPECS["pandas"] = InputSpec("float32", (1,), ("used",), {"used": ("False", "True")})
SPECS |= {"half": InputSpec("float16", (2,)), "double": InputSpec("float64", (2,))}
HEAD = Head("POST", "/v1/predict", b"", {b"content-type": b"application/json"})
JUNK = st.one_of(
    st.none(), st.booleans(), st.integers(-300, 300), st.sampled_from([0.5, 3.0, 1e39, -4e38, 2.0**70]),
    st.sampled_from(["", "404", "ok", "true", "gas", "Bern", "x" * 129]), st.just([]), st.just({}),
    st.lists(st.integers(0, 3), max_size=4), st.dictionaries(st.sampled_from(["age", "a"]), st.integers(0, 3)),
)  # fmt: skip


def release_of(spec, classes=DIGITS):
    draft = make_draft("tiny", spec, classes)
    return Release("tiny:20261124-110000-00000000", Path(), Manifest(**vars(draft), files={}), "")


@st.composite
def mutated(draw, bodies):
    """Draw a body in which up to two places hold something else, are gone, or have company."""
    root = {"body": orjson.loads(orjson.dumps(draw(bodies)))}
    for _ in range(draw(st.integers(0, 2))):
        parent, key = root, "body"
        while isinstance(parent[key], dict | list) and parent[key] and draw(st.integers(0, 4)):
            parent = parent[key]
            key = draw(st.sampled_from(list(parent if isinstance(parent, dict) else range(len(parent)))))
        deed = "replace" if parent is root else draw(st.sampled_from(["replace", "remove", "add"]))
        if deed == "remove":
            del parent[key]
        elif deed == "add" and isinstance(parent, list):
            parent.append(draw(JUNK))
        else:
            parent["more" if deed == "add" else key] = draw(JUNK)
    return root["body"]


def cell(spec, column):
    values = (
        st.sampled_from(spec.categories[column])
        if column in spec.categories
        else st.integers(0, 200) | st.floats(-9, 9)
    )
    return values | st.none() if column in spec.fills else values


def bodies(spec):
    if not spec.columns:
        row = st.integers(0, 255)
        for size in reversed(spec.shape):
            row = st.lists(row, min_size=size, max_size=size)
    else:
        cells = {column: cell(spec, column) for column in spec.columns}
        row = st.tuples(*cells.values())
    rows = st.lists(row, min_size=1, max_size=3)
    if spec.columns:
        optional = {column: one for column, one in cells.items() if column in spec.fills}
        named = st.fixed_dictionaries({k: v for k, v in cells.items() if k not in optional}, optional=optional)
        rows |= st.lists(named, min_size=1, max_size=3)
    return st.fixed_dictionaries({"rows": rows}, optional={"ids": st.none()})


def accepted(decode, body):
    try:
        decode(orjson.dumps(body))
    except RequestError:
        return False
    return True


@pytest.mark.parametrize("name", SPECS)
@given(st.data())
def test_the_rows_a_schema_takes_are_those_the_codec_takes(name, data):
    release = release_of(SPECS[name])
    body = data.draw(mutated(bodies(SPECS[name])))
    valid = jsonschema_rs.is_valid(schemas.rows(release), body)
    if valid and body.get("ids") is not None:  # what a schema cannot say: as many ids as rows
        valid = len(body["ids"]) == len(body["rows"])
    assert accepted(lambda raw: json_rows.decode(Call(HEAD, raw), release), body) is valid


@pytest.mark.parametrize("classes", [DIGITS, ("no", "yes"), ()])
@given(st.data())
def test_the_labels_a_schema_takes_are_those_the_codec_takes(classes, data):
    one = {
        "id": st.sampled_from(["a", "x" * 128]),
        "label": st.sampled_from([*classes, 0, 1]) if classes else st.floats(-9, 9),
    }
    body = data.draw(
        mutated(st.fixed_dictionaries({"labels": st.lists(st.fixed_dictionaries(one), min_size=1, max_size=3)}))
    )
    valid = jsonschema_rs.is_valid(schemas.labels(release_of(TABLE, classes)), body)
    if valid and classes:  # what a schema cannot say: 3.0 is not the number of a class, though it equals 3
        valid = not any(isinstance(one["label"], float) for one in body["labels"])
    assert accepted(lambda raw: decode_labels(raw, classes), body) is valid


@pytest.mark.parametrize(
    ("ids", "valid"),
    [
        (["a", "b"], True),
        (["a", "a"], False),
        (["a", ""], False),
        (["a", "b" * 129], False),
        (["a", 1], False),
        ("ab", False),
    ],
)
def test_the_ids_a_schema_takes_are_those_the_codec_takes(ids, valid):
    body = {"rows": [[1, 2, 3], [4, 5, 6]], "ids": ids}
    release = release_of(TABLE)
    assert jsonschema_rs.is_valid(schemas.rows(release), body) is valid
    assert accepted(lambda raw: json_rows.decode(Call(HEAD, raw), release), body) is valid


@pytest.mark.parametrize("spec", [TABLE, SPECS["image"]])
@pytest.mark.parametrize("classes", [DIGITS, ()])
def test_an_answer_fits_its_schema(spec, classes):
    release = release_of(spec, classes)
    request = Request(np.zeros((2, *spec.shape), spec.dtype))
    outputs = np.full((2, max(1, len(classes))), 0.1, np.float32)
    reply = json_rows.encode(release, request, "r", {release.manifest.output: outputs})
    jsonschema_rs.validate(schemas.answer(release), orjson.loads(reply.body))


@pytest.mark.parametrize(
    "row", [[404, True], {"status": 404}, ["404", "true"], ["ok", None], [405, True], ["no", "no"]]
)
def test_a_code_may_be_sent_as_the_number_it_reads_as(row):
    release, body = release_of(CODES), {"rows": [row]}
    valid = jsonschema_rs.is_valid(schemas.rows(release), body)
    assert valid is (row not in ([405, True], ["no", "no"]))
    assert accepted(lambda raw: json_rows.decode(Call(HEAD, raw), release), body) is valid


@pytest.mark.parametrize(
    "number", [3.4028235e38, 3.4028235677973362e38, 3.4028235677973366e38, -3.4028235677973366e38, 1e39]
)
def test_the_largest_number_a_schema_takes_is_the_last_that_is_not_rounded_to_infinity(number):
    release, body = release_of(TABLE), {"rows": [[number, 0, 0]]}
    with np.errstate(over="ignore"):
        fits = bool(np.isfinite(np.float32(number)))
    assert jsonschema_rs.is_valid(schemas.rows(release), body) is fits
    assert accepted(lambda raw: json_rows.decode(Call(HEAD, raw), release), body) is fits
