"""Files that a model may bring along, and how a model may try to reach others."""

import os
import shutil
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tiny_release import DIGITS, IMAGE, make_draft, make_files, onnx_bytes

from registry import store
from registry.errors import ReleaseError
from serving.engine import Engine, EngineError, golden_limit

SIDE = "model.onnx.data"


def publish_large(tmp_path, location=SIDE, name="large"):
    """Publish a release whose weights lie in a file beside the graph, which names it `location`."""
    files = make_files(tmp_path / f"files-{name}")
    model = onnx.ModelProto.FromString((files / "model.onnx").read_bytes())
    tensor = model.graph.initializer[0]
    (files / SIDE).write_bytes(tensor.raw_data)
    size = len(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(size))):
        tensor.external_data.add(key=key, value=value)
    (files / "model.onnx").write_bytes(model.SerializeToString())
    return store.publish(make_draft(name), files)


def test_weights_in_a_file_beside_are_served_from_verified_bytes(tmp_path, monkeypatch, publish):
    monkeypatch.chdir(tmp_path)
    (tmp_path / SIDE).write_bytes(bytes(64 * 10 * 4))  # weights of zero, where ONNX Runtime would look by itself
    large, small = (Engine(made, ("cpu",), threads=1) for made in (publish_large(tmp_path), publish()))
    rows = np.arange(128, dtype=np.uint8).reshape(2, 8, 8)
    np.testing.assert_array_equal(large.run(rows)[0], small.run(rows)[0])


@pytest.mark.parametrize("location", ["../secret.bin", "sub/../../secret.bin", "other.bin", "./model.onnx.data", ""])
def test_weights_anywhere_else_are_refused_by_name(tmp_path, monkeypatch, location):
    (tmp_path / "work" / "sub").mkdir(parents=True)
    for folder in (tmp_path, tmp_path / "work"):
        (folder / "secret.bin").write_bytes(bytes(64 * 10 * 4))
        (folder / "other.bin").write_bytes(bytes(64 * 10 * 4))
    monkeypatch.chdir(tmp_path / "work")
    with pytest.raises(
        EngineError, match="takes weights from '.*'; accepted are weights of the main graph from model.onnx.data"
    ) as caught:
        Engine(publish_large(tmp_path, location), ("cpu",), threads=1)
    assert caught.value.reason == "load"


def test_weights_at_an_absolute_path_are_refused_by_name(tmp_path):
    secret = tmp_path / "secret.bin"
    secret.write_bytes(bytes(64 * 10 * 4))
    with pytest.raises(EngineError, match="takes weights from '/.*secret.bin'; accepted are weights of the main"):
        Engine(publish_large(tmp_path, str(secret)), ("cpu",), threads=1)


def put_back(link: Callable[..., None]):
    def change(made, tmp_path):
        shutil.move(made.path / SIDE, tmp_path / "elsewhere")
        link(tmp_path / "elsewhere", made.path / SIDE)

    return change


def change_a_bit(made, tmp_path):
    content = bytearray((made.path / SIDE).read_bytes())
    content[7] ^= 1
    (made.path / SIDE).write_bytes(content)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put_back(os.symlink), f"{SIDE} cannot be read: Too many levels of symbolic links"),
        (put_back(os.link), f"{SIDE} is a hard link"),
        (change_a_bit, f"{SIDE} is not the file that was published"),
        (lambda made, tmp_path: (made.path / SIDE).unlink(), f"{SIDE} cannot be read: No such file"),
    ],
)
def test_weights_that_are_a_link_or_other_bytes_than_published_are_refused(tmp_path, change, message):
    made = publish_large(tmp_path)
    change(made, tmp_path)
    for load in (lambda: Engine(made, ("cpu",), threads=1), lambda: store.open_release(made.tag)):
        with pytest.raises(ReleaseError, match=message):
            load()


