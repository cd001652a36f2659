import json
import os
import random
import shutil

import pytest

from registry import release, store
from registry.errors import ReleaseError


def test_reading_gives_the_bytes_that_were_published(publish):
    made = publish()
    for file in made.manifest.files:
        assert made.read(file) == (made.path / file).read_bytes()


def test_the_manifest_survives_its_own_json(publish):
    made = publish()
    again = store.open_release(made.tag)
    assert again.manifest == made.manifest
    assert again.digest == made.digest and made.tag.endswith(made.digest[:8])


def test_every_flipped_bit_and_every_truncation_is_refused(publish):
    made, draw = publish(), random.Random(0)
    files = [*made.manifest.files, release.MANIFEST]
    for trial in range(400):
        path = made.path / files[trial % len(files)]
        good = path.read_bytes()
        if trial % 5 == 0:
            bad = good[: draw.randrange(len(good))]
        else:
            place = draw.randrange(len(good))
            bad = good[:place] + bytes([good[place] ^ (1 << draw.randrange(8))]) + good[place + 1 :]
        path.write_bytes(bad)
        with pytest.raises(ReleaseError, match=made.tag):
            store.open_release(made.tag)
        path.write_bytes(good)
    store.open_release(made.tag)


def test_a_file_that_was_not_published_is_refused(publish):
    made = publish()
    (made.path / "model.onnx.data").write_bytes(b"x")
    with pytest.raises(ReleaseError, match="not published: model.onnx.data"):
        store.open_release(made.tag)


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_link_is_refused_even_to_the_right_bytes(publish, tmp_path, link):
    made = publish()
    shutil.copy(made.path / "model.onnx", tmp_path / "elsewhere.onnx")
    (made.path / "model.onnx").unlink()
    link(tmp_path / "elsewhere.onnx", made.path / "model.onnx")
    with pytest.raises(ReleaseError, match=r"model\.onnx"):
        store.open_release(made.tag)


def test_the_manifest_of_another_release_is_refused(publish):
    one, other = publish(seed=1), publish(seed=2)
    shutil.copy(other.path / release.MANIFEST, one.path / release.MANIFEST)
    with pytest.raises(ReleaseError, match="is not the one that was published"):
        store.open_release(one.tag)


def test_a_manifest_that_was_sealed_again_after_a_change_is_another_version(publish):
    made = publish()
    said = json.loads((made.path / release.MANIFEST).read_bytes())
    said["metrics"]["accuracy"]["value"] = 1.0
    said["purpose"] = "nicer"
    (made.path / release.MANIFEST).write_text(json.dumps(said))
    with pytest.raises(ReleaseError, match="is not the one that was published"):
        store.open_release(made.tag)


def test_a_file_outside_the_manifest_cannot_be_read(publish):
    with pytest.raises(ReleaseError, match="no file '../latest'; it has card.md"):
        publish().read("../latest")
