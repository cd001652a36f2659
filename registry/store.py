"""The BentoML model store, made safe: a version is visible when it is whole, or not at all.

Plain `bentoml models list|get|export|import|delete` see the same releases.
"""

import errno
import hashlib
import os
import shutil
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from registry import durable, release, signing
from registry.errors import ReleaseError
from registry.release import HEADLINE, Draft, Release

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


def bento(tag: str) -> Path:
    """Return the folder of the Bento `tag`."""
    return bentoml_home() / "bentos" / tag.replace(":", "/")


def publish(draft: Draft, folder: Path) -> Release:
    """Seal the files in `folder` and put them into the store as one release.

    Nothing is visible unless every file was written, verified and synced. The given folder is not
    changed. Raises ReleaseError if the name is not accepted or this very release is there already.
    """
    if not release.NAME.fullmatch(draft.name):
        raise ReleaseError(f"model name '{draft.name}': accepted are a-z, 0-9, '-' and '_', at most 63")
    try:
        with workshop() as place:
            files = place / "files"
            shutil.copytree(folder, files)
            _, version = release.seal(draft, files)
            return admit(files, f"{draft.name}:{version}", place)
    except OSError as error:
        raise ReleaseError(f"{bentoml_home()}: {draft.name} was not published: {error}") from error


def demand_writable(name: str) -> None:
    """Raise ReleaseError if no release of the model `name` could be published: to be asked before it is trained."""
    try:
        with workshop():
            durable.make_folder(models())
            for folder in (models(), models() / name):
                if folder.exists() and not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
                    raise OSError(errno.EACCES, os.strerror(errno.EACCES), str(folder))
    except OSError as error:
        raise ReleaseError(
            f"{bentoml_home()}: is the store, and no release can be written there: {error}; make it a folder that you "
            "may write to, or set BENTOML_HOME to one"
        ) from error


def open_release(tag: str) -> Release:
    """Return the release `tag` ("name:version", exact) with every file verified.

    Raises ReleaseError if it is absent, incomplete, altered, or lacks the signature that
    `VIGIL_REQUIRE_SIGNATURE` demands.
    """
    name, version = parts(tag)
    return open_folder(models() / name / version, tag)


def open_folder(folder: Path, tag: str) -> Release:
    """Return the release in `folder`, wherever that is, under the same conditions as `open_release`."""
    opened = _load(folder, tag)
    opened.verify()
    signing.demand(opened)
    return opened


def parts(tag: str) -> tuple[str, str]:
    """Return name and version of a tag; raises ReleaseError if it is none."""
    name, _, version = tag.partition(":")
    if not release.NAME.fullmatch(name) or not release.VERSION.fullmatch(version):
        form = "accepted is name:version, as `vigil models` prints it"
        raise ReleaseError(f"'{tag}' is not a tag; {form}: {_such_as(name)}")
    return name, version


def _such_as(name: str) -> str:
    # The newest releases of `name`; of every model where it has none.
    tags = [f"{folder.parent.name}:{folder.name}" for folder in sorted(models().glob("*/*"))]
    ours = [tag for tag in tags if release.VERSION.fullmatch(tag.split(":")[1])]
    of = [tag for tag in ours if tag.split(":")[0] == name]
    newest = of[-3:] or list({tag.split(":")[0]: tag for tag in ours}.values())[:3]
    return f"the store has {', '.join(newest)}" if newest else "such as digits:20261126-102340-4be8cf64"


def releases(name: str | None = None) -> list[Listing]:
    """Return every version of `name`, or of all models, newest last; broken ones carry a problem.

    Raises ReleaseError for a name that would lead out of the store.
    """
    if name is not None and not release.FILE.fullmatch(name):
        raise ReleaseError(f"'{name}' is not a model name; `vigil models` lists them")
    found = []
    for folder in sorted(models().glob(f"{name or '*'}/*")):
        if folder.is_dir():
            listing = _listing(folder)
            if listing.problem is None or folder.is_dir():  # else it was collected while we looked
                found.append(listing)
    return found


@contextmanager
def workshop() -> Iterator[Path]:
    """Hold the store against other writers and give an empty folder on its disk, removed at the end."""
    with durable.locked(home() / "store.lock"):
        staging = home() / "staging"
        shutil.rmtree(staging, ignore_errors=True)  # what a killed writer left
        place = staging / uuid.uuid4().hex
        place.mkdir(parents=True)
        try:
            yield place
        finally:
            shutil.rmtree(place, ignore_errors=True)


def admit(files: Path, tag: str, place: Path, replace: bool = False) -> Release:
    """Move the sealed files of `tag` into the store; files: on its disk, empty afterwards. place: the workshop.

    Every byte is verified and synced before anything is visible. replace: what is there goes, because it is damaged;
    else that is refused. Raises ReleaseError.
    """
    name, version = parts(tag)
    if (models() / name / version).exists() and not replace:
        raise ReleaseError(f"{tag}: is in the store already")
    made = _with_bentoml(files, tag, place)
    release.load(made, tag).verify()
    durable.sync_tree(made)
    final = models() / name / version
    durable.make_folder(final.parent)
    if replace and final.exists():
        final.rename(place / "replaced")
    os.rename(made, final)
    durable.sync_folder(final.parent)
    mark_latest(name)
    return release.load(final, tag)


