"""One release on its way: to a shared place, file by file with the manifest last, and from there into a store.

What is taken is checked as if it came from anybody: the pin names the digest of the manifest, the manifest those of the
files, and where a signature is demanded there must be one.
"""

import hashlib
import logging
import os
import shutil
from pathlib import Path

from registry import durable, followed, release, signing, store
from registry.aliases import Pin
from registry.errors import ReleaseError
from registry.release import MANIFEST, MOST_MANIFEST_BYTES, SIGNATURE, Release, open_plain
from registry.remote import Remote
from registry.signing import MOST_BYTES as MOST_SIGNATURE_BYTES

log = logging.getLogger(__name__)

MOST_RELEASE_BYTES = 8_000_000_000

Copied = tuple[str, int]  # a version, and the bytes of it that were copied


def is_here(model: str, pin: Pin) -> bool:
    """Return whether something lies in this store where that release would; its bytes are not looked at."""
    return _here(model, pin).exists()


def give(remote: Remote, model: str, pin: Pin, thorough: bool) -> Copied | None:
    """Send what the place lacks of a release, its manifest last; None if it lacks nothing.

    thorough: read every file that is there; else the manifest, which was sent last, speaks for the others. Raises
    ReleaseError if the release here is not whole or not the one of `pin`, StackError if the place cannot be reached.
    """
    folder, tag = _there(model, pin), f"{model}:{pin.version}"
    whole = _holds_manifest(remote, folder, pin)
    lacking: list[str] = []
    if thorough or not whole:
        opened = store.open_release(tag)
        _demand(opened, pin)
        lacking = [
            name
            for name, entry in sorted(opened.manifest.files.items())
            if not whole or not remote.holds(f"{folder}/{name}", entry.size_bytes, entry.sha256)
        ]
    size = _give_signature(remote, model, pin)
    for name in [*lacking, *([] if whole else [MANIFEST])]:
        with open_plain(_here(model, pin) / name, tag) as file:
            remote.send(f"{folder}/{name}", file)
            size += file.tell()
    return (pin.version, size) if size else None


def take(remote: Remote, model: str, pin: Pin, needed: bool) -> Copied | None:
    """Bring a release that is not here yet; None if nothing had to be copied.

    needed: it must be here and whole at the end, so one that is damaged here is brought anew; else one that is not
    there is left out. Raises ReleaseError if it cannot be had as `pin` names it, StackError if the place is silent.
    """
    tag, here = f"{model}:{pin.version}", is_here(model, pin)
    if here:
        renewed = renew_signature(remote, model, pin)
        if not needed or _is_whole(tag, pin):
            return renewed
    elif not needed and not _holds_manifest(remote, _there(model, pin), pin):
        return None
    incoming = store.home() / "incoming" / model / pin.version  # it stays when this process is killed
    durable.make_folder(incoming)
    try:
        _bring(remote, model, pin, incoming)
        opened = _open_brought(incoming, tag)
        _demand(opened, pin)
        size = sum(entry.size_bytes for entry in opened.manifest.files.values())
        if not here:
            followed.add_brought(model, pin.version)  # before it is: nobody else would ever delete it
        with store.workshop() as place:
            store.admit(incoming, tag, place, replace=here)
    except OSError as error:
        raise ReleaseError(f"{tag}: cannot be put into {store.models()}: {error.strerror or error}") from error
    shutil.rmtree(incoming)
    return pin.version, size


def renew_signature(remote: Remote, model: str, pin: Pin) -> Copied | None:
    """Bring the signature of a release that is here without a good one: it may have been made after the release."""
    tag, folder = f"{model}:{pin.version}", _here(model, pin)
    if not folder.exists() or not _lacks_signature(folder, tag):
        return None
    there = remote.read(f"{_there(model, pin)}/{SIGNATURE}", MOST_SIGNATURE_BYTES)
    if there is None or there == _signature(model, pin):
        return None
    store.add_signature(tag, there)
    return pin.version, len(there)


def _here(model: str, pin: Pin) -> Path:
    return store.models() / model / pin.version


def _there(model: str, pin: Pin) -> str:
    return f"models/{model}/{pin.version}"


