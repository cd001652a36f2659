import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_release import HOMES
from wire_calls import RELEASES, binary, call, release_of, spelled

from registry.errors import RequestError
from serving import wire
from serving.outputs import OutputSpec
from serving.wire import v2_pages

WIDE = RELEASES["wide"]
ROWS = np.random.default_rng(0).random((3, 64)).astype(np.float32)
MAIN = np.random.default_rng(1).random((3, 10)).astype(np.float32)
OUTPUTS = {"probabilities": MAIN, "logits": MAIN * 2, "embedding": np.arange(24, dtype=np.float32).reshape(3, 2, 4)}
NAMES = ["probabilities", "logits", "embedding", "class"]


def decode(sent, release=WIDE):
    return wire.codec_of(sent.head).decode(sent, release)


def ask(sent, release=WIDE, outputs=OUTPUTS, ident="R"):
    request = decode(sent, release)
    wanted = wire.wanted(request, outputs)
    given = {name: outputs[name] for name in {release.manifest.output, *wanted}}
    given = {name: outputs[name] for name in outputs if name in given}
    return wire.codec_of(sent.head).encode(release, request, request.ident or ident, given)


def answers(reply):
    """Return the JSON of an answer, and its tensors as arrays or lists of text."""
    headers, length = dict(reply.headers), len(reply.body)
    if b"inference-header-content-length" in headers:
        length = int(headers[b"inference-header-content-length"])
        assert reply.content_type == b"application/octet-stream"
    said, rest = json.loads(reply.body[:length]), reply.body[length:]
    found = {}
    for tensor in said["outputs"]:
        size = tensor.get("parameters", {}).get("binary_data_size")
        content, rest = (rest[:size], rest[size:]) if size is not None else (None, rest)
        if tensor["datatype"] == "BYTES":
            found[tensor["name"]] = tensor["data"] if content is None else texts(content)
            assert tensor["shape"] == [len(found[tensor["name"]])]
        else:
            values = tensor["data"] if content is None else np.frombuffer(content, "<f4")
            found[tensor["name"]] = np.array(values, np.float32).reshape(tensor["shape"])
    assert not rest
    return said, found


def texts(content):
    found = []
    while content:
        size = int.from_bytes(content[:4], "little")
        found.append(content[4 : 4 + size].decode())
        content = content[4 + size :]
    return found


@given(
    st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from([None, True, False])), unique_by=lambda one: one[0]),
    st.sampled_from([None, True, False]),
    st.sampled_from([binary, spelled]),
)
def test_the_outputs_that_are_asked_for_come_in_that_order_each_in_the_form_it_asks(asked, all_binary, send):
    listed = [{"name": name} | ({} if own is None else {"parameters": {"binary_data": own}}) for name, own in asked]
    parameters = {} if all_binary is None else {"binary_data_output": all_binary}
    reply = ask(send(ROWS, listed, parameters=parameters))
    said, found = answers(reply)
    assert [tensor["name"] for tensor in said["outputs"]] == [name for name, _ in asked] or not asked
    in_bytes = {tensor["name"] for tensor in said["outputs"] if "parameters" in tensor}
    assert in_bytes == {name for name, own in asked or [(NAMES[0], None)] if (all_binary if own is None else own)}
    for name, values in found.items():
        expected = [str(k) for k in MAIN.argmax(axis=1)] if name == "class" else OUTPUTS[name]
        assert values == expected if name == "class" else np.array_equal(values, expected)


@pytest.mark.parametrize("send", [binary, spelled])
def test_without_a_list_of_outputs_all_come(send):
    for _ in range(2):
        said, found = answers(ask(send(ROWS)))
        assert list(found) == NAMES
    assert (said["model_name"], said["model_version"], said["id"]) == ("tiny", WIDE.version, "R")


def test_an_empty_list_of_outputs_is_the_main_one_alone():
    request = decode(binary(ROWS, []))
    assert request.outputs == () and list(answers(ask(binary(ROWS, [])))[1]) == ["probabilities"]


def test_an_output_that_is_not_there_is_refused_with_those_that_are():
    for listed in ([{"name": "probs"}], [{"name": "logits"}, {"name": "probs"}]):
        with pytest.raises(
            RequestError, match="outputs: the model has no output 'probs'; it has prob.*, logits"
        ) as caught:
            ask(binary(ROWS, listed))
        assert caught.value.status == 400


