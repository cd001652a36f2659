"""Image folders -> rows: `root/<class>/**/*.png|jpg|...`, with or without `train/` and `test/` above the classes.

The images are decoded once and then read from a cache, see `decode`.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from registry.errors import DataError
from training.config import Data
from training.rows import decode
from training.rows.columns import in_order
from training.rows.raw import Raw

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
PARTS = frozenset({"train", "test", "val", "valid", "validation"})
_MOST_NAMED = 10


@dataclass(frozen=True)
class File:
    """name: the path below the root, with slashes. part: the folder above the classes, one of PARTS or ""."""

    name: str
    part: str
    label: str
    state: str  # size and time of change


def read(root: Path, data: Data) -> Raw:
    """Return the images under `root`, labelled by their folders, as uint8 (n, height, width, 3).

    All grey: (n, height, width). Images below `test/` are the given test rows; those of a validation
    folder are dealt out with the training images. Raises DataError if there are no classes, if sizes
    differ while data.side_pixels is 0, or if an image cannot be read while data.corrupt is "stop".
    """
    files = find(root)
    decoded = decode.cached(decode.Job(root, {file.name: file.state for file in files}, data.side_pixels))
    if decoded.broken and data.corrupt == "stop":
        _refuse_broken(root, decoded.broken)
    left = [file for file in files if file.name not in decoded.broken]
    classes = in_order({file.label for file in left})
    place = {label: number for number, label in enumerate(classes)}
    test = np.array([file.part == "test" for file in left])
    return Raw(
        str(root), decoded.rows, np.array([place[file.label] for file in left]), classes=tuple(classes),
        given_test=test if test.any() else None, digest=decoded.sha256,
        skipped=tuple(f"{name}: {reason}" for name, reason in decoded.broken.items()),
    )  # fmt: skip


def find(root: Path) -> list[File]:
    """Return the images below `root`, sorted by name; hidden files and folders do not count.

    Raises DataError if there is none, if one lies in no class folder, or if folders lie beside train and test.
    """
    if not root.is_dir():
        raise DataError(
            f"{root}: no such folder; a path in the TOML file starts at its folder, one after --data at yours"
        )
    found = dict(sorted(_walk(root, "")))
    tops = {name.split("/")[0] for name in found}
    parted = "train" in tops and tops <= PARTS
    layout = "<class>/<image>.png" if not parted else "train/<class>/<image>.png"
    if not found:
        raise DataError(f"{root}: holds no images; accepted are {root}/{layout} and {', '.join(SUFFIXES[1:])}")
    if {"train", "test"} <= tops and not parted:
        raise DataError(
            f"{root}: {', '.join(sorted(tops - PARTS))} beside train and test; accepted there are "
            f"{', '.join(sorted(PARTS - {'train', 'test'}))}: move it away, or let data.path name a folder of classes"
        )
    files = []
    for name, state in found.items():
        part, _, inner = name.partition("/") if parted else ("", "", name)
        label, _, rest = inner.partition("/")
        if not rest:
            raise DataError(f"{root}/{name}: lies in no class folder; accepted is {root}/{layout}")
        files.append(File(name, part, label, state))
    return files


def _walk(folder: Path, above: str) -> Iterator[tuple[str, str]]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith((".", "__MACOSX")):
                continue
            if entry.is_dir():
                yield from _walk(folder / entry.name, f"{above}{entry.name}/")
            elif entry.name.lower().endswith(SUFFIXES):
                found = entry.stat()
                yield above + entry.name, f"{found.st_size} {found.st_mtime_ns}"


def _refuse_broken(root: Path, broken: Mapping[str, str]) -> None:
    named = "; ".join(f"{name}: {reason}" for name, reason in list(broken.items())[:_MOST_NAMED])
    more = f"; and {len(broken) - _MOST_NAMED} more" if len(broken) > _MOST_NAMED else ""
    raise DataError(
        f"{root}: {len(broken)} images cannot be read: {named}{more}; "
        'mend or remove them, or leave them out with data.corrupt = "skip"'
    )
