"""The process beside a server: it pulls from a shared place again and again, and clears up after itself."""

import contextlib
import logging
import signal
import time
from collections.abc import Callable

from registry import aliases, collect, followed, share
from registry.errors import StackError, UserError
from registry.remote import Remote, name_of
from registry.share import TAKEN, Shared

log = logging.getLogger(__name__)


def follow(url: str, model: str, every_s: float, tell: Callable[[list[Shared]], None], keep: int = TAKEN) -> None:
    """Pull every `every_s` seconds until SIGTERM or SIGINT; what fails is logged once and tried again.

    From its first look on, the models there change there alone (`followed`). After a look that changed something, of
    the models that came over those releases go that came from there and that `vigil gc --keep` would not keep.
    A model whose following a person stops meanwhile is left alone until this is called again.
    Raises AliasError for a `keep` below 1, and where this store sends its changes to that very place.
    """
    followed.demand_follower(name_of(url), model)
    import bentoml.models  # noqa: F401 - takes a second: now, not when a release has to come over

    collect.Rule(keep)
    followed.resume(model)
    for ending in (signal.SIGTERM, signal.SIGINT):  # a script's `&` ignores the latter
        signal.signal(ending, signal.default_int_handler)  # also in the middle of a look: a killed one is continued
    said, compared = "", set[str]()
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            wrong: list[Exception] = []
            try:
                wrong += look(url, model, tell, keep, compared)
            except (UserError, OSError) as error:
                wrong.append(error)
            if (now := "; ".join(map(str, wrong))) != said and now:
                log.warning("sync_failed", extra={"error": now})
            said = now
            time.sleep(every_s)


def look(url: str, model: str, tell: Callable[[list[Shared]], None], keep: int, compared: set[str]) -> list[UserError]:
    """Look once and return what went wrong. compared: models whose every byte a good look has seen; grows."""
    remote = Remote(url)
    if model and not _is_taken(remote, model):
        return []
    listed = share.names_there(remote, model)
    if not model:
        _end(remote, listed)
    _begin(remote, listed)
    names = [name for name in listed if _is_taken(remote, name)]  # some may have been stopped meanwhile
    done, wrong = share.pull_each(remote, names, quick=compared)
    compared.update(one.model for one in done)
    if done or not any(isinstance(error, StackError) for error in wrong):
        followed.reached(remote.name)
    if found := [one for one in done if one.changed or one.releases]:
        tell(found)
        _collect(collect.Rule(keep, only={one.model: followed.brought(one.model) for one in found}))
    return wrong


def _is_taken(remote: Remote, model: str) -> bool:
    """Return whether a look is to bring `model`: neither stopped by a person, nor sent there since the start."""
    if followed.same(followed.place(model), remote.name):
        return True
    return not (followed.stopped(model) or followed.is_promoted_here(model, remote.name))


def _begin(remote: Remote, names: list[str]) -> None:
    """Write down who follows, before the first release comes: what no aliases are given for is no model."""
    for name in names:
        if followed.place(name) == remote.name or not _is_taken(remote, name):
            continue
        with contextlib.suppress(UserError):  # the look itself tells
            there = share.aliases_there(remote, name)[0]
            if there is not None and there.champion:
                with aliases.changing(name):  # a change under way comes first, the next one is refused
                    if _is_taken(remote, name):  # it may have been stopped meanwhile
                        followed.begin(name, remote.name)


def _end(remote: Remote, names: list[str]) -> None:
    for model in followed.models():
        if model not in names and followed.place(model) == remote.name:
            log.warning("follows_no_more", extra={"model": model, "place": remote.name})
            followed.end(model)


def _collect(rule: collect.Rule) -> None:
    going = [one.listing.tag for one in collect.collect(rule, lambda _: None) if not one.reason]
    if going:
        log.info("collected", extra={"releases": going})