def test_a_regression_has_no_class():
    release, rows = release_of(HOMES, ()), np.array([[50, 1, 1]], np.float32)
    outputs = {"prediction": np.ones((1, 1), np.float32)}
    assert list(answers(ask(spelled(rows), release, outputs))[1]) == ["prediction"]
    with pytest.raises(RequestError, match="the model has no output 'class'; it has prediction"):
        ask(spelled(rows, [{"name": "class"}]), release, outputs)


def test_the_threshold_of_a_release_decides_its_class():
    outputs = {"probabilities": np.array([[0.75, 0.25], [0.9, 0.1]], np.float32)}
    rows = np.ones((2, 3), np.float32)
    assert answers(ask(binary(rows, [{"name": "class"}]), RELEASES["table"], outputs))[1]["class"] == ["yes", "no"]


def test_a_class_of_any_letters_comes_whole():
    names = ("Zürich", "", '"日本"')
    outputs = {"probabilities": np.eye(3, dtype=np.float32)}
    for parameters in ({"binary_data_output": True}, {}):
        sent = binary(ROWS, [{"name": "class"}], parameters)
        assert answers(ask(sent, release_of(classes=names), outputs))[1]["class"] == list(names)


def test_an_output_that_is_not_finite_is_refused_by_row():
    wrong = OUTPUTS | {"logits": np.where(np.arange(30).reshape(3, 10) == 17, np.inf, 1).astype(np.float32)}
    for listed in ([{"name": "logits"}], None):
        with pytest.raises(RequestError, match=r"rows\[1\]: holds numbers so extreme"):
            ask(binary(ROWS, listed), WIDE, wrong)
    assert answers(ask(binary(ROWS, [{"name": "class"}]), WIDE, wrong))


IDS = st.text(min_size=1, max_size=128).filter(lambda one: one.isprintable())


@given(st.lists(IDS, min_size=1, max_size=4), st.booleans(), st.sampled_from(["first", "last"]))
def test_the_id_comes_back_however_often_the_rest_of_the_call_was_the_same(idents, compact, where):
    for ident in [*idents, *idents]:
        for send in (binary, spelled):
            sent = send(ROWS, [{"name": "logits"}])
            sent = with_head(sent, lambda head, ident=ident: moved(head, ident, where), compact)
            said, found = answers(ask(sent))
            assert said["id"] == ident and np.array_equal(found["logits"], OUTPUTS["logits"])


def moved(head, ident, where):
    return {"id": ident} | head if where == "first" else head | {"id": ident}


def with_head(sent, change, compact=True):
    """Return the same call with its JSON changed."""
    length = int(sent.head.headers.get(b"inference-header-content-length", len(sent.body)))
    said = change(json.loads(sent.body[:length]))
    head = json.dumps(said, separators=(",", ":") if compact else None).encode()
    if length == len(sent.body):
        return call(head, path=sent.head.path)
    size = b"%d" % len(head)
    return call(
        head + sent.body[length:], b"application/octet-stream", sent.head.path, inference_header_content_length=size
    )


@pytest.mark.parametrize("send", [binary, spelled])
@pytest.mark.parametrize("ident", ["", None])
def test_an_id_that_is_empty_is_none(send, ident):
    assert decode(send(ROWS, id=ident)).ident is None


@pytest.mark.parametrize("send", [binary, spelled])
@pytest.mark.parametrize("ident", [7, True, ["a"], "x" * 129])
def test_an_id_that_is_no_short_string_is_refused(send, ident):
    with pytest.raises(RequestError, match="id: must be a string of at most 128 characters") as caught:
        decode(send(ROWS, id=ident))
    assert caught.value.status == 400


def test_a_head_that_is_remembered_is_not_taken_for_other_rows():
    assert decode(binary(ROWS)).rows.shape == (3, 64)
    for damaged in (b"", b"\0" * 4, b"\0" * 256):
        sent = binary(ROWS)
        body = sent.body[:-256] + damaged if len(damaged) < 256 else sent.body + damaged
        with pytest.raises(RequestError, match="input: must be whole rows of 256 bytes .* found"):
            decode(type(sent)(sent.head, body))
    assert np.array_equal(decode(binary(ROWS)).rows, ROWS)


def test_more_heads_than_are_remembered_are_all_answered():
    release = release_of()
    for number in [*range(600), *range(600)]:
        sent = binary(ROWS[:1], parameters={"custom": "x" * (number % 3) + str(number)})
        assert np.array_equal(decode(sent, release).rows, ROWS[:1])


def test_the_numbers_may_start_at_any_byte():
    for more in range(8):
        sent = with_head(binary(ROWS), lambda head, more=more: head | {"parameters": {"x": "y" * more}})
        got = decode(sent).rows
        assert got.flags.aligned and np.array_equal(got, ROWS)


