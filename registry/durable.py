"""Files that a crash cannot tear: write beside, sync, rename, sync the folder; one lock per store."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def write_atomically(path: Path, content: bytes, mode: int = 0o666, time_s: float | None = None) -> None:
    """Put `content` at `path`, or leave the old file untouched.

    A reader sees the old bytes or the new ones, never a part, also after a power cut. mode: who may read
    and write the new file, less the umask; nobody else could at any moment. time_s: the Unix time of its
    change that it shows; now if None.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(content)
            file.flush()
            if time_s is not None:
                os.utime(file.fileno(), (time_s, time_s))
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)  # on a full disk, what was written of it must not stay
        raise
    sync_folder(path.parent)


def make_folder(path: Path) -> None:
    """Make the folder `path`, and those above it, so that a power cut does not take them; nothing if it is there."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable: a rename is on disk only after this."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Make every file below `folder`, and their names, durable."""
    for place, _, names in os.walk(folder):
        for name in names:
            sync_file(Path(place) / name)
        sync_folder(Path(place))


def sync_file(path: Path) -> None:
    """Make the content of `path` durable."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


@contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold the lock file `path` against other processes and threads; a killed holder frees it.

    Raises BlockingIOError if it is held and `wait` is False.
    """
    make_folder(path.parent)
    with open(path, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        try:
            yield
        finally:
            fcntl.flock(file, fcntl.LOCK_UN)