def _holds_manifest(remote: Remote, folder: str, pin: Pin) -> bool:
    manifest = remote.read(f"{folder}/{MANIFEST}", MOST_MANIFEST_BYTES)
    return manifest is not None and hashlib.sha256(manifest).hexdigest() == pin.digest


def _signature(model: str, pin: Pin) -> bytes | None:
    path = _here(model, pin) / SIGNATURE
    if not path.exists():
        return None
    with open_plain(path, f"{model}:{pin.version}") as file:
        return file.read()


def _give_signature(remote: Remote, model: str, pin: Pin) -> int:
    """Send the signature if the place has none, or never had this one, which was made here; return its size."""
    mine, tag, path = _signature(model, pin), f"{model}:{pin.version}", f"{_there(model, pin)}/{SIGNATURE}"
    if mine is None:
        return 0
    there = remote.read(path, MOST_SIGNATURE_BYTES)
    lacks = there is None or (mine != there and store.owes_signature(tag, mine, remote.name))
    if lacks:
        remote.write(path, mine)
    if lacks or mine == there:
        store.signature_sent(tag, mine, remote.name)
    return len(mine) if lacks else 0


def _is_whole(tag: str, pin: Pin) -> bool:
    try:
        opened = store.open_release(tag)
    except ReleaseError as error:
        log.warning("release_brought_anew", extra={"release": tag, "error": str(error)})
        return False
    _demand(opened, pin)
    return True


def _lacks_signature(folder: Path, tag: str) -> bool:
    if not os.environ.get(signing.VARIABLE):
        return not (folder / SIGNATURE).exists()
    try:
        signing.demand(release.load(folder, tag))
    except ReleaseError:
        return True
    return False


def _open_brought(incoming: Path, tag: str) -> Release:
    try:
        return store.open_folder(incoming, tag)
    except ReleaseError:
        shutil.rmtree(incoming)  # what was left there by whatever cause must not hinder every later look
        raise


def _bring(remote: Remote, model: str, pin: Pin, incoming: Path) -> None:
    folder, tag = _there(model, pin), f"{model}:{pin.version}"
    manifest = remote.read(f"{folder}/{MANIFEST}", MOST_MANIFEST_BYTES)
    if manifest is None or hashlib.sha256(manifest).hexdigest() != pin.digest:
        found = "is not there" if manifest is None else "is not the one that was promoted (its digest differs)"
        raise ReleaseError(f"{remote.name}: {tag}: {MANIFEST} {found}; vigil models push {remote.name} sends it")
    (incoming / MANIFEST).write_bytes(manifest)
    if (signature := remote.read(f"{folder}/{SIGNATURE}", MOST_SIGNATURE_BYTES)) is not None:
        (incoming / SIGNATURE).write_bytes(signature)
    loaded = release.load(incoming, tag)
    signing.demand(loaded)  # before gigabytes come over that nobody may use
    files = loaded.manifest.files
    if sum(entry.size_bytes for entry in files.values()) > MOST_RELEASE_BYTES:
        raise ReleaseError(f"{remote.name}: {tag}: holds more than {MOST_RELEASE_BYTES / 1e9:g} GB")
    for name, entry in files.items():
        # A name can outlive a power cut that its bytes did not: the digest is asked of what was brought before, too.
        if not (incoming / name).exists() or _sha256(incoming / name) != entry.sha256:
            part = incoming.with_name(f"{incoming.name}.{name}.part")
            remote.fetch(f"{folder}/{name}", part, entry.size_bytes)
            if (found := _sha256(part)) != entry.sha256:
                part.unlink()  # the next look brings all of it
                raise ReleaseError(
                    f"{remote.name}: {tag}: {name} is not the file that was published (sha256 {found[:12]}..., "
                    f"expected {entry.sha256[:12]}...); vigil models push {remote.name} sends it again"
                )
            os.replace(part, incoming / name)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _demand(opened: Release, pin: Pin) -> None:
    if opened.digest != pin.digest:
        raise ReleaseError(f"{opened.tag}: is not the release that was promoted (its digest differs)")
