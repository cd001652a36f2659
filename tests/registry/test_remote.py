"""The shared place: what is written there is whole, or not there."""

import gc
from typing import ClassVar

import fsspec
import pytest
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

from registry.remote import Remote


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