def test_a_body_without_json_is_the_one_tensor_and_gets_all_outputs_as_bytes():
    sent = call(ROWS.tobytes(), b"application/octet-stream", "/v2/models/m/infer", inference_header_content_length=b"0")
    assert np.array_equal(decode(sent).rows, ROWS)
    reply = ask(sent)
    assert all("parameters" in tensor for tensor in answers(reply)[0]["outputs"])
    with pytest.raises(RequestError, match="whole rows of 256 bytes"):
        decode(type(sent)(sent.head, sent.body[1:]))


@pytest.mark.parametrize("length", [b"", b"-1", b"+3", b"1e3", b"99999", b"99999999999999999999", "²".encode()])
def test_a_length_of_the_json_that_is_none_is_refused(length):
    sent = binary(ROWS)
    head = call(b"", b"application/octet-stream", "/v2/models/m/infer", inference_header_content_length=length).head
    with pytest.raises(RequestError, match="Inference-Header-Content-Length: must be a number of bytes") as caught:
        decode(type(sent)(head, sent.body))
    assert caught.value.status == 400


def test_parameters_that_are_not_known_are_left_aside():
    known = {"sequence_id": 7, "priority": 1, "timeout": 100, "custom": "x", "more": True, "none": None, "f": 0.5}
    tensor = {"parameters": {"binary_data_size": ROWS.nbytes, "content_type": "np"}}
    for sent in (binary(ROWS, parameters=known, tensor=tensor, other=[{"a": 1}]), spelled(ROWS, parameters=known)):
        assert np.array_equal(decode(sent).rows, ROWS)


@pytest.mark.parametrize("send", [binary, spelled])
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"inputs": None}, "inputs: must be a list of one tensor, 'input', found null"),
        ({"inputs": []}, "inputs: must be a list of one tensor, 'input', found 0 of them"),
        ({"inputs": [3]}, "inputs: must be a list of one tensor, 'input', found a list"),
        ({"inputs": [{}, {}]}, "inputs: must be a list of one tensor, 'input', found 2 of them"),
        ({"inputs": [{"name": "x"}]}, "inputs: the model takes the tensor 'input', found 'x'"),
        ({"outputs": {}}, "outputs: must be a list of objects with a name, found an object"),
        ({"outputs": ["logits"]}, "outputs: must be a list of objects with a name, found a list"),
        ({"outputs": [{}]}, "outputs: each must have a name of its own, found None"),
        ({"outputs": [{"name": "a"}, {"name": "a"}]}, "outputs: each must have a name of its own, found 'a'"),
        ({"outputs": [{"name": "a", "parameters": []}]}, "outputs: parameters must be an object of strings"),
        ({"outputs": [{"name": "a", "parameters": {"binary_data": 1}}]}, "outputs: binary_data must be true or false"),
        ({"outputs": [{"name": "a", "parameters": {"classification": 3}}]}, "classification is not offered; ask for"),
        ({"outputs": [{"name": "a", "parameters": {"shared_memory_region": "r"}}]}, "shared memory is not offered"),
        ({"parameters": []}, "parameters: parameters must be an object of strings, numbers and booleans"),
        ({"parameters": {"a": {}}}, "parameters: parameters must be an object of strings, numbers and booleans"),
        ({"parameters": {"binary_data_output": "yes"}}, "binary_data_output must be true or false, found a string"),
    ],
)
def test_what_is_wrong_with_a_call_is_said(send, changed, message):
    with pytest.raises(RequestError) as caught:
        decode(with_head(send(ROWS), lambda head: head | changed))
    assert message in str(caught.value) and caught.value.status == 400


