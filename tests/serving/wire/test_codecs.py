"""What holds for every encoding alike."""

import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from wire_calls import RELEASES, WIDE, binary, call, calls_of, npy, release_of, spelled

from registry.errors import RequestError
from serving import wire

ENCODINGS = tuple(calls_of(np.zeros((1, 64), np.float32)))
NUMBERS = {
    "float32": st.floats(width=32, allow_nan=False, allow_infinity=False),
    "uint8": st.integers(0, 255),
}
PLAIN = {name: release for name, release in RELEASES.items() if not release.manifest.input.categories}


def decode(sent, release):
    return wire.codec_of(sent.head).decode(sent, release)


@st.composite
def rows(draw, release):
    spec = release.manifest.input
    shape = (draw(st.integers(1, 4)), *spec.shape)
    return draw(arrays.arrays(spec.dtype, shape, elements=NUMBERS[spec.dtype]))


@pytest.mark.parametrize("name", PLAIN)
@given(data=st.data())
def test_rows_arrive_bit_for_bit_in_every_encoding(name, data):
    sent = data.draw(rows(PLAIN[name]))
    for encoding, one in calls_of(sent).items():
        got = decode(one, PLAIN[name]).rows
        assert got.tobytes() == sent.tobytes() and got.shape == sent.shape, encoding
        assert got.dtype == sent.dtype and got.flags.c_contiguous and got.flags.aligned, encoding


def read(reply):
    """Return the main output of an answer in any encoding, as numpy reads it."""
    headers = dict(reply.headers)
    if reply.content_type == b"application/x-npy":
        return np.load(io.BytesIO(reply.body), allow_pickle=False)
    if b"vigil-shape" in headers:
        return np.frombuffer(reply.body, "<f4").reshape([int(n) for n in headers[b"vigil-shape"].split(b",")])
    if b"inference-header-content-length" in headers:
        length = int(headers[b"inference-header-content-length"])
        tensor = json.loads(reply.body[:length])["outputs"][0]
        size = tensor["parameters"]["binary_data_size"]
        return np.frombuffer(reply.body[length:][:size], "<f4").reshape(tensor["shape"])
    said = json.loads(reply.body)
    if "predictions" in said:
        return np.array([one.get("probabilities", [one.get("prediction")]) for one in said["predictions"]], np.float32)
    return np.array(said["outputs"][0]["data"], np.float32).reshape(said["outputs"][0]["shape"])


@pytest.mark.parametrize("encoding", [*ENCODINGS, "v2 binary both ways"])
@given(data=st.data())
def test_answers_leave_bit_for_bit_in_every_encoding(encoding, data):
    count = data.draw(st.integers(1, 4))
    sent = np.ones((count, 64), np.float32)
    one = calls_of(sent).get(encoding) or binary(sent, parameters={"binary_data_output": True})
    main = data.draw(arrays.arrays(np.float32, (count, 10), elements=NUMBERS["float32"]))
    codec, release = wire.codec_of(one.head), RELEASES["wide"]
    reply = codec.encode(release, codec.decode(one, release), "R", {"probabilities": main})
    assert reply.status == 200 and read(reply).tobytes() == main.tobytes()
    told = reply.body + b"".join(name + value for name, value in reply.headers)
    assert b"tiny" in told and release.version.encode() in told  # the lane adds the id


def test_an_answer_of_a_part_of_a_batch_is_that_part_in_every_encoding():
    batch = np.random.default_rng(0).random((5, 10)).astype(np.float32)
    for one in calls_of(np.ones((2, 64), np.float32)).values():
        codec, release = wire.codec_of(one.head), RELEASES["wide"]
        reply = codec.encode(release, codec.decode(one, release), "R", {"probabilities": batch[2:4]})
        assert np.array_equal(read(reply), batch[2:4])


@given(st.lists(st.integers(0, 5), max_size=4), st.sampled_from(sorted(PLAIN)))
def test_rows_of_another_shape_are_refused_in_every_encoding(shape, name):
    spec = PLAIN[name].manifest.input
    sent = np.zeros(shape, spec.dtype)
    if sent.shape[1:] == spec.shape and len(sent):
        return
    for encoding, one in calls_of(sent).items():
        if encoding == "octets" and sent.nbytes and sent.nbytes % np.zeros(spec.shape, spec.dtype).nbytes == 0:
            continue  # bytes have no shape
        with pytest.raises(RequestError) as caught:
            decode(one, PLAIN[name])
        assert caught.value.status in (400, 422), encoding


