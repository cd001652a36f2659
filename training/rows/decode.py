"""Image files -> one array of pixels on disk, decoded once.

The cache is `$XDG_CACHE_HOME/vigil`, without that variable `~/.cache/vigil`. An entry is a `.npy` file
and a `.json` beside it that is written last: names, sizes and times of change of all images, and the
settings, are in the name of both; the SHA-256 of the pixels is in the second. Both are checked on every
load, and an entry that is not whole is made anew. One process writes, the others wait for it.
"""

import hashlib
import json
import logging
import os
import struct
import sys
import warnings
import zlib
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from registry import durable
from registry.errors import DataError

if TYPE_CHECKING:
    from PIL.Image import Image

_FORMAT = 1  # of the pixels; another one decodes anew
_HEADER_BYTES = 128
_PART_BYTES = 8 * 2**20  # of pixels that one thread decodes at a time
_READ_BYTES = 2**24
_ORIENTATION = 0x0112  # EXIF; 5 to 8 turn the image on its side
_GREY, _GREY_16 = ("1", "L", "LA", "La"), ("I;16", "I;16L", "I;16B", "I;16N")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """The images below `root`: by name, their size and time of change; side_pixels: see config.Data."""

    root: Path
    files: Mapping[str, str]
    side_pixels: int

    @property
    def family(self) -> str:
        """Return what this folder under these settings is called, whatever it holds."""
        return hashlib.sha256(f"{_FORMAT} {self.side_pixels} {self.root.resolve()}".encode()).hexdigest()[:16]

    @property
    def key(self) -> str:
        """Return the name of the entry: `family`, and the digest of the list of files."""
        listed = "".join(f"{name}\n{state}\n" for name, state in self.files.items())
        return f"{self.family}-{hashlib.sha256(listed.encode()).hexdigest()[:32]}"


@dataclass(frozen=True)
class Decoded:
    """rows: uint8 (n, height, width[, 3]), a read-only memory map; broken: what could not be read, and why."""

    rows: np.ndarray
    sha256: str
    broken: dict[str, str]


class _ColourError(Exception):
    """A colour image among grey ones."""


def cached(job: Job) -> Decoded:
    """Return the pixels of all images that can be read, in the order of `job.files`.

    Raises DataError if none can be read, if sizes differ though side_pixels is 0, or if Pillow is needed
    and not installed.
    """
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with durable.locked(folder / f"{job.family}.lock"):
            found = _load(folder / job.key)
            if found is None:
                _make(job, folder / job.key)
                found = _load(folder / job.key)
    except OSError as error:
        cure = "let XDG_CACHE_HOME name a folder that can"
        raise DataError(f"{folder}: the cache cannot be written: {error.strerror}; {cure}") from error
    if found is None:
        raise DataError(f"{folder}: the cache lost what was just written; let XDG_CACHE_HOME name another disk")
    return found


def kinds(job: Job) -> tuple[set[tuple[int, int]], bool]:
    """Return every (width, height) among the images, and whether all are grey, from their headers alone.

    What cannot be read does not count. Raises DataError if none can be, or if Pillow is not installed.
    """
    _demand_pillow(job.root)
    from PIL import Image

    sizes, grey = set(), True
    for name in job.files:
        with suppress(*_unreadable()), Image.open(job.root / name) as image:
            turned = image.getexif().get(_ORIENTATION, 1) > 4
            sizes.add((image.height, image.width) if turned else image.size)
            grey = grey and image.mode in (*_GREY, *_GREY_16)
    if not sizes:
        _first_shape(job)  # which says why
    return sizes, grey


