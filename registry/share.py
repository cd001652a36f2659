"""How stores agree on the champion: one pushes releases and aliases to a shared place, the others follow it.

What is taken is checked as if it came from anybody: the alias names the digest of a manifest, the manifest
those of the files, and where a signature is demanded there must be one. A release is in the store before
an alias names it. Histories only grow: whoever has changes that the other side lacks is told, not overruled.
"""

import hashlib
import logging
import os
import shutil
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from registry import aliases, collect, durable, followed, release, signing, store
from registry.aliases import Aliases, Pin
from registry.errors import AliasError, ReleaseError, StackError, UserError
from registry.release import MANIFEST, MOST_MANIFEST_BYTES, SIGNATURE, Release, open_plain
from registry.remote import Remote
from registry.signing import MOST_BYTES as MOST_SIGNATURE_BYTES

log = logging.getLogger(__name__)

SENT = 5  # of the last champions, as many as `vigil gc` keeps
TAKEN = 2  # the champion, and the one that a rollback makes it
MOST_ALIAS_BYTES = 64_000_000
MOST_RELEASE_BYTES = 8_000_000_000

Copied = tuple[str, int]  # a version, and the bytes of it that were copied


@dataclass(frozen=True)
class Shared:
    """What became of one model. releases, size_bytes: what had to be copied. changed: whether the aliases were."""

    model: str
    champion: str
    releases: tuple[str, ...] = ()
    size_bytes: int = 0
    changed: bool = False


def pull(url: str, model: str = "", overwrite: bool = False) -> list[Shared]:
    """Make the aliases of the models at `url` those of this store, after the releases they name came over.

    A killed pull continues where it stopped. model: only this one. overwrite: drop changes made here that are not
    there. Raises UserError with what hinders each model, after the others were done.
    """
    remote = Remote(url)
    names = [model] if model else [n.removesuffix(".json") for n in remote.names("aliases") if n.endswith(".json")]
    if not names:
        raise StackError(f"{remote.name}: holds no releases; send some: vigil models push {remote.name}")
    with durable.locked(store.home() / "sync.lock"):
        done = _each(names, lambda name: _pull_one(remote, name, overwrite))
        shutil.rmtree(store.home() / "incoming", ignore_errors=True)  # of a release that nobody wants any more
    return done


def push(url: str, model: str = "", overwrite: bool = False) -> list[Shared]:
    """Send the aliases of this store to `url`, after the releases they name; see `pull`.

    A push with no new aliases, or with `overwrite`, reads every file there and sends those that were damaged anew;
    any other one looks at their sizes.
    """
    names = [model] if model else aliases.models()
    if not names:
        raise AliasError('no model has a champion; promote a release: vigil promote TAG --why "..."')
    remote = Remote(url)
    return _each(names, lambda name: _push_one(remote, name, overwrite))


def follow(url: str, model: str, every_s: float, tell: Callable[[list[Shared]], None], keep: int = TAKEN) -> None:
    """Pull every `every_s` seconds until SIGTERM or SIGINT; a look that fails is logged and tried again.

    After each look that succeeds, the file `synced` beside the aliases has the time of that. After one that changed
    something, releases that came from there go as with `vigil gc --keep`; those published here stay.
    """
    rule = collect.Rule(keep, named=True)
    import bentoml.models  # noqa: F401 - takes a second: now, not when a release has to come over

    ended, said = threading.Event(), ""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    while not ended.is_set():
        try:
            found = [one for one in pull(url, model) if one.changed or one.releases]
            tell(found)
            followed.mark(Remote(url).name)
            if found:
                _collect(rule)
            said = ""
        except (UserError, OSError) as error:
            if str(error) != said:
                log.warning("sync_failed", extra={"error": str(error)})
            said = str(error)
        ended.wait(every_s)


def _collect(rule: collect.Rule) -> None:
    going = [one.listing.tag for one in collect.collect(rule, lambda _: None) if not one.reason]
    if going:
        log.info("collected", extra={"releases": going})


def _each(names: list[str], do: Callable[[str], Shared]) -> list[Shared]:
    done, wrong = [], []
    for name in names:
        try:
            done.append(do(name))
        except UserError as error:
            wrong.append(error)
    if len(wrong) > 1:
        raise StackError("; ".join(map(str, wrong)))
    if wrong:
        raise wrong[0]
    return done


def _pull_one(remote: Remote, model: str, overwrite: bool) -> Shared:
    content, old = _content(remote, model), Aliases(model) if overwrite else aliases.read(model)
    new = _parsed(remote, model, content)
    if content is None or new is None or new.champion is None:
        raise AliasError(f"{remote.name}: {model} has no champion there; vigil models push {remote.name} sends it")
    if new == old:
        demanded = _named(new, TAKEN) if os.environ.get(signing.VARIABLE) else []  # else it can wait for a change
        renewed = [got for pin in demanded if (got := _renew_signature(remote, model, pin)) is not None]
        return _shared(new, renewed, False)
    if not aliases.is_ahead(new, old):
        raise AliasError(
            f"{model}: this store has changes that {remote.name} has not ({_last(old)}); "
            f"send them: vigil models push {remote.name}, or drop them: --overwrite"
        )
    taken = [made for pin in _named(new, TAKEN) if (made := _take(remote, model, pin, new.champion)) is not None]
    aliases.adopt(new, content, overwrite)
    return _shared(new, taken, True)