def mark_latest(name: str) -> None:
    """Write which version of `name` is the newest, for BentoML; a version starts with its time."""
    place = models() / name
    whole = [path.parent.name for path in place.glob(f"*/{release.MANIFEST}")]
    versions = [version for version in whole if release.VERSION.fullmatch(version)]
    if versions:
        durable.write_atomically(place / "latest", max(versions).encode())
    else:
        (place / "latest").unlink(missing_ok=True)


def sign(tag: str, key: Path) -> Release:
    """Put a signature made with the private key in `key` beside the files of `tag`; it replaces one that is there.

    Raises ReleaseError if a byte is not as published, ConfigError for a key that cannot sign.
    """
    name, version = parts(tag)
    try:
        with workshop() as place:
            opened = _load(models() / name / version, tag)
            opened.verify()
            made = signing.bundle(opened, key)
            mark = _signed_here(tag, made)
            durable.make_folder(mark.parent)
            durable.write_atomically(mark, b"")  # no place has it; before it is there: where it is not, nothing is sent
            _put_signature(opened.path, made, place)
    except OSError as error:
        raise ReleaseError(f"{tag}: was not signed: {error}") from error
    return opened


def owes_signature(tag: str, content: bytes, place: str) -> bool:
    """Return whether `content`, the signature of `tag`, was made here, and `place` never had it."""
    mark = _signed_here(tag, content)
    return mark.exists() and place not in mark.read_text().splitlines()


def signature_sent(tag: str, content: bytes, place: str) -> None:
    """Write down that `place` has `content`, the signature of `tag`, if it was made here."""
    if owes_signature(tag, content, place):
        mark = _signed_here(tag, content)
        durable.write_atomically(mark, f"{mark.read_text()}{place}\n".encode())


def add_signature(tag: str, content: bytes) -> None:
    """Put a signature that was made elsewhere beside the files of `tag`; whoever demands one judges it.

    Raises ReleaseError if it cannot be written.
    """
    name, version = parts(tag)
    try:
        with workshop() as place:
            _put_signature(models() / name / version, content, place)
    except OSError as error:
        raise ReleaseError(f"{tag}: its signature was not written: {error}") from error


def _signed_here(tag: str, content: bytes) -> Path:
    """Return the file that is there if this signature of `tag` was made here; it names the places that have it."""
    name, version = parts(tag)
    return home() / "signed" / name / f"{version}.{hashlib.sha256(content).hexdigest()}"


def _put_signature(folder: Path, content: bytes, place: Path) -> None:
    made = place / release.SIGNATURE
    durable.write_atomically(made, content)
    os.replace(made, folder / release.SIGNATURE)
    durable.sync_folder(folder)


def _load(folder: Path, tag: str) -> Release:
    if not folder.is_dir():
        raise ReleaseError(f"{tag}: not in the store {models()}; `vigil models` lists what is")
    return release.load(folder, tag)


def _with_bentoml(files: Path, tag: str, place: Path) -> Path:
    """Return a folder in `place` with the files of `tag` and the model.yaml that BentoML lists it by."""
    with warnings.catch_warnings():  # deprecations among BentoML's own dependencies
        warnings.simplefilter("ignore", DeprecationWarning)
        import bentoml.models  # 1 s: only a publisher pays for it
        from bentoml._internal.models import ModelStore

    (files / release.BENTOML_FILE).unlink(missing_ok=True)  # of an archive: another's word about the release
    said = release.load(files, tag).manifest
    headline = {m: said.metrics[m]["value"] for m in (*HEADLINE.values(), "within_tolerance") if m in said.metrics}
    labels = {"project": "vigil", "task": said.task}
    (place / "models").mkdir()
    store = ModelStore(place / "models")
    with bentoml.models.create(tag, labels=labels, metadata=headline, _model_store=store):
        pass  # only its model.yaml: what is put in here is copied twice, once to the disk of temporary files
    name, version = parts(tag)
    made = place / "models" / name / version
    shutil.copytree(files, made, dirs_exist_ok=True, copy_function=os.replace)
    return made


def _listing(folder: Path) -> Listing:
    tag = f"{folder.parent.name}:{folder.name}"
    size = _size(folder)
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
        tag, said.created, size, metric, said.metrics.get(metric, {}).get("value"), said.precision,
        signed=(folder / release.SIGNATURE).exists(),
        problem=f"{tag}: {wrong[0]} has the wrong size" if wrong else None,
    )  # fmt: skip


def _size(folder: Path) -> int:
    try:
        return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
    except OSError:  # a file went while we looked
        return 0
