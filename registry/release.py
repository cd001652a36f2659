"""A release: a folder of files, a manifest that fixes every byte of them, and one digest over all.

The version ends in the first 8 hex digits of the digest, so a manifest cannot be exchanged for
another. Files are read through `Release.read`, which returns bytes it has checked: what was
verified is what gets loaded.
"""

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from registry.errors import ReleaseError

MANIFEST = "manifest.json"
MODEL = "model.onnx"
MODEL_DATA = "model.onnx.data"  # the weights of a model of more than 2 GiB, which ONNX cannot hold in one file
REFERENCE = "reference.json"
HELDOUT = "heldout.npz"
OUTPUTS = {"classification": "probabilities", "regression": "prediction"}
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
VERSION = re.compile(r"\d{8}-\d{6}-[0-9a-f]{8}")


@dataclass(frozen=True)
class InputSpec:
    """One input row: `shape` without the batch, `columns` empty unless the row is tabular.

    categories: of the columns that hold text, the values; the row holds the index of one.
    fills: of the columns that may be empty, the number that then stands in the row.
    """

    dtype: str
    shape: tuple[int, ...]
    columns: tuple[str, ...] = ()
    categories: dict[str, tuple[str, ...]] = field(default_factory=dict)
    fills: dict[str, float] = field(default_factory=dict)
    name: str = "input"

    @cached_property
    def codes(self) -> dict[str, dict[str, float]]:
        """Return, per column that holds text, the number that stands in the row for each value."""
        return {
            column: {value: float(i) for i, value in enumerate(values)} for column, values in self.categories.items()
        }


@dataclass(frozen=True)
class FileEntry:
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class Draft:
    """All that is said about a model before its files are fixed.

    created: UTC, `YYYY-MM-DDTHH:MM:SSZ`. metrics, baselines: on the test rows, each headline
    number with `value`, `lower`, `upper`. parity: the certificate of the export. gate: what
    `promote` demands. quality: the metric and the floor under which someone is paged.
    classes: () in a regression. threshold: of a binary classifier that answers its second class from
    that probability on; None takes the likelier class. precision: of the weights and the arithmetic, fp32,
    fp16 or int8. parent: of a variant in another precision, the tag of the release it was made from.
    """

    name: str
    created: str
    purpose: str
    task: str
    input: InputSpec
    classes: tuple[str, ...]
    metrics: dict[str, Any]
    baselines: dict[str, Any]
    parity: dict[str, Any]
    gate: dict[str, Any]
    quality: dict[str, Any]
    data: dict[str, Any]
    config: dict[str, Any]
    code: dict[str, Any]
    threshold: float | None = None
    precision: str = "fp32"
    parent: str | None = None

    @property
    def output(self) -> str:
        """Return the name of the ONNX output that answers: float32 (n, classes), or (n, 1) in a regression."""
        return OUTPUTS[self.task]

    def decide(self, probabilities: np.ndarray) -> np.ndarray:
        """Return the class of each row as an index, int64 (n,), from probabilities (n, classes)."""
        likely: np.ndarray = probabilities.argmax(axis=1)
        return likely if self.threshold is None else (probabilities[:, 1] >= self.threshold).astype(np.int64)


@dataclass(frozen=True)
class Manifest(Draft):
    """A draft together with the size and SHA-256 of every file of the release."""

    files: dict[str, FileEntry] = field(default_factory=dict)

    def to_bytes(self) -> bytes:
        """Return the JSON that is stored and digested; equal manifests give equal bytes."""
        return json.dumps(asdict(self), indent=1, sort_keys=True, allow_nan=False).encode() + b"\n"