def cache_folder() -> Path:
    """Return where decoded images are kept; it may be deleted at any time."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vigil"


def _load(entry: Path) -> Decoded | None:
    rows_path, facts_path = entry.with_suffix(".npy"), entry.with_suffix(".json")
    try:
        facts = json.loads(facts_path.read_bytes())
        rows = np.load(rows_path, mmap_mode="r", allow_pickle=False)
        found = hashlib.sha256()
        with open(rows_path, "rb") as file:
            file.seek(_HEADER_BYTES)
            while part := file.read(_READ_BYTES):
                found.update(part)
    except FileNotFoundError:
        return None
    except (ValueError, EOFError) as error:
        _log.warning("cache_unreadable", extra={"file": str(rows_path), "reason": str(error)})
        return None
    if found.hexdigest() != facts["sha256"]:
        _log.warning("cache_damaged", extra={"file": str(rows_path)})
        return None
    return Decoded(rows, facts["sha256"], facts["broken"])


def _make(job: Job, entry: Path) -> None:
    """Decode all images into the entry, and remove what was known of this folder before."""
    _demand_pillow(job.root)
    shape, grey = _first_shape(job)
    temporary = entry.with_name(f"{job.family}.tmp")  # of one name: the lock is held, so a killed writer left it
    with open(temporary, "wb") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's about metadata
        try:
            facts = _write(job, shape if grey else (*shape, 3), file)
        except _ColourError:
            facts = _write(job, (*shape, 3), file)
        file.flush()
        os.fsync(file.fileno())
    for old in entry.parent.glob(f"{job.family}-*"):
        old.unlink()
    os.replace(temporary, entry.with_suffix(".npy"))
    durable.write_atomically(entry.with_suffix(".json"), json.dumps(facts).encode())


def _demand_pillow(root: Path) -> None:
    try:
        import PIL  # noqa: F401
    except ModuleNotFoundError as error:
        raise DataError(f"{root}: reading images needs Pillow; install it: pip install 'vigil[images]'") from error


def _first_shape(job: Job) -> tuple[tuple[int, int], bool]:
    """Return (height, width) of the first image that can be read, and whether it is grey."""
    reason = ""
    for name in job.files:
        try:
            pixels = _pixels(job, name)
            return (pixels.shape[0], pixels.shape[1]), pixels.ndim == 2
        except _unreadable() as error:
            reason = reason or f"{name}: {_reason(error)}"
    raise DataError(f"{job.root}: none of {len(job.files)} images can be read; the first, {reason}")


def _write(job: Job, shape: tuple[int, ...], file: BinaryIO) -> dict[str, object]:
    """Write the pixels as one NPY array (n, *shape); return its SHA-256 and what could not be read."""
    from tqdm import tqdm

    digest, broken, count = hashlib.sha256(), dict[str, str](), 0
    file.seek(_HEADER_BYTES)
    file.truncate()
    with tqdm(total=len(job.files), unit="image", desc="decoding", file=sys.stderr, disable=None) as bar:
        for pixels, unread in _parts(job, shape):
            file.write(pixels.data)
            digest.update(pixels.data)
            broken |= unread
            count += len(pixels)
            bar.update(len(pixels) + len(unread))
    file.seek(0)
    file.write(_header((count, *shape)))
    return {"sha256": digest.hexdigest(), "broken": broken}


def _header(shape: tuple[int, ...]) -> bytes:
    """Return the first 128 bytes of an NPY 1.0 file of bytes; see numpy.lib.format."""
    said = repr({"descr": "|u1", "fortran_order": False, "shape": shape}).encode()
    start = b"\x93NUMPY\x01\x00" + struct.pack("<H", _HEADER_BYTES - 10)
    return start + said.ljust(_HEADER_BYTES - 11) + b"\n"


Part = tuple[np.ndarray, dict[str, str]]


def _parts(job: Job, shape: tuple[int, ...]) -> Iterator[Part]:
    """Yield the decoded parts in order; a few are in memory at once. Pillow decodes outside the interpreter lock."""
    threads = min(4, os.cpu_count() or 1)
    size = max(1, min(1024, _PART_BYTES // int(np.prod(shape))))
    names = iter(job.files)
    waiting: deque[Future[Part]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            while part := list(islice(names, size)):
                waiting.append(pool.submit(_part, job, part, shape))
                if len(waiting) > threads + 1:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _part(job: Job, names: Sequence[str], shape: tuple[int, ...]) -> Part:
    found, broken = [], {}
    for name in names:
        try:
            pixels = _pixels(job, name)
        except _unreadable() as error:
            broken[name] = _reason(error)
            continue
        if pixels.shape[:2] != shape[:2]:
            raise DataError(
                f"{job.root}/{name}: is {pixels.shape[1]} x {pixels.shape[0]} pixels, those before are {shape[1]} x "
                f"{shape[0]}; data.side_pixels = {min(shape[:2])} scales and cuts all to one square"
            )
        if pixels.ndim == 3 and len(shape) == 2:
            raise _ColourError
        found.append(pixels if pixels.ndim == len(shape) else np.repeat(pixels[:, :, None], 3, axis=2))
    return np.array(found, dtype=np.uint8).reshape(-1, *shape), broken


def _pixels(job: Job, name: str) -> np.ndarray:
    """Return uint8 (height, width), or (height, width, 3) of a colour image; turned as its EXIF data say.

    With side_pixels the shorter side is scaled to it (bicubic) and the middle of the longer one is kept.
    """
    from PIL import Image, ImageOps

    side = job.side_pixels
    with Image.open(job.root / name) as opened:
        if side and opened.format == "JPEG":
            opened.draft(None, (2 * side, 2 * side))  # decodes at a half, a quarter or an eighth: still twice the side
        image = _eight_bits(ImageOps.exif_transpose(opened))
        if side and image.size != (side, side):
            image = ImageOps.fit(image, (side, side), Image.Resampling.BICUBIC)
        return np.array(image)


def _eight_bits(image: "Image") -> "Image":
    from PIL import Image

    if image.mode in _GREY_16:
        return Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise ValueError(f"32 bits a pixel (mode {image.mode}); accepted are 8 and 16")
    return image.convert("L" if image.mode in _GREY else "RGB")


def _unreadable() -> tuple[type[Exception], ...]:
    from PIL import Image

    return (OSError, ValueError, SyntaxError, EOFError, struct.error, zlib.error, Image.DecompressionBombError)


def _reason(error: Exception) -> str:
    if type(error).__name__ == "UnidentifiedImageError":
        return "not an image that can be identified"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
