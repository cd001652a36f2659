"""A place that stores share: releases and aliases in a folder or bucket, at any URL that fsspec knows.

    URL/models/NAME/VERSION/...     the files of a release; the manifest is the last to be written
    URL/aliases/NAME.json           the line of champions and the history, as in a store

A file there is the old one or the new one, never a part of it: an object store gives up an upload that
did not come to its end, elsewhere a file is written beside and moved. Nothing that is read from here is
believed before it is checked.
"""

import hashlib
import importlib.util
import os
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from registry.errors import ConfigError, ReleaseError, StackError

# Where a file that is closed is there as a whole, and one that is not is not there at all.
OBJECT_STORES = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "oci", "r2"})
PIECE = 1024 * 1024
BESIDE = re.compile(r"\.[0-9a-f]{32}\.tmp")  # the end of the name of a file that is being written
ABANDONED_S = 86_400.0  # one that is being written changes many times in a minute


def name_of(url: str) -> str:
    """Return the place `url` as messages show it: a password in it is nobody's business."""
    return re.sub("//[^/@:]*:[^/@]*@", "//", url)


class Remote:
    """A folder or bucket. name: its URL, as messages show it."""

    def __init__(self, url: str) -> None:
        """Raises ConfigError if the URL is none, or needs a package that is not there."""
        self.name = name_of(url)
        self._files, root = _file_system(url, self.name)
        self._root = root.rstrip("/")
        protocol = self._files.protocol
        protocols = {*([protocol] if isinstance(protocol, str) else protocol)}
        self._whole, self._local = bool(OBJECT_STORES & protocols), "file" in protocols

    def names(self, folder: str) -> list[str]:
        """Return the names in `folder`, sorted; none if there is no such folder. Raises StackError."""
        with self._reached():
            self._files.invalidate_cache()
            try:
                found = self._files.ls(f"{self._root}/{folder}", detail=False)
            except FileNotFoundError:
                return []
            return sorted(str(path).rstrip("/").rsplit("/", 1)[-1] for path in found)

    def read(self, path: str, most_bytes: int) -> bytes | None:
        """Return the bytes at `path`, None if nothing is there.

        Raises ReleaseError for more than `most_bytes`, StackError if the place cannot be reached.
        """
        with self._reached():
            try:
                with self._open(path) as file:
                    content: bytes = file.read(most_bytes + 1)
            except FileNotFoundError:
                return None
        if len(content) > most_bytes:
            raise ReleaseError(f"{self.name}/{path}: has more than {most_bytes / 1e6:g} MB")
        return content

    def fetch(self, path: str, into: Path, size_bytes: int) -> None:
        """Bring the file at `path`, `size_bytes` long, to `into`; what is there already is its beginning.

        Raises StackError if the place cannot be reached, OSError if `into` cannot be written.
        """
        with open(into, "ab") as file:
            there = file.tell()
            if there >= size_bytes:
                return
            for piece in self._pieces(path, there, size_bytes):
                file.write(piece)

    def holds(self, path: str, size_bytes: int, sha256: str = "") -> bool:
        """Return whether a file of that size is at `path`; with `sha256` it is read, and its bytes are compared.

        Raises StackError if the place cannot be reached.
        """
        with self._reached():
            self._files.invalidate_cache()
            try:
                found = self._files.info(f"{self._root}/{path}")["size"]
            except FileNotFoundError:
                return False
        if found != size_bytes or not sha256:
            return bool(found == size_bytes)
        digest = hashlib.sha256()
        for piece in self._pieces(path, 0, size_bytes):
            digest.update(piece)
        return digest.hexdigest() == sha256

    def write(self, path: str, content: bytes) -> None:
        """Put `content` at `path`, as a whole; raises StackError."""
        with self._reached(), self._created(path) as file:
            file.write(content)

    def send(self, path: str, source: IO[bytes]) -> None:
        """Put what `source` holds at `path`, as a whole; raises StackError."""
        with self._reached(), self._created(path) as file:
            while piece := source.read(PIECE):
                file.write(piece)

    def clear(self, models: list[str]) -> None:
        """Remove what killed senders left a day ago or earlier beside all aliases and the releases of `models`.

        Only where the place is a folder. What cannot be removed stays: the next push looks again.
        """
        if not self._local:
            return
        for folder in ("aliases", *(f"models/{model}" for model in models)):
            with suppress(OSError):  # a folder that cannot be listed
                for path in Path(self._root, folder).rglob("*.tmp"):
                    with suppress(OSError):  # it is somebody else's, or was removed meanwhile
                        if BESIDE.fullmatch(path.name[-37:]) and path.lstat().st_mtime < time.time() - ABANDONED_S:
                            path.unlink()

    def _pieces(self, path: str, start: int, end: int) -> Iterator[bytes]:
        with self._reached():
            source = self._open(path)
            source.seek(start)
        with source:
            while start < end:
                with self._reached():
                    piece = source.read(min(PIECE, end - start))
                if not piece:
                    raise ReleaseError(f"{self.name}/{path}: is cut short; push the release again")
                start += len(piece)
                yield piece

    def _open(self, path: str) -> IO[bytes]:
        opened: IO[bytes] = self._files.open(f"{self._root}/{path}", "rb")
        return opened

    @contextmanager
    def _created(self, path: str) -> Iterator[IO[bytes]]:
        final = f"{self._root}/{path}"
        place = final if self._whole else f"{final}.{uuid.uuid4().hex}.tmp"
        self._files.makedirs(final.rsplit("/", 1)[0], exist_ok=True)
        file = self._files.open(place, "wb")
        try:
            yield file
            if self._local:  # after a power cut a name could have no bytes
                file.flush()
                os.fsync(file.fileno())
            file.close()
            if place != final:
                self._files.mv(place, final)
        except BaseException:  # Ctrl-C, too
            with suppress(Exception):  # what went wrong first is what is told
                self._drop(file, place)
            raise

    def _drop(self, file: Any, place: str) -> None:
        """Leave nothing of a file that was not written to its end."""
        if self._whole:
            file.closed = True  # closing, also by the garbage collector, is what makes an object of the beginning
            file.discard()
        else:
            file.close()
            self._files.rm(place)

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except (StackError, ReleaseError):
            raise
        except Exception as error:  # each file system raises the types of its own library
            raise _not_answering(self.name, error) from error