@pytest.mark.parametrize("encoding", [name for name in ENCODINGS if "json" not in name])
@pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
def test_a_number_that_is_not_finite_is_named_by_row_and_place(encoding, wrong):
    sent = np.ones((3, 3), np.float32)
    sent[1, 2] = wrong
    with pytest.raises(RequestError, match=rf"\[1\]\['weight'\]: must be a finite float32, found {wrong}") as caught:
        decode(calls_of(sent)[encoding], RELEASES["table"])
    assert (caught.value.status, caught.value.reason, caught.value.place["row"]) == (422, "non_finite", 1)


@pytest.mark.parametrize("encoding", ["v2 json", "v2 flat json"])
def test_a_wrong_number_in_the_json_of_v2_is_named_by_row_and_place(encoding):
    sent = np.ones((2, 8, 8), np.uint8)
    for wrong, found in (("1", "a string"), (True, "a boolean"), (None, "null"), (256, "256"), (1.5, "1.5")):
        data = sent.tolist()
        data[1][2][3] = wrong
        if encoding == "v2 flat json":
            data = [number for row in data for line in row for number in line]
        with pytest.raises(RequestError, match=rf"input\[1\]\[2\]\[3\]: must be .*, found {found}"):
            decode(spelled(sent, tensor={"data": data}), RELEASES["image"])


@pytest.mark.parametrize("encoding", [name for name in ENCODINGS if name != "json"])
def test_a_table_in_tensors_holds_the_index_of_text_and_nan_for_no_value(encoding):
    sent = np.array([[50, 2, 0], [np.nan, 1, np.nan]], np.float32)
    if "json" in encoding:
        data = [[None if np.isnan(number) else number for number in row] for row in sent.tolist()]
        data = sum(data, []) if "flat" in encoding else data
        one = spelled(np.zeros_like(sent), tensor={"data": data})
    else:
        one = calls_of(sent)[encoding]
    assert decode(one, RELEASES["homes"]).rows.tolist() == [[50, 2, 0], [80, 1, 1]]


@pytest.mark.parametrize("encoding", [name for name in ENCODINGS if name != "json"])
@pytest.mark.parametrize("code", [3, -1, 0.5])
def test_what_is_no_index_of_a_text_is_refused_by_row_and_column(encoding, code):
    sent = np.array([[50, 2, 0], [50, code, 0]], np.float32)
    with pytest.raises(
        RequestError, match=r"\[1\]\['city'\]: must be the index of one of its 3 values, found"
    ) as caught:
        decode(calls_of(sent)[encoding], RELEASES["homes"])
    assert caught.value.reason == "unknown_category"


def test_nan_in_a_column_of_text_without_a_fill_is_refused():
    sent = np.array([[50, np.nan, 0]], np.float32)
    with pytest.raises(RequestError, match=r"rows\[0\]\['city'\]: must be a finite float32, found nan"):
        decode(call(sent.tobytes(), b"application/octet-stream"), RELEASES["homes"])


@given(st.binary(max_size=300), st.sampled_from(ENCODINGS), st.sampled_from(sorted(RELEASES)))
def test_any_bytes_are_rows_or_refused_but_never_crash(body, encoding, name):
    head = calls_of(np.ones((1, 64), np.float32))[encoding].head
    answered_or_refused(type(call(b""))(head, body), RELEASES[name])


@given(st.data(), st.sampled_from(ENCODINGS))
def test_a_good_body_that_was_damaged_is_rows_or_refused_but_never_crashes(data, encoding):
    one = calls_of(np.ones((1, 3), np.float32))[encoding]
    start, end = sorted(data.draw(st.tuples(*[st.integers(0, len(one.body))] * 2)))
    body = one.body[:start] + data.draw(st.binary(max_size=4) | st.sampled_from(DAMAGE)) + one.body[end:]
    answered_or_refused(type(one)(one.head, body), RELEASES["table"])


DAMAGE = (b"null", b"[]", b"{}", b"true", b"1e999", b"-1", b'"a"', b"[[[", b'{"a":{"a":1}}', b"NaN", b"'<f4'", b"(3,)")


