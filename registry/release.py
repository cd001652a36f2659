"""A release: a folder of files, a manifest that fixes every byte of them, and one digest over all.

The version ends in the first 8 hex digits of the digest, so a manifest cannot be exchanged for
another. Files are read through `Release.read`, which returns bytes it has checked: what was
verified is what gets loaded.

Two files lie beside the manifest and not in it, because they are written later: `model.yaml`, which
BentoML keeps for its own listing and nothing here reads, and `model.sig`, a signature over the rest.
"""

import hashlib
import io
import json
import os
import re
import stat
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
SIGNATURE = "model.sig"
BENTOML_FILE = "model.yaml"
NOT_IN_MANIFEST = frozenset({MANIFEST, BENTOML_FILE, SIGNATURE})
EMBEDDING = "embedding"  # the output of a graph that drift watches beside its answer
OUTPUTS = {"classification": "probabilities", "regression": "prediction"}
HEADLINE = {"classification": "accuracy", "regression": "mae"}
_TABLES = ("metrics", "baselines", "parity", "gate", "quality", "data", "config", "code")
_NUMBERS = {"parity": ("max_difference", "limit"), "gate": ("margin", "confidence"), "quality": ("floor",)}
MOST_MANIFEST_BYTES = 64_000_000
NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
VERSION = re.compile(r"\d{8}-\d{6}-[0-9a-f]{8}")
FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,97}")  # a plain name, and "./" before it fits the header of a tar


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
    number with `value`, `lower`, `upper`. parity: the certificate of the export, on the CPU and in `by_provider`
    on each; `variants`: what other precisions cost and gain, and why they were refused. gate: what
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
        with open_plain(self.path / file, self.tag) as opened:
            content = opened.read()
        self._demand(file, hashlib.sha256(content).hexdigest())
        return content

    def verify(self) -> None:
        """Check every file, and that nothing else is there; raises ReleaseError."""
        for file in self.manifest.files:
            with open_plain(self.path / file, self.tag) as opened:
                self._demand(file, hashlib.file_digest(opened, "sha256").hexdigest())
        there = {path.name for path in self.path.iterdir()}
        extra = sorted(there - NOT_IN_MANIFEST - self.manifest.files.keys())
        if extra:
            raise ReleaseError(f"{self.tag}: holds files that were not published: {', '.join(extra)}")
        for file in sorted(NOT_IN_MANIFEST & there):
            open_plain(self.path / file, self.tag).close()

    def _demand(self, file: str, found: str) -> None:
        expected = self.manifest.files[file].sha256
        if found != expected:
            raise ReleaseError(
                f"{self.tag}: {file} is not the file that was published (sha256 {found[:12]}..., "
                f"expected {expected[:12]}...); publish the model again"
            )


def seal(draft: Draft, folder: Path) -> tuple[Manifest, str]:
    """Write the manifest of the files in `folder`; return it with the version it fixes."""
    entries = {}
    for path in sorted(folder.iterdir()):
        if not FILE.fullmatch(path.name) or path.name in NOT_IN_MANIFEST:
            raise ReleaseError(f"{folder}: '{path.name}' is no name for a file of a release; choose another")
        with open_plain(path, str(folder)) as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            entries[path.name] = FileEntry(digest, file.tell())
    said = {f.name: getattr(draft, f.name) for f in fields(Draft)}
    manifest = Manifest(**said, files=entries)
    content = manifest.to_bytes()
    (folder / MANIFEST).write_bytes(content)
    return manifest, _version(draft.created, content)


def tag_of(folder: Path) -> str:
    """Return the tag that the manifest in `folder` fixes; raises ReleaseError if it is none of ours."""
    content = _manifest_bytes(folder, str(folder))
    manifest = _parse(content, str(folder))
    try:
        version = _version(manifest.created, content)
    except (ValueError, TypeError) as error:
        raise ReleaseError(f"{folder}: {MANIFEST}: created is not a time: {error}") from error
    if not isinstance(manifest.name, str) or not NAME.fullmatch(manifest.name):
        raise ReleaseError(f"{folder}: {MANIFEST}: {manifest.name!r} is not a model name")
    return f"{manifest.name}:{version}"