def _push_one(remote: Remote, model: str, overwrite: bool) -> Shared:
    mine, there = aliases.read(model), None if overwrite else _parsed(remote, model, _content(remote, model))
    if mine.champion is None:
        raise AliasError(f"{model}: has no champion; promote a release, or name another model with --model")
    if there is not None and not aliases.is_ahead(mine, there):
        raise AliasError(
            f"{model}: {remote.name} has changes that this store has not ({_last(there)}); "
            f"take them: vigil models sync {remote.name}, or drop them: --overwrite"
        )
    same = there == mine
    sent = [
        made
        for pin in _named(mine, SENT)
        if (pin == mine.champion or _is_here(model, pin))  # one of before may have been deleted here
        and (made := _give(remote, model, pin, thorough=same or overwrite)) is not None
    ]
    if not same:
        remote.write(f"aliases/{model}.json", aliases.to_bytes(mine))
    return _shared(mine, sent, not same)


def _named(state: Aliases, champions: int) -> list[Pin]:
    """Return the last `champions` in line and the challenger, each once."""
    return list(dict.fromkeys([*state.line[-champions:], *([state.challenger.pin] if state.challenger else [])]))


def _content(remote: Remote, model: str) -> bytes | None:
    aliases.path(model)  # raises AliasError for a name that would lead elsewhere
    return remote.read(f"aliases/{model}.json", MOST_ALIAS_BYTES)


def _parsed(remote: Remote, model: str, content: bytes | None) -> Aliases | None:
    return None if content is None else aliases.parse(model, content, f"{remote.name}/aliases/{model}.json")


def _give(remote: Remote, model: str, pin: Pin, thorough: bool) -> Copied | None:
    """Send what the place lacks of a release, its manifest last; thorough: read what it has, else look at sizes."""
    folder, tag = f"models/{model}/{pin.version}", f"{model}:{pin.version}"
    opened = store.open_release(tag)
    _demand(opened, pin)
    lacking = []
    if (opened.path / SIGNATURE).exists():  # it may have been made after the last push
        with open_plain(opened.path / SIGNATURE, tag) as file:
            content = file.read()
        if not remote.holds(f"{folder}/{SIGNATURE}", len(content), hashlib.sha256(content).hexdigest()):
            lacking.append(SIGNATURE)
    whole = remote.holds(f"{folder}/{MANIFEST}", (opened.path / MANIFEST).stat().st_size, pin.digest)
    for name, entry in sorted(opened.manifest.files.items()):
        if not whole or not remote.holds(f"{folder}/{name}", entry.size_bytes, entry.sha256 if thorough else ""):
            lacking.append(name)
    size = 0
    for name in [*lacking, *([] if whole else [MANIFEST])]:
        with open_plain(opened.path / name, tag) as file:
            remote.send(f"{folder}/{name}", file)
            size += file.tell()
    return (pin.version, size) if size else None


def _is_here(model: str, pin: Pin) -> bool:
    return (store.models() / model / pin.version).exists()


def _take(remote: Remote, model: str, pin: Pin, champion: Pin) -> Copied | None:
    """Bring a release that is not here yet; one of before that is not there either is left out.

    Raises ReleaseError if it is not the one that `pin` names.
    """
    tag = f"{model}:{pin.version}"
    if _is_here(model, pin):
        renewed = _renew_signature(remote, model, pin)
        _demand(store.open_release(tag), pin)
        return renewed
    if pin != champion and MANIFEST not in remote.names(f"models/{model}/{pin.version}"):
        return None
    incoming = store.home() / "incoming" / f"{model}-{pin.version}"  # it stays when this process is killed
    durable.make_folder(incoming)
    try:
        _bring(remote, model, pin, incoming)
        opened = _open_brought(incoming, tag)
        _demand(opened, pin)
        with store.workshop() as place:
            store.admit(incoming, tag, place)
    except OSError as error:
        raise ReleaseError(f"{tag}: cannot be put into {store.models()}: {error.strerror or error}") from error
    shutil.rmtree(incoming)
    return pin.version, sum(entry.size_bytes for entry in opened.manifest.files.values())


def _renew_signature(remote: Remote, model: str, pin: Pin) -> Copied | None:
    """Bring the signature of a release that is here without a good one: it may have been made after the release."""
    tag, folder = f"{model}:{pin.version}", store.models() / model / pin.version
    if not folder.exists() or not _lacks_signature(folder, tag):
        return None
    there = remote.read(f"models/{model}/{pin.version}/{SIGNATURE}", MOST_SIGNATURE_BYTES)
    if there is None or ((folder / SIGNATURE).exists() and (folder / SIGNATURE).read_bytes() == there):
        return None
    store.add_signature(tag, there)
    return pin.version, len(there)


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
    folder, tag = f"models/{model}/{pin.version}", f"{model}:{pin.version}"
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


def _shared(state: Aliases, copied: list[Copied], changed: bool) -> Shared:
    champion = state.champion.version if state.champion else ""
    versions, size = tuple(version for version, _ in copied), sum(size for _, size in copied)
    return Shared(state.model, champion, versions, size, changed)


def _last(state: Aliases) -> str:
    last = state.history[-1]
    return f"the last one: {last.action} {last.to_version} by {last.who}"
