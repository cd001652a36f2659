"""A release as one file, from one machine to another: digests, card and signature travel, aliases do not.

The file is what `bentoml models export` writes (a tar, compressed by xz), and each program reads the
other's. Nothing in one is believed: only plain files with plain names come out, into a folder nobody
looks at; the tag is computed from the manifest, every byte is verified, and then it becomes visible.
"""

import io
import lzma
import os
import tarfile
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from registry import durable, release, signing, store
from registry.errors import ReleaseError
from registry.release import BENTOML_FILE, FILE, MANIFEST, SIGNATURE, Release, open_plain

SUFFIX = ".bentomodel"
MOST_BYTES = 8_000_000_000
MOST_FILES = 1000
MOST_NOTES = 65_536  # of a pax header: times and owners, which are stepped over
MOST_MEMORY = 256 * 1024 * 1024  # for the dictionary of xz; its largest preset needs 65 MiB
PIECE = 1024 * 1024
BLOCK = tarfile.BLOCKSIZE
XZ = b"\xfd7zXZ\0"  # how each xz file begins
NONE = "is no release that `vigil pack` or `bentoml models export` wrote"


def pack(tag: str, path: Path) -> int:
    """Write the release `tag` to `path`, which must end in .bentomodel, and return the size in bytes.

    Packed again it gives the same bytes; from another store, all but BentoML's model.yaml are the same.
    Raises ReleaseError if it is not as published, or if `path` is there already.
    """
    if path.suffix != SUFFIX:
        raise ReleaseError(f"{path}: must end in {SUFFIX}, by which BentoML knows what is inside")
    opened = store.open_release(tag)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if path.exists():
            raise ReleaseError(f"{path}: is there already; choose another name or remove it")
        with lzma.open(temporary, "wb", preset=1) as packed:
            _write(opened, packed)
        durable.sync_file(temporary)
        os.replace(temporary, path)
        durable.sync_folder(path.parent)
    except OSError as error:
        raise ReleaseError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        with suppress(OSError):  # also where its folder is none
            temporary.unlink()
    return path.stat().st_size


def unpack(path: Path, most_bytes: int = MOST_BYTES) -> Release:
    """Put the release in the file `path` into the store and return it.

    Nothing is visible unless every byte is as published and, where that is demanded, signed. Raises
    ReleaseError for anything else: links, devices, folders, more than `most_bytes` of content, ...
    """
    try:
        with store.workshop() as place:
            files = place / "files"
            files.mkdir()
            with open(path, "rb") as packed:
                _extract(_Unpacked(packed, path), files, most_bytes)
            tag = release.tag_of(files)
            opened = release.load(files, tag)
            opened.verify()
            signing.demand(opened)
            return store.admit(files, tag, place)
    except OSError as error:
        raise ReleaseError(f"{path}: cannot be unpacked: {error.strerror or error}") from error


class _Unpacked:
    """The content of an xz file, never more than a piece of it in memory."""

    def __init__(self, packed: io.BufferedReader, path: Path) -> None:
        self.path = path
        self._packed = packed
        begin = packed.peek(len(XZ))[: len(XZ)]
        if begin != XZ[: len(begin)]:
            raise ReleaseError(f"{path}: {NONE}; name one of these")
        self._xz = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MOST_MEMORY)

    def take(self, count: int) -> bytes:
        """Return exactly `count` bytes, at most a piece; raises ReleaseError if they are not there."""
        taken = b""
        while len(taken) < count:
            taken += self._more(count - len(taken))
        return taken

    def _more(self, most: int) -> bytes:
        while not self._xz.eof:
            fed = self._packed.read(PIECE) if self._xz.needs_input else b""
            if self._xz.needs_input and not fed:
                break
            try:
                out = self._xz.decompress(fed, most)
            except lzma.LZMAError as error:
                raise ReleaseError(f"{self.path}: {NONE}, or was damaged on its way: {error}") from error
            if out:
                return out
        if self._xz.eof:
            raise ReleaseError(f"{self.path}: {NONE}; name one of these")
        raise ReleaseError(f"{self.path}: is cut short; copy it again")


def _write(opened: Release, packed: lzma.LZMAFile) -> None:
    when = int(datetime.fromisoformat(opened.manifest.created).timestamp())
    beside = [name for name in (MANIFEST, SIGNATURE, BENTOML_FILE) if (opened.path / name).exists()]
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name in (*beside, *sorted(opened.manifest.files)):
            if name in opened.manifest.files:
                content = opened.read(name)
            else:
                with open_plain(opened.path / name, opened.tag) as file:
                    content = file.read()
            member = tarfile.TarInfo(f"./{name}")
            member.size, member.mtime, member.mode = len(content), when, 0o644
            tar.addfile(member, io.BytesIO(content))


def _extract(unpacked: _Unpacked, files: Path, most_bytes: int) -> None:
    # The reader of tarfile follows whatever a header says; this one knows plain files and nothing else.
    left, count = most_bytes, 0
    while (header := unpacked.take(BLOCK)) != bytes(BLOCK):
        member = _member(header, unpacked.path)
        count, left = count + 1, left - member.size
        if member.size < 0 or left < 0 or count > MOST_FILES:
            raise ReleaseError(f"{unpacked.path}: holds more than {most_bytes / 1e9:g} GB or {MOST_FILES} files")
        if member.type in (tarfile.XHDTYPE, tarfile.XGLTYPE) and member.size <= MOST_NOTES:
            unpacked.take(member.size + -member.size % BLOCK)
        elif not (member.isdir() and member.name in (".", "")):
            _extract_one(unpacked, member, files)


def _member(header: bytes, path: Path) -> tarfile.TarInfo:
    try:
        return tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise ReleaseError(f"{path}: {NONE}: {error}") from error


def _extract_one(unpacked: _Unpacked, member: tarfile.TarInfo, files: Path) -> None:
    name = member.name.removeprefix("./")
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or not FILE.fullmatch(name):
        raise ReleaseError(f"{unpacked.path}: holds {member.name!r}, which is no plain file of a release")
    if (files / name).exists():
        raise ReleaseError(f"{unpacked.path}: holds '{name}' twice")
    with open(files / name, "xb") as file:
        for start in range(0, member.size, PIECE):
            file.write(unpacked.take(min(PIECE, member.size - start)))
    unpacked.take(-member.size % BLOCK)