def answered_or_refused(one, release):
    spec = release.manifest.input
    try:
        request = decode(one, release)
    except RequestError as error:
        assert 400 <= error.status < 500 and str(error)
    else:
        assert request.rows.shape[1:] == spec.shape and request.rows.dtype == spec.dtype and len(request.rows)
        assert np.isfinite(request.rows).all()
        output = np.ones((len(request.rows), max(1, len(release.manifest.classes))), np.float32)
        outputs = {release.manifest.output: output, "logits": output}
        try:
            wire.wanted(request, outputs)
        except RequestError:
            return
        assert wire.codec_of(one.head).encode(release, request, "R", outputs).status == 200


@pytest.mark.parametrize(
    ("content_type", "path", "accepted"),
    [
        (b"text/plain", "/v1/predict", False), (b"", "/v1/predict", False),
        (b"multipart/form-data", "/v1/predict", False),
        (b"application/vnd.bentoml+pickle", "/v1/predict", False), (b"application/x-npy", "/v2/models/m/infer", False),
        (b"Application/JSON; charset=utf-8", "/v1/predict", True), (b"", "/v2/models/m/infer", True),
    ],
)  # fmt: skip
def test_a_content_type_that_is_not_known_is_refused(content_type, path, accepted):
    head = call(b"", content_type, path).head
    if accepted:
        assert wire.codec_of(head)
        return
    with pytest.raises(RequestError, match="Content-Type: accepted is application/json") as caught:
        wire.codec_of(head)
    assert caught.value.status == 415


@pytest.mark.parametrize("path", ["/v1/predict", "/v2/models/tiny/infer"])
def test_a_compressed_body_is_refused(path):
    with pytest.raises(RequestError, match="Content-Encoding: a compressed body is not accepted") as caught:
        wire.codec_of(call(b"", path=path, content_encoding=b"gzip").head)
    assert caught.value.status == 415


@pytest.mark.parametrize(
    ("accept", "answer"),
    [
        (b"", b"application/octet-stream"), (b"*/*", b"application/octet-stream"),
        (b"text/html", b"application/octet-stream"), (b"application/*, application/json", b"application/octet-stream"),
        (b"application/json", b"application/json"), (b"Application/X-NPY", b"application/x-npy"),
        (b"application/json, text/plain, */*", b"application/json"),
        (b"application/json;q=0.5, application/x-npy;q=0.9", b"application/x-npy"),
        (b"application/json;q=0", b"application/octet-stream"), (b"application/json;q=x", b"application/octet-stream"),
        (b"application/x-npy," * 200, b"application/x-npy"),
    ],
)  # fmt: skip
def test_the_answer_is_in_the_encoding_that_accept_prefers_or_in_that_of_the_request(accept, answer):
    one = call(np.ones((1, 64), np.float32).tobytes(), b"application/octet-stream", accept=accept)
    codec, release = wire.codec_of(one.head), RELEASES["wide"]
    main = np.full((1, 10), 0.1, np.float32)
    reply = codec.encode(release, codec.decode(one, release), "R", {"probabilities": main})
    assert reply.content_type == answer and np.array_equal(read(reply), main)


def test_more_releases_than_are_remembered_each_keep_their_own_shape():
    many = [release_of(type(WIDE)("float32", (size,))) for size in range(1, 50)]
    for release in [*many, *many]:
        size = release.manifest.input.shape[0]
        got = decode(call(bytes(4 * size), b"application/octet-stream"), release)
        assert got.rows.shape == (1, size)


@pytest.mark.parametrize("dtype", ["float64", "float16", ">f4", "int32", "bool"])
def test_an_array_of_another_type_is_never_cast(dtype):
    with pytest.raises(RequestError, match=r"rows: must be float32 \(<f4\), found"):
        decode(call(npy(np.ones((1, 64)).astype(dtype)), b"application/x-npy"), RELEASES["wide"])


@pytest.mark.parametrize("datatype", ["FP64", "FP16", "INT32", "BYTES", "fp32", None, 32])
def test_a_tensor_of_another_datatype_is_never_cast(datatype):
    for send in (binary, spelled):
        with pytest.raises(RequestError, match="input: must have the datatype FP32, found") as caught:
            decode(send(np.ones((1, 64), np.float32), tensor={"datatype": datatype}), RELEASES["wide"])
        assert (caught.value.status, caught.value.reason) == (422, "dtype")
