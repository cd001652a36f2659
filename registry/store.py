"""The BentoML model store, made safe: a version is visible when it is whole, or not at all.

Plain `bentoml models list|get|export|import|delete` see the same releases.
"""

import os
import shutil
import uuid
import warnings
from dataclasses import dataclass
from pathlib import Path

from registry import durable, release
from registry.errors import ReleaseError
from registry.release import Draft, Release

HEADLINE = {"classification": "accuracy", "regression": "mae"}

os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")  # read when bentoml is first imported


@dataclass(frozen=True)
class Listing:
    """One version in the store; `problem` says why it cannot be used.

    metric, value: the headline of its task. ours: whether its name is that of a release; BentoML's
    store may hold other models beside. signed: a signature is there; `open_release` judges it.
    """

    tag: str
    created: str = ""
    size_bytes: int = 0
    metric: str = ""
    value: float | None = None
    precision: str = ""
    signed: bool = False
    ours: bool = True
    problem: str | None = None


def bentoml_home() -> Path:
    """Return the folder BentoML keeps its store in: `$BENTOML_HOME`, else `~/bentoml`."""
    return Path(os.environ.get("BENTOML_HOME") or Path.home() / "bentoml")


def home() -> Path:
    """Return Vigil's own folder beside the store: aliases, locks and the prediction log."""
    return bentoml_home() / "vigil"


def models() -> Path:
    """Return the folder of the store: `<name>/<version>/`."""
    return bentoml_home() / "models"


def publish(draft: Draft, folder: Path) -> Release:
    """Put the files in `folder` into the store as a new version of `draft.name`.

    Either the whole version is visible afterwards, verified and on disk, or none of it,
    also when the process is killed. Raises ReleaseError; `folder` is left as it was.
    """
    if not release.NAME.fullmatch(draft.name):
        raise ReleaseError(f"model name '{draft.name}': accepted are a-z, 0-9, '-' and '_', at most 63")
    with durable.locked(home() / "store.lock"):
        staging = home() / "staging"
        shutil.rmtree(staging, ignore_errors=True)  # what a killed publisher left
        workshop = staging / uuid.uuid4().hex
        workshop.mkdir(parents=True)
        try:
            return _publish(draft, folder, workshop)
        finally:
            shutil.rmtree(workshop, ignore_errors=True)


def open_release(tag: str) -> Release:
    """Return the release `tag` ("name:version", exact) with every file verified.

    Raises ReleaseError if it is absent, incomplete or altered.
    """
    name, version = parts(tag)
    folder = models() / name / version
    if not folder.is_dir():
        raise ReleaseError(f"{tag}: not in the store {models()}; `vigil models` lists what is")
    return open_folder(folder, tag)


def open_folder(folder: Path, tag: str) -> Release:
    """Return the release in `folder`, wherever that is, under the same conditions as `open_release`."""
    opened = release.load(folder, tag)
    opened.verify()
    return opened


def parts(tag: str) -> tuple[str, str]:
    """Return name and version of a tag; raises ReleaseError if it is none."""
    name, _, version = tag.partition(":")
    if not release.NAME.fullmatch(name) or not release.VERSION.fullmatch(version):
        raise ReleaseError(f"'{tag}' is not a tag; accepted is name:version, as `vigil models` prints it")
    return name, version


def releases(name: str | None = None) -> list[Listing]:
    """Return every version of `name`, or of all models, newest last; broken ones carry a problem."""
    folders = sorted(models().glob(f"{name or '*'}/*"))
    return [_listing(folder) for folder in folders if folder.is_dir()]


def _publish(draft: Draft, folder: Path, workshop: Path) -> Release:
    with warnings.catch_warnings():  # deprecations among BentoML's own dependencies
        warnings.simplefilter("ignore", DeprecationWarning)
        import bentoml.models  # 1 s: only a publisher pays for it
        from bentoml._internal.models import ModelStore

    files = workshop / "files"
    shutil.copytree(folder, files)
    _, version = release.seal(draft, files)
    tag = f"{draft.name}:{version}"
    headline = {m: draft.metrics[m]["value"] for m in (*HEADLINE.values(), "within_tolerance") if m in draft.metrics}
    labels = {"project": "vigil", "task": draft.task}
    (workshop / "models").mkdir()
    store = ModelStore(workshop / "models")
    with bentoml.models.create(tag, labels=labels, metadata=headline, _model_store=store) as model:
        shutil.copytree(files, model.path, dirs_exist_ok=True)
    made = workshop / "models" / draft.name / version
    release.load(made, tag).verify()
    durable.sync_tree(made)
    return _reveal(made, tag)


def _reveal(made: Path, tag: str) -> Release:
    final = models() / made.parent.name / made.name
    if final.exists():
        raise ReleaseError(f"{tag}: is in the store already")
    final.parent.mkdir(parents=True, exist_ok=True)
    os.rename(made, final)
    durable.sync_folder(final.parent)
    durable.write_atomically(final.parent / "latest", made.name.encode())
    return release.load(final, tag)


def _listing(folder: Path) -> Listing:
    tag = f"{folder.parent.name}:{folder.name}"
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if not release.NAME.fullmatch(folder.parent.name) or not release.VERSION.fullmatch(folder.name):
        return Listing(tag, size_bytes=size, ours=False, problem="is not a release: another model in BentoML's store")
    try:
        opened = release.load(folder, tag)
        sizes = {file: (folder / file).stat().st_size for file in opened.manifest.files}
    except (ReleaseError, OSError) as error:
        return Listing(tag, size_bytes=size, problem=str(error))
    said = opened.manifest
    wrong = [file for file, entry in said.files.items() if sizes[file] != entry.size_bytes]
    metric = HEADLINE[said.task]
    return Listing(
        tag, said.created, size, metric, said.metrics.get(metric, {}).get("value"), said.parity.get("precision", ""),
        signed=(folder / release.SIGNATURE).exists(),
        problem=f"{tag}: {wrong[0]} has the wrong size" if wrong else None,
    )  # fmt: skip
