"""How stores agree on the champion: one pushes releases and aliases to a shared place, the others pull (`following`).

A release is in the store, checked, before an alias names it (see `carry`). Histories only grow: whoever made changes
that the other side lacks is told, not overruled. A store that follows made none: it takes what the place has, unless
that is an earlier part of its own history, or was chosen before it. Who may write when: `followed`.
"""

import contextlib
import logging
import os
import shlex
import shutil
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace

from registry import aliases, carry, durable, followed, place, signing, store
from registry.aliases import Aliases, Pin
from registry.carry import Copied
from registry.errors import AliasError, ReleaseError, StackError, UserError
from registry.remote import Remote

log = logging.getLogger(__name__)

SENT = 5  # of the last champions, as many as `vigil gc` keeps
TAKEN = 2  # the champion, and the one that a rollback makes it


class DivergedError(AliasError):
    """The shared place has changes that this store lacks, or the other way round."""


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

    A killed pull continues where it stopped. What is to serve is brought anew if it is damaged here. model: only this
    one. overwrite: drop changes made here that are not there. Raises UserError with what hinders each model, after the
    others were done.
    """
    remote = Remote(url)
    names = place.names(remote, model)
    following = [name for name in names if followed.follows(name, remote.name)]
    return _whole(*pull_each(remote, names, following, overwrite))


def push(url: str, model: str = "", overwrite: bool = False) -> list[Shared]:
    """Send the aliases of this store to `url`, after the releases they name.

    Later changes go there too, but those of a model that follows `url` now: it only mends what is there, and is changed
    elsewhere.
    A push with no new aliases, or with `overwrite`, reads every file there and sends those that were damaged anew;
    for any other one a release is there if its manifest is. Champions of before that cannot be sent are logged.
    overwrite: drop changes made there that are not here; stores that follow, and took them, drop them too.
    """
    names = [model] if model else aliases.models()
    if not names:
        raise AliasError('no model has a champion; promote a release: vigil promote TAG --why "..."')
    remote = Remote(url)
    named = remote.name == url  # else there is a password in it, which is not written down
    done, wrong = _each(names, lambda name: _push_one(remote, name, overwrite, named))
    remote.clear([one.model for one in done])
    return _whole(done, wrong)


def demand_up_to_date(url: str, model: str) -> None:
    """Raise DivergedError if the place has changes of `model` that this store lacks: one made here could not be sent.

    Raises ConfigError for a URL that is none, AliasError if what is there cannot be read. A place that does not answer
    now hinders nobody.
    """
    mine = aliases.read(model)
    try:
        remote = Remote(url)
        there = place.read(remote, model)[0]
    except StackError as error:
        log.warning("place_not_asked", extra={"error": str(error)})
        return
    _demand_ours(remote, mine, there)


def pull_each(
    remote: Remote,
    names: list[str],
    following: Collection[str],
    overwrite: bool = False,
    quick: Collection[str] = (),
) -> tuple[list[Shared], list[UserError]]:
    """Do what `pull` does; return what came of each model and what hindered the others.

    following: taken because they follow the place, so no more once they do not (StoppedError); the others are taken
    because a person asked for it. quick: not compared anew.
    """
    incoming = store.home() / "incoming"
    with durable.locked(store.home() / "sync.lock"):
        done, wrong = _each(
            names, lambda name: _pull_one(remote, name, name in following, overwrite, name not in quick)
        )
        for one in done:
            followed.saw(one.model, remote.name)
            shutil.rmtree(incoming / one.model, ignore_errors=True)  # of a release that nobody wants any more
        with contextlib.suppress(OSError):  # another model has something there
            incoming.rmdir()
    return done, wrong


def _each(names: list[str], do: Callable[[str], Shared]) -> tuple[list[Shared], list[UserError]]:
    done, wrong = [], []
    for name in names:
        try:
            done.append(do(name))
        except UserError as error:
            wrong.append(error)
    return done, wrong


def _whole(done: list[Shared], wrong: list[UserError]) -> list[Shared]:
    if len(wrong) > 1:
        raise StackError("; ".join(map(str, wrong)))
    if wrong:
        raise wrong[0]
    return done


def _pull_one(remote: Remote, model: str, follows: bool, overwrite: bool, thorough: bool) -> Shared:
    if follows:  # it is asked again when all is here, but gigabytes need not come for nothing
        followed.demand_follows(model, remote.name)
    new, content = place.read_champion(remote, model)
    old, here = aliases.load(model)
    if content == here:
        return _shared(new, _keep_up(remote, new, thorough), False)
    if not aliases.is_ahead(new, old):
        if not (overwrite or (follows and _is_newer(new, old))):
            raise _diverged(remote, old, new)
        log.warning("changes_dropped", extra={"model": model, "place": remote.name, "last": _last(old)})
    taken = []
    for pin in _pins(new):
        if (copied := _take(remote, new, pin)) is not None:
            taken.append(copied)
    aliases.adopt(new, content, here, remote.name if follows else "")
    return _shared(new, taken, True)


def _is_newer(new: Aliases, old: Aliases) -> bool:
    """Return whether a store that follows goes from `old` to `new`, which does not go on where `old` ends.

    Since a good look at the place nothing changes here, so all of `old` came from there: nobody's change is lost. Where
    nobody chose, only two who changed the champion in the same moment part, and the place holds one of them.
    """
    if not followed.looked_s(new.model):
        return False
    return new.chosen_s > old.chosen_s or (new.chosen_s == old.chosen_s and not aliases.is_ahead(old, new))


def _keep_up(remote: Remote, new: Aliases, thorough: bool) -> list[Copied]:
    """Bring what the aliases need and what is damaged or gone here; thorough: every byte is looked at."""
    brought = []
    for pin in new.needed:
        if thorough or not carry.is_here(new.model, pin):
            brought.append(carry.take(remote, new.model, pin, needed=True))
    if os.environ.get(signing.VARIABLE):  # else a signature can wait for a change
        brought += [carry.renew_signature(remote, new.model, pin) for pin in _pins(new)]
    return [copied for copied in brought if copied is not None]


def _take(remote: Remote, new: Aliases, pin: Pin) -> Copied | None:
    needed = pin in new.needed
    try:
        return carry.take(remote, new.model, pin, needed)
    except ReleaseError as error:
        if needed:
            raise
        log.warning("previous_not_taken", extra={"error": str(error)})
        return None


def _push_one(remote: Remote, model: str, overwrite: bool, named: bool) -> Shared:
    """Send what the aliases need, then them, then the champions of before; all again if they were changed meanwhile."""
    sent: list[Copied] = []
    mends = followed.follows(model, remote.name)
    while True:
        mine, content = aliases.load(model)
        if mine.champion is None:
            raise AliasError(f"{model}: has no champion; promote a release, or name another model with --model")
        there, before = place.read(remote, model, overwrite)
        _demand_ours(remote, mine, there)
        same = before == content
        for pin in _pins(mine):
            sent += _give(remote, mine, pin, thorough=same or overwrite)
        with durable.locked(store.home() / "sent" / f"{model}.lock"):
            if aliases.load(model)[1] != content:
                continue
            _demand_ours(remote, mine, place.read(remote, model, overwrite)[0])
            if named and not mends:
                followed.remember(model, remote.name)
            if overwrite:
                _choose(remote, mine, content)
            elif not same:
                remote.write(f"aliases/{model}.json", content)
        break
    for pin in mine.line[-SENT:]:
        if pin not in _pins(mine):
            sent += _give(remote, mine, pin, thorough=same or overwrite)
    return _shared(mine, sent, not same)


def _choose(remote: Remote, mine: Aliases, here: bytes) -> None:
    """Write `mine` into the place as chosen over all that it had, and then here: without rights there, nothing is."""
    there = place.read_if_readable(remote, mine.model)
    chosen = replace(mine, chosen_s=max(time.time(), mine.chosen_s + 1, there.chosen_s + 1))
    content = aliases.to_bytes(chosen)
    remote.write(f"aliases/{mine.model}.json", content)
    aliases.adopt(chosen, content, here)


def _give(remote: Remote, mine: Aliases, pin: Pin, thorough: bool) -> list[Copied]:
    needed = pin in mine.needed
    if not needed and not carry.is_here(mine.model, pin):  # it may have been deleted
        return []
    try:
        copied = carry.give(remote, mine.model, pin, thorough)
    except UserError as error:
        if needed:
            raise
        log.warning("champion_of_before_not_sent", extra={"error": str(error)})
        copied = None
    return [] if copied is None else [copied]


def _pins(state: Aliases) -> list[Pin]:
    """Return the champions that a rollback needs, the last one last, and the challenger, each once."""
    return list(dict.fromkeys([*state.line[-TAKEN:], *state.needed]))


def _demand_ours(remote: Remote, mine: Aliases, there: Aliases | None) -> None:
    if there is not None and not aliases.is_ahead(mine, there):
        raise _diverged(remote, mine, there)


def _diverged(remote: Remote, mine: Aliases, there: Aliases) -> DivergedError:
    """Return the error that says who has what the other lacks, and what to type."""
    said = f"{shlex.quote(remote.name)} --model {mine.model}"
    sync, push = f"vigil models sync {said}", f"vigil models push {said}"
    if aliases.is_ahead(mine, there):
        text = f"this store has changes that {remote.name} has not ({_last(mine)})"
        return DivergedError(f"{mine.model}: {text}; send them: {push}, or drop them: {sync} --overwrite")
    text = f"{remote.name} has changes that this store has not ({_last(there)})"
    if aliases.is_ahead(there, mine):
        return DivergedError(f"{mine.model}: {text}; take them: {sync}")
    return DivergedError(
        f"{mine.model}: {text}, and this store has others ({_last(mine)}). Keep those there: {sync} --overwrite; or "
        f"those here: {push} --overwrite"
    )


def _shared(state: Aliases, copied: list[Copied], changed: bool) -> Shared:
    champion = state.champion.version if state.champion else ""
    versions, size = tuple(version for version, _ in copied), sum(size for _, size in copied)
    return Shared(state.model, champion, versions, size, changed)


def _last(state: Aliases) -> str:
    last = state.history[-1]
    return f"the last one: {last.action} {last.to_version} by {last.who}"