@dataclass(frozen=True)
class Release:
    """A release whose manifest was checked against its version."""

    tag: str
    path: Path
    manifest: Manifest
    digest: str

    @property
    def name(self) -> str:
        return self.manifest.name

    @property
    def version(self) -> str:
        return self.tag.split(":")[1]

    def read(self, file: str) -> bytes:
        """Return the bytes of `file`, which are those that were published.

        Raises ReleaseError if it is not in the manifest, is a link, or differs by a bit.
        """
        if file not in self.manifest.files:
            raise ReleaseError(f"{self.tag}: no file '{file}'; it has {', '.join(sorted(self.manifest.files))}")
        content = _read_plain(self.path / file, self.tag)
        found = hashlib.sha256(content).hexdigest()
        if found != self.manifest.files[file].sha256:
            raise ReleaseError(
                f"{self.tag}: {file} is not the file that was published (sha256 {found[:12]}..., "
                f"expected {self.manifest.files[file].sha256[:12]}...); publish the model again"
            )
        return content

    def verify(self) -> None:
        """Check every file, and that no other file is there; raises ReleaseError."""
        for file in self.manifest.files:
            self.read(file)
        known = {*self.manifest.files, MANIFEST, "model.yaml"}  # model.yaml is BentoML's own
        extra = sorted(p.name for p in self.path.iterdir() if p.name not in known)
        if extra:
            raise ReleaseError(f"{self.tag}: holds files that were not published: {', '.join(extra)}")


def seal(draft: Draft, folder: Path) -> tuple[Manifest, str]:
    """Write the manifest of the files in `folder`; return it with the version it fixes."""
    entries = {}
    for path in sorted(folder.iterdir()):
        content = _read_plain(path, str(folder))
        entries[path.name] = FileEntry(hashlib.sha256(content).hexdigest(), len(content))
    said = {f.name: getattr(draft, f.name) for f in fields(Draft)}
    manifest = Manifest(**said, files=entries)
    content = manifest.to_bytes()
    (folder / MANIFEST).write_bytes(content)
    when = datetime.strptime(draft.created, "%Y-%m-%dT%H:%M:%SZ")
    return manifest, f"{when:%Y%m%d-%H%M%S}-{hashlib.sha256(content).hexdigest()[:8]}"


def load(folder: Path, tag: str) -> Release:
    """Return the release in `folder`; its files are checked when they are read.

    Raises ReleaseError if the manifest is absent, unreadable, or not the one `tag` names.
    """
    name, _, version = tag.partition(":")
    if not (folder / MANIFEST).is_file():
        raise ReleaseError(f"{tag}: incomplete, there is no {MANIFEST} in {folder}; publish the model again")
    content = _read_plain(folder / MANIFEST, tag)
    digest = hashlib.sha256(content).hexdigest()
    if digest[:8] != version[-8:]:
        raise ReleaseError(f"{tag}: {MANIFEST} is not the one that was published (digest {digest[:8]})")
    try:
        manifest = _parse(json.loads(content))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ReleaseError(f"{tag}: {MANIFEST} cannot be read: {error}") from error
    if manifest.name != name:
        raise ReleaseError(f"{tag}: {MANIFEST} belongs to the model '{manifest.name}'")
    return Release(tag, folder, manifest, digest)


def _parse(said: dict[str, Any]) -> Manifest:
    spec = said["input"]
    categories = {column: tuple(values) for column, values in spec["categories"].items()}
    row = InputSpec(
        **spec | {"shape": tuple(spec["shape"]), "columns": tuple(spec["columns"]), "categories": categories}
    )
    files = {name: FileEntry(**entry) for name, entry in said["files"].items()}
    return Manifest(**said | {"input": row, "classes": tuple(said["classes"]), "files": files})


def _read_plain(path: Path, place: str) -> bytes:
    # A link, also a hard one, can lead to bytes that change after they were verified.
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        raise ReleaseError(f"{place}: {path.name} cannot be read: {error.strerror}") from error
    with os.fdopen(descriptor, "rb") as file:
        if os.fstat(descriptor).st_nlink != 1:
            raise ReleaseError(f"{place}: {path.name} is a hard link; a release holds plain files only")
        return file.read()