def load(folder: Path, tag: str) -> Release:
    """Return the release in `folder`; its files are checked when they are read.

    Raises ReleaseError if the manifest is absent, unreadable, or not the one `tag` names.
    """
    name, _, version = tag.partition(":")
    content = _manifest_bytes(folder, tag)
    digest = hashlib.sha256(content).hexdigest()
    if digest[:8] != version[-8:]:
        raise ReleaseError(f"{tag}: {MANIFEST} is not the one that was published (digest {digest[:8]})")
    manifest = _parse(content, tag)
    if manifest.name != name:
        raise ReleaseError(f"{tag}: {MANIFEST} belongs to the model '{manifest.name}'")
    return Release(tag, folder, manifest, digest)


def open_plain(path: Path, place: str) -> io.BufferedReader:
    """Return `path` opened for reading; raises ReleaseError unless it is a plain file with one name.

    A link, also a hard one, can lead to bytes that change after they were verified; a pipe never ends.
    """
    try:
        file = open(path, "rb", opener=_opener)  # noqa: SIM115 - the caller closes it
    except OSError as error:
        raise ReleaseError(f"{place}: {path.name} cannot be read: {error.strerror}") from error
    found = os.fstat(file.fileno())
    if stat.S_ISREG(found.st_mode) and found.st_nlink == 1:
        return file
    file.close()
    kind = "a hard link" if stat.S_ISREG(found.st_mode) else "no file"
    raise ReleaseError(f"{place}: {path.name} is {kind}; a release holds plain files only")


def _opener(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)  # without O_NONBLOCK, opening a pipe waits for ever


def _version(created: str, manifest: bytes) -> str:
    when = datetime.strptime(created, "%Y-%m-%dT%H:%M:%SZ")
    return f"{when:%Y%m%d-%H%M%S}-{hashlib.sha256(manifest).hexdigest()[:8]}"


def _manifest_bytes(folder: Path, place: str) -> bytes:
    if not (folder / MANIFEST).is_file():
        raise ReleaseError(f"{place}: incomplete, there is no {MANIFEST} in {folder}; publish the model again")
    with open_plain(folder / MANIFEST, place) as file:
        content = file.read(MOST_MANIFEST_BYTES + 1)
    if len(content) > MOST_MANIFEST_BYTES:
        raise ReleaseError(f"{place}: {MANIFEST} has more than {MOST_MANIFEST_BYTES / 1e6:g} MB")
    return content


def _parse(content: bytes, place: str) -> Manifest:
    try:
        manifest = _manifest(json.loads(content))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ReleaseError(f"{place}: {MANIFEST} cannot be read: {error}") from error
    outside = [name for name in manifest.files if not FILE.fullmatch(name) or name in NOT_IN_MANIFEST]
    if outside:
        raise ReleaseError(f"{place}: {MANIFEST} names '{outside[0]}', which is no file of a release")
    return manifest


def _manifest(said: dict[str, Any]) -> Manifest:
    spec = said["input"]
    categories = {column: tuple(values) for column, values in spec["categories"].items()}
    row = InputSpec(
        **spec | {"shape": tuple(spec["shape"]), "columns": tuple(spec["columns"]), "categories": categories}
    )
    files = {name: FileEntry(**entry) for name, entry in said["files"].items()}
    manifest = Manifest(**said | {"input": row, "classes": tuple(said["classes"]), "files": files})
    _demand_kinds(manifest)
    return manifest


def _demand_kinds(said: Manifest) -> None:
    # An archive comes from anywhere: what is listed, shown and judged without a further look must be of its kind.
    wrong = [key for key in _TABLES if not isinstance(getattr(said, key), dict)]
    wrong += [key for key in ("purpose", "precision") if not isinstance(getattr(said, key), str)]
    wrong += [] if said.task in OUTPUTS else ["task"]
    if wrong:
        raise ValueError(f"{wrong[0]} is not what a release says there")
    numbers = {"metrics.value": said.metrics.get(HEADLINE[said.task], {"value": 0.0})["value"]}
    for table, keys in _NUMBERS.items():
        numbers |= {f"{table}.{key}": getattr(said, table)[key] for key in keys if getattr(said, table)}
    for place, value in numbers.items():
        if type(value) not in (int, float):
            raise ValueError(f"{place} is not a number")
