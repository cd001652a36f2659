import hashlib
import json
import os
import random
import shutil

import pytest
from tiny_release import make_draft, make_files

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


def damaged(content, draw):
    """Return `content` with one bit flipped, or cut short."""
    if draw.random() < 0.2:
        return content[: draw.randrange(len(content))]
    place = draw.randrange(len(content))
    return content[:place] + bytes([content[place] ^ (1 << draw.randrange(8))]) + content[place + 1 :]


def refuse_damage(made, trials):
    draw = random.Random(0)
    files = [*made.manifest.files, release.MANIFEST]
    for trial in range(trials):
        path = made.path / files[trial % len(files)]
        good = path.read_bytes()
        path.write_bytes(damaged(good, draw))
        with pytest.raises(ReleaseError, match=made.tag):
            store.open_release(made.tag)
        path.write_bytes(good)
    store.open_release(made.tag)


def test_every_flipped_bit_and_every_truncation_is_refused(publish):
    refuse_damage(publish(), trials=200)


@pytest.mark.proof
def test_a_thousand_flipped_bits_and_truncations_are_refused(publish):
    refuse_damage(publish(), trials=1000)


def test_the_yaml_of_bentoml_may_change_and_what_opens_is_what_was_published(publish):
    made, draw = publish(), random.Random(0)
    yaml = made.path / release.BENTOML_FILE
    good, published = yaml.read_bytes(), {file: made.read(file) for file in made.manifest.files}
    for _ in range(50):
        yaml.write_bytes(damaged(good, draw))
        opened = store.open_release(made.tag)
        assert (opened.manifest, opened.digest) == (made.manifest, made.digest)
    assert {file: opened.read(file) for file in opened.manifest.files} == published


def test_a_file_that_was_not_published_is_refused(publish):
    made = publish()
    (made.path / "model.onnx.data").write_bytes(b"x")
    with pytest.raises(ReleaseError, match="not published: model.onnx.data"):
        store.open_release(made.tag)


def replace(path, make):
    shutil.copy(path, path.parents[3] / "elsewhere")
    path.unlink()
    make(path.parents[3] / "elsewhere", path)


@pytest.mark.parametrize("file", ["model.onnx", release.MANIFEST, release.BENTOML_FILE])
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (os.symlink, r"Too many levels|is not the|cannot be read"),
        (os.link, "is a hard link"),
        (lambda source, path: os.mkfifo(path), "is no file|incomplete"),
        (lambda source, path: path.mkdir(), "Is a directory|incomplete"),
        (lambda source, path: path.mkdir() or shutil.copy(source, path), "Is a directory|incomplete"),
    ],
)
def test_a_link_pipe_or_folder_is_refused_even_with_the_right_bytes(publish, file, make, words):
    made = publish()
    replace(made.path / file, make)
    with pytest.raises(ReleaseError, match=f"{made.tag}: .*({words})"):
        store.open_release(made.tag)


@pytest.mark.parametrize(
    "name", ["../secret", "/etc/hostname", "sub/../../secret", "sub/model.onnx", "..", ".hidden", "", "model.yaml"]
)
def test_a_manifest_that_names_a_file_outside_is_refused(publish, name):
    made = publish()
    said = json.loads((made.path / release.MANIFEST).read_bytes())
    said["files"][name] = said["files"].pop("card.md")
    content = json.dumps(said).encode()
    tag = f"tiny:20260101-000000-{hashlib.sha256(content).hexdigest()[:8]}"  # its version agrees with it
    (made.path / release.MANIFEST).write_bytes(content)
    with pytest.raises(ReleaseError, match="which is no file of a release"):
        release.load(made.path, tag)


@pytest.mark.parametrize("make", [os.symlink, os.link, lambda source, path: path.mkdir()])
def test_only_plain_files_can_be_published(tmp_path, make):
    files = make_files(tmp_path / "files")
    (tmp_path / "elsewhere").write_bytes(b"x")
    make(tmp_path / "elsewhere", files / "weights.bin")
    with pytest.raises(ReleaseError, match=r"weights\.bin"):
        release.seal(make_draft(), files)


@pytest.mark.parametrize("name", [".hidden", "a b", "manifest.json", "model.sig"])
def test_only_plain_names_can_be_published(tmp_path, name):
    files = make_files(tmp_path / "files")
    (files / name).write_bytes(b"x")
    with pytest.raises(ReleaseError, match="is no name for a file of a release"):
        release.seal(make_draft(), files)


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