@pytest.mark.parametrize("send", [binary, spelled])
@pytest.mark.parametrize(
    ("changed", "message", "status"),
    [
        ({"shape": None}, "input: shape must be a list of whole numbers, found None", 400),
        ({"shape": [3, 64.0]}, "input: shape must be a list of whole numbers", 400),
        ({"shape": [True, 64]}, "input: shape must be a list of whole numbers", 400),
        ({"shape": []}, "input: must have the shape [n, 64] with n >= 1, found []", 422),
        ({"shape": [0, 64]}, "input: must have the shape [n, 64] with n >= 1, found [0, 64]", 422),
        ({"shape": [-1, 64]}, "input: must have the shape [n, 64] with n >= 1, found [-1, 64]", 422),
        ({"shape": [64, 3]}, "input: must have the shape [n, 64] with n >= 1, found [64, 3]", 422),
        ({"shape": [2, 64]}, "input: must", 422),
        ({"shape": [2**62, 64]}, "input: must", 422),
        ({"parameters": {"shared_memory_region": "r"}}, "input: shared memory is not accepted", 400),
        ({"parameters": [1]}, "input: parameters must be an object", 400),
    ],
)
def test_what_is_wrong_with_a_tensor_is_said(send, changed, message, status):
    with pytest.raises(RequestError) as caught:
        decode(send(ROWS, tensor=changed))
    assert message in str(caught.value) and caught.value.status == status


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (binary(ROWS, tensor={"parameters": {}}), "input: must have no data and the parameter binary_data_size"),
        (binary(ROWS, tensor={"parameters": {"binary_data_size": "768"}}), "must have no data and the parameter"),
        (binary(ROWS, tensor={"parameters": {"binary_data_size": -768}}), "must have no data and the parameter"),
        (binary(ROWS, tensor={"data": [1]}), "must have no data and the parameter binary_data_size"),
        (binary(ROWS, tensor={"parameters": {"binary_data_size": 767}}), "input: must be whole rows of 256 bytes"),
        (spelled(ROWS, tensor={"parameters": {"binary_data_size": 768}}), "binary_data_size needs the header"),
        (spelled(ROWS, tensor={"data": "AAAA"}), "input: data must be a list of numbers, found a string"),
        (spelled(ROWS, tensor={"data": []}), "input: must hold 3 rows, as its shape says, found 0"),
        (spelled(ROWS, tensor={"data": [1.0] * 191}), "input: must hold 192 values, found 191"),
        (spelled(ROWS, tensor={"data": ROWS[:2].tolist()}), "input: must hold 3 rows, as its shape says, found 2"),
        (
            spelled(ROWS, tensor={"data": [[1.0] * 64, [1.0] * 64, [1.0] * 63]}),
            "input[2]: must hold 64 values, found 63",
        ),
        (spelled(ROWS, tensor={"data": [*[1.0] * 191, [1.0]]}), "input[2][63]: must be a number, found a list"),
        (spelled(ROWS, tensor={"data": [*[1.0] * 191, 1e300]}), "input[2][63]: must be a finite float32, found inf"),
        (spelled(ROWS, tensor={"data": [*[1.0] * 191, float("nan")]}), "input[2][63]: must be a finite float32"),
    ],
)
def test_numbers_that_do_not_fit_their_shape_are_refused(sent, message):
    with pytest.raises(RequestError) as caught:
        decode(sent)
    assert message in str(caught.value)


def test_a_key_that_is_given_twice_is_refused():
    for old, new in ((b'"inputs"', b'"inputs":[],"inputs"'), (b'"shape"', b'"shape":[9],"shape"')):
        sent = spelled(ROWS)
        with pytest.raises(RequestError, match="is given twice"):
            decode(type(sent)(sent.head, sent.body.replace(old, new, 1)))


@pytest.mark.parametrize("depth", [10, 500, 1000, 1020, 2000, 100_000])
def test_json_of_any_depth_is_answered_or_refused(depth):
    for opened, closed in (("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")):
        deep = opened * depth + "1" + closed * depth
        for field in ("more", "inputs", "outputs", "parameters", "id"):
            body = json.dumps({"inputs": []})[:-1] + f',"{field}":{deep}}}'
            with pytest.raises(RequestError):
                decode(call(body.encode(), path="/v2/models/m/infer"))


def test_the_pages_are_those_of_the_protocol():
    outputs = {"probabilities": OutputSpec("float32", (10,)), "embedding": OutputSpec("float16", (None, 4))}
    said = json.loads(v2_pages.model_metadata(RELEASES["image"], outputs, ["2", "1"]))
    assert said == {
        "name": "tiny", "versions": ["2", "1"], "platform": "onnxruntime_onnx",
        "inputs": [{"name": "input", "datatype": "UINT8", "shape": [-1, 8, 8]}],
        "outputs": [
            {"name": "probabilities", "datatype": "FP32", "shape": [-1, 10]},
            {"name": "embedding", "datatype": "FP16", "shape": [-1, -1, 4]},
            {"name": "class", "datatype": "BYTES", "shape": [-1]},
        ],
    }  # fmt: skip
    said = json.loads(v2_pages.server_metadata("vigil", "1"))
    assert said == {"name": "vigil", "version": "1", "extensions": ["binary_tensor_data"]}
    assert json.loads(v2_pages.server_live()) == {"live": True}
    assert json.loads(v2_pages.server_ready(False)) == {"ready": False}
    assert json.loads(v2_pages.model_ready("tiny", True)) == {"name": "tiny", "ready": True}