def test_weights_outside_the_manifest_are_refused_though_they_lie_in_the_folder(tmp_path, publish):
    made = publish()
    model = onnx.ModelProto.FromString(onnx_bytes(IMAGE, len(DIGITS), 0))
    model.graph.initializer[0].external_data.add(key="location", value="smuggled.bin")
    (made.path / "smuggled.bin").write_bytes(b"x")
    with pytest.raises(ReleaseError, match=r"files that were not published: smuggled\.bin"):
        store.open_release(made.tag)
    (made.path / "smuggled.bin").unlink()
    (made.path / "model.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ReleaseError, match=r"model\.onnx is not the file that was published"):
        store.open_release(made.tag)


def test_a_file_beside_that_the_graph_does_not_need_changes_nothing(tmp_path):
    files = make_files(tmp_path / "files")
    (files / SIDE).write_bytes(b"not needed")
    made = store.publish(make_draft(), files)
    assert Engine(made, ("cpu",), threads=1).run(np.zeros((1, 8, 8), np.uint8))[0].shape == (1, 10)


def hand_made(change):
    model = onnx.ModelProto.FromString(onnx_bytes(IMAGE, len(DIGITS), 0))
    change(model)
    return model.SerializeToString()


def evil(model):
    model.graph.node[-1].domain = "com.evil"


def weights_of_another(model):
    other = onnx.ModelProto.FromString(onnx_bytes(IMAGE, len(DIGITS), 1))
    model.graph.initializer[0].CopyFrom(other.graph.initializer[0])


def weight_not_a_number(model):
    values = numpy_helper.to_array(model.graph.initializer[0]).copy()
    values[3, 3] = np.nan
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(values, "W"))


def no_softmax(model):
    model.graph.node[-1].op_type = "Identity"
    del model.graph.node[-1].attribute[:]


def renamed_output(model):
    model.graph.output[0].name = model.graph.node[-1].output[0] = "scores"


def frozen_batch(model):
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (evil, "load"),
        (weights_of_another, "golden"),
        (weight_not_a_number, "golden"),
        (no_softmax, "golden"),
        (renamed_output, "load"),
        (frozen_batch, "load"),
    ],
)
def test_a_hand_made_bad_model_is_refused_even_if_it_was_published(tmp_path, change, reason):
    files = make_files(tmp_path / "files")
    (files / "model.onnx").write_bytes(hand_made(change))
    with pytest.raises(EngineError) as caught:
        Engine(store.publish(make_draft(), files), ("cpu",), threads=1)
    assert caught.value.reason == reason


@pytest.mark.parametrize("change", [evil, weights_of_another, weight_not_a_number, no_softmax, frozen_batch])
def test_a_hand_made_bad_model_put_into_a_published_release_is_refused_before_it_is_read(publish, change):
    made = publish()
    (made.path / "model.onnx").write_bytes(hand_made(change))
    for load in (lambda: Engine(made, ("cpu",), threads=1), lambda: store.open_release(made.tag)):
        with pytest.raises(ReleaseError, match=r"model\.onnx is not the file that was published"):
            load()


@pytest.mark.parametrize(("precision", "limit"), [("fp32", 1e-3), ("fp16", 1e-2), ("int8", 5e-2), ("unheard of", 1e-3)])
def test_the_stored_answers_may_differ_by_what_the_precision_has_digits_for(tmp_path, precision, limit):
    answers = np.full((4, 2), 0.5, np.float32)
    assert golden_limit("classification", answers, precision) == limit
    files = make_files(tmp_path / "files")
    with np.load(files / "heldout.npz") as heldout:
        arrays = dict(heldout)
    for factor, served in ((0.9, True), (1.1, False)):
        moved = arrays | {"probabilities": arrays["probabilities"] + np.float32(limit * factor)}
        np.savez(files / "heldout.npz", **moved)
        made = store.publish(make_draft(f"moved-{served}".lower(), precision=precision), files)
        if served:
            Engine(made, ("cpu",), threads=1)
            continue
        with pytest.raises(EngineError, match="answers its held-out rows differently by"):
            Engine(made, ("cpu",), threads=1)