def unusable(url: str, error: Exception) -> str:
    """Return why fsspec cannot use a URL, and what to install where a package of its own is missing."""
    from fsspec.registry import known_implementations

    protocol = url.partition("://")[0].rpartition("::")[2]
    package = str(known_implementations.get(protocol, {}).get("class", "")).partition(".")[0]
    if isinstance(error, ImportError) and package and importlib.util.find_spec(package) is None:
        return f"{protocol}:// needs the package {package}, which is not installed: pip install {package}"
    return str(error)


def _file_system(url: str, name: str) -> tuple[Any, str]:
    try:
        import fsspec
    except ImportError as error:
        raise ConfigError("sharing releases needs the package fsspec: pip install 'vigil[sync]'") from error
    if "://" not in url:
        accepted = "file:///FOLDER, s3://BUCKET/PATH, gs://..., memory://..."
        meant = f"; a folder is written file://{Path(name).absolute()}" if "/" in name else ""
        raise ConfigError(f"{name}: is no URL; accepted are {accepted}{meant}")
    try:
        files, root = fsspec.core.url_to_fs(url, use_listings_cache=False)
    except (ImportError, ValueError) as error:
        raise ConfigError(f"{name}: {unusable(url, error)}") from error
    except Exception as error:  # some connect at once, and raise the types of their own library
        raise _not_answering(name, error) from error
    return files, root


def _not_answering(name: str, error: Exception) -> StackError:
    said = " ".join(str(error).split()) or type(error).__name__
    return StackError(f"{name}: cannot be used: {said}")
