"""The shared place: what is written there is whole, or not there."""

import gc
import os
import time
from typing import ClassVar

import fsspec
import pytest
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

from registry import share
from registry.remote import ABANDONED_S, Remote


class Upload(AbstractBufferedFile):
    """A file of an object store: closing it makes an object of what was written, `discard` gives the upload up."""

    def _initiate_upload(self):
        self.parts = []

    def _upload_chunk(self, final=False):
        self.parts.append(self.buffer.getvalue())
        if final:
            self.fs.objects[self.path] = b"".join(self.parts)

    def discard(self):
        self.parts = None


class Bucket(AbstractFileSystem):
    protocol = ("bucket", "s3")
    objects: ClassVar[dict[str, bytes]] = {}

    def _open(self, path, mode="rb", **options):
        return Upload(self, path, mode, block_size=2**20)


class Ended:
    """A file whose reader is stopped by Ctrl-C after three pieces."""

    pieces = 3

    def read(self, size):
        self.pieces -= 1
        if self.pieces < 0:
            raise KeyboardInterrupt
        return bytes(size)


def test_an_upload_that_is_interrupted_leaves_no_part_of_a_file(tmp_path):
    fsspec.register_implementation("bucket", Bucket, clobber=True)
    bucket, folder = Remote("bucket://x"), Remote(f"file://{tmp_path}")
    for place in (bucket, folder):
        with pytest.raises(KeyboardInterrupt):
            place.send("models/file", Ended())
    gc.collect()
    assert Bucket.objects == {} and [*tmp_path.rglob("*")] == [tmp_path / "models"]
    bucket.write("whole", b"all")
    assert [*Bucket.objects.values()] == [b"all"]


def test_a_password_in_the_address_is_shown_nowhere():
    assert Remote("memory://me:secret@host/x").name == "memory://host/x"


@pytest.fixture
def left(tmp_path):
    """Return a function that makes what a killed sender left beside a file of the place `shared`, two days ago."""

    def make(path, old_s=2 * ABANDONED_S, folder=False):
        made = tmp_path / "shared" / f"{path}.{'0' * 32}.tmp"
        made.parent.mkdir(parents=True, exist_ok=True)
        made.mkdir() if folder else made.touch()
        os.utime(made, (0, time.time() - old_s))
        return made

    return make


def test_a_push_clears_what_killed_senders_left_of_its_models_and_of_all_aliases_and_nothing_else(
    shared, promoted, left
):
    made = promoted(1)
    mine = left(f"models/tiny/{made.version}/card.md"), left("models/tiny/gone/card.md"), left("aliases/pears.json")
    others = left("models/pears/1/card.md"), left(f"models/tiny/{made.version}/model.onnx", old_s=60)
    named_alike = mine[0].with_name("notes.tmp")
    named_alike.touch()
    os.utime(named_alike, (0, 0))
    share.push(shared)
    assert [path for path in mine if path.exists()] == []
    assert all(path.exists() for path in (*others, named_alike)), "big folders of other models are not walked"


def test_one_leftover_that_cannot_be_removed_hinders_no_push_and_no_other_leftover(shared, promoted, left):
    promoted(1)
    child = "card.md"
    stays = left("models/tiny/x", folder=True)
    goes = left(f"models/tiny/{stays.name}/{child}")
    os.utime(stays, (0, 0))
    assert share.push(shared)[0].changed
    assert stays.is_dir() and not goes.exists()


def test_a_folder_that_cannot_be_listed_hinders_no_push(shared, promoted, monkeypatch):
    promoted(1)

    def closed(path, pattern):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("registry.remote.Path.rglob", closed)
    assert share.push(shared)[0].changed
