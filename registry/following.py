"""The process beside a server: it pulls from a shared place again and again, and clears up after itself."""

import contextlib
import logging
import signal
import time
from collections.abc import Callable

from registry import collect, followed, place, share
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
    listed = place.names(remote, model)
    if not model:
        _end(remote, listed)
    wrong = _begin(remote, listed)
    names = [name for name in listed if followed.follows(name, remote.name)]
    if model and not names and not wrong:
        remote.names("aliases")  # a look that is to take nothing reaches the place, too
    done, hindered = share.pull_each(remote, names, following=names, quick=compared)
    wrong += _but_stopped(hindered)
    compared.update(one.model for one in done)
    if done or not any(isinstance(error, StackError) for error in wrong):
        followed.reached(remote.name)
    if found := [one for one in done if one.changed or one.releases]:
        tell(found)
        _collect(collect.Rule(keep, only=_may_go(remote, {one.model for one in found})))
    return wrong


def _but_stopped(hindered: list[UserError]) -> list[UserError]:
    """Return what went wrong; that a person stopped a model meanwhile is only logged."""
    for error in hindered:
        if isinstance(error, followed.StoppedError):
            log.info("stopped_meanwhile", extra={"reason": str(error)})
    return [error for error in hindered if not isinstance(error, followed.StoppedError)]


def _begin(remote: Remote, names: list[str]) -> list[UserError]:
    """Write down who follows, before the first release comes; return why models that are given there cannot be."""
    wrong: list[UserError] = []
    for name in names:
        if followed.follows(name, remote.name) or not followed.may_begin(name, remote.name):
            continue
        try:
            place.read_champion(remote, name)  # what has none there is no model
            followed.begin(name, remote.name)
        except UserError as error:
            wrong.append(error)
    return wrong


def _end(remote: Remote, names: list[str]) -> None:
    for model in followed.models():
        if model not in names and followed.follows(model, remote.name):
            log.warning("follows_no_more", extra={"model": model, "place": remote.name})
            followed.end(model, remote.name)


def _may_go(remote: Remote, came: set[str]) -> Callable[[str], frozenset[str]]:
    """Return what names the versions of a model that may go: of those that came over and follow the place still."""
    return lambda model: (
        followed.brought(model) if model in came and followed.follows(model, remote.name) else frozenset()
    )


def _collect(rule: collect.Rule) -> None:
    going = [one.listing.tag for one in collect.collect(rule, lambda _: None) if not one.reason]
    if going:
        log.info("collected", extra={"releases": going})
