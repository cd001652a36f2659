"""Which release is live: champion, previous, challenger, and who changed it, when and why.

One JSON file per model beside the store, replaced as a whole under a lock: a reader sees the state
before a change or after it, with its history, never between. Champions form a line: `promote` adds to
its end, `rollback` takes the end away; a challenge asks about one champion, so either ends it. A copy beside
it (`<model>.json.bak`) is written after each change; never read instead, since it may be one change behind.
"""

import getpass
import json
import logging
import math
import os
import re
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from registry import durable, followed, hearing, store
from registry.errors import AliasError, UserError
from registry.gate import Live
from registry.release import NAME, VERSION, Release

log = logging.getLogger(__name__)

OLD_SHARE = 0.1  # of a challenger in a file from before challenges had a share


@dataclass(frozen=True)
class Pin:
    """A version together with its full digest: the same name with other bytes is refused."""

    version: str
    digest: str

    def __post_init__(self) -> None:
        if not VERSION.fullmatch(self.version) or not re.fullmatch("[0-9a-f]{64}", self.digest):
            raise ValueError(f"{self.version} {self.digest} is no version with its digest")


@dataclass(frozen=True)
class Challenge:
    """A release that also answers a share of the champion's requests, unseen, until labels judge it.

    share: above 0, at most 1. since_s: the Unix time from which its answers count.
    """

    pin: Pin
    share: float
    since_s: float

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise ValueError(f"{self.share} is no share above 0 and up to 1")

    @property
    def version(self) -> str:
        return self.pin.version


@dataclass(frozen=True)
class Change:
    """One line of the history. `accuracy` or `mae` is that of `to_version` on its held-out rows.

    action: promote, rollback, challenge or end; the last two leave the champion, which is then `from_version`,
    where it is. share: of a challenge. ended: the challenger whose challenge ended with this change. live: the verdict
    on labelled traffic that a promotion rests on.
    """

    time_s: float
    who: str
    why: str
    action: str
    from_version: str | None
    to_version: str
    forced: tuple[str, ...]
    accuracy: float | None = None
    mae: float | None = None
    share: float | None = None
    ended: str | None = None
    live: Live | None = None


@dataclass(frozen=True)
class Aliases:
    """chosen_s: the Unix time at which somebody last chose this history over another one, 0 if nobody did."""

    model: str
    line: tuple[Pin, ...] = ()
    challenger: Challenge | None = None
    history: tuple[Change, ...] = ()
    chosen_s: float = 0.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.chosen_s):
            raise ValueError(f"chosen_s: {self.chosen_s} is no time")

    @property
    def champion(self) -> Pin | None:
        return self.line[-1] if self.line else None

    @property
    def previous(self) -> Pin | None:
        return self.line[-2] if len(self.line) > 1 else None

    @property
    def needed(self) -> list[Pin]:
        """Return the releases by which a server of these aliases answers: champion and challenger."""
        return [pin for pin in (self.champion, self.challenger and self.challenger.pin) if pin]

    @property
    def changed_s(self) -> float:
        """Return the Unix time at which the champion last changed, 0 if it never did."""
        return max((c.time_s for c in self.history if c.action in ("promote", "rollback")), default=0.0)


def path(model: str) -> Path:
    """Return the alias file of `model`."""
    if not NAME.fullmatch(model):
        raise AliasError(f"'{model}' is not a model name; `vigil models` lists them")
    return store.home() / "aliases" / f"{model}.json"


def copy_of(model: str) -> Path:
    """Return the copy of the alias file of `model`."""
    return path(model).with_suffix(".json.bak")


def read(model: str) -> Aliases:
    """Return the aliases of `model`, empty if nothing was ever promoted; raises AliasError with the cure."""
    return load(model)[0]


def load(model: str) -> tuple[Aliases, bytes]:
    """Return the same with the bytes they were parsed from, which may hold what a newer program wrote; b"" if none."""
    place = path(model)
    try:
        content = place.read_bytes()
        return _parse(model, content), content
    except FileNotFoundError:
        return Aliases(model), b""
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise AliasError(f"{place}: cannot be read: {error}; {_cure(model)}") from error


def models() -> list[str]:
    """Return the models that have a champion."""
    return sorted(file.stem for file in (store.home() / "aliases").glob("*.json") if file.stem[0] != ".")


def present_models() -> list[str]:
    """Return the models that have a champion, and those that follow a place and will have one; none without any."""
    champions = models()
    return sorted({*champions, *followed.models()}) if champions else []


def only_model() -> str:
    """Return the one model of `present_models`; raises AliasError if there are none or several."""
    present = present_models()
    if not present:
        raise AliasError('no model has a champion; promote a release: vigil promote TAG --why "..."')
    if len(present) > 1:
        raise AliasError(
            f"{len(present)} models have a champion or follow a place: {', '.join(present)}; name one (--model, "
            "VIGIL_MODELS)"
        )
    return present[0]


def promote(tag: str, why: str, force: bool = False, live: Live | None = None) -> Change:
    """Make `tag` the champion of its model.

    Every file is verified first, and `hearing.objections` are heard: with any, AliasError, unless
    `force`, which records them in the history. Raises ReleaseError for an unknown or altered tag, AliasError where the
    model follows a shared place.
    live: says that the challenge under way should end so; then no held-out rows are compared.
    """
    name, _ = store.parts(tag)
    with followed.changing(name):
        followed.demand_own(name)
        release = store.open_release(tag)  # under the lock: nothing may collect it in between
        old = read(name)
        if old.champion and old.champion.version == release.version:
            raise AliasError(f"{tag}: is the champion already")
        against = hearing.objections(release, old) if live is None else hearing.against_live(release, old, live)
        if against and not force:
            raise AliasError(f"{tag}: not promoted: {hearing.told(against, release, old, live)}")
        change = replace(_change("promote", release, old, _reason(why), tuple(against)), live=live)
        line = (*old.line, Pin(release.version, release.digest))
        _write(replace(old, line=line, challenger=None, history=(*old.history, change)))
    return change


def refusal(tag: str) -> tuple[str, bool]:
    """Return why `promote` would refuse `tag` now and what would cure or overrule that; "" if it would not.

    And whether it is what the release is that speaks against it; a missing signature, for one, says nothing of that.
    """
    name, _ = store.parts(tag)
    try:
        followed.demand_own(name)
        release, state = store.open_release(tag), read(name)
    except UserError as error:
        return str(error), False
    against = hearing.objections(release, state)
    return (hearing.told(against, release, state), True) if against else ("", False)


def rollback(model: str, why: str) -> Change:
    """Make the champion before this one the champion again; raises AliasError if there is none."""
    with followed.changing(model):
        followed.demand_own(model)
        old = read(model)
        if old.previous is None:
            last = f"{old.champion.version} follows no other champion" if old.champion else "it has no champion"
            raise AliasError(
                f'{model}: nothing to roll back to; {last}; promote a release: vigil promote TAG --why "..."'
            )
        release = store.open_release(f"{model}:{old.previous.version}")
        if release.digest != old.previous.digest:
            raise AliasError(f"{release.tag}: is not the release that was promoted (its digest differs)")
        change = _change("rollback", release, old, _reason(why), ())
        _write(replace(old, line=old.line[:-1], challenger=None, history=(*old.history, change)))
    return change


def challenge(tag: str, share: float, why: str) -> Change:
    """Let `tag` also answer `share` of the champion's requests; a challenge of another release ends with it.

    A new share for the challenger of now keeps what was learnt about it. Every file is verified first.
    Raises ReleaseError for an unknown or altered tag, AliasError if no rows can compare it with a champion.
    """
    name, _ = store.parts(tag)
    if not 0 < share <= 1:
        raise AliasError(f"--share {share:g}: accepted is a share above 0 and up to 1, such as 10%")
    with followed.changing(name):
        followed.demand_own(name)
        release = store.open_release(tag)
        old = read(name)
        if against := hearing.unfit(release, old):
            raise AliasError(f"{tag}: cannot challenge: {'; '.join(against)}")
        change = replace(_change("challenge", release, old, _reason(why), ()), share=share)
        since_s = change.time_s
        if old.challenger and old.challenger.version == release.version:
            change, since_s = replace(change, ended=None), old.challenger.since_s
        pin = Pin(release.version, release.digest)
        _write(replace(old, challenger=Challenge(pin, share, since_s), history=(*old.history, change)))
    return change


def end_challenge(model: str, why: str) -> Change:
    """End the challenge of `model`, its champion stays; raises AliasError if none is under way."""
    with followed.changing(model):
        followed.demand_own(model)
        old = read(model)
        if old.challenger is None or old.champion is None:
            raise AliasError(f"{model}: no challenge is under way")
        pins = (old.champion.version, old.challenger.version)
        change = Change(time.time(), _who(), _reason(why), "end", *pins, (), ended=old.challenger.version)
        _write(replace(old, challenger=None, history=(*old.history, change)))
    return change


def adopt(new: Aliases, content: bytes, here: bytes, follows: str = "") -> None:
    """Make `new`, which comes from another store, the aliases of its model here.

    content: what it was parsed from, kept as it is, so that what a newer program wrote there is not lost. here: what it
    takes the place of. follows: the place that the model must still follow, "" if a person asked for it. Raises
    AliasError if it does not, if `here` was changed meanwhile, or a release that is needed was deleted.
    """
    with followed.changing(new.model):
        if follows:
            followed.demand_follows(new.model, follows)
        if load(new.model)[1] != here:
            raise AliasError(f"{new.model}: was changed here in the meantime; look again: vigil history")
        for pin in new.needed:
            if not (store.models() / new.model / pin.version).exists():
                raise AliasError(f"{new.model}:{pin.version}: was deleted here in the meantime; look again")
        _write(new, content)


def is_ahead(new: Aliases, old: Aliases) -> bool:
    """Return whether the history of `new` begins with that of `old`, and was not chosen before that one was."""
    return new.history[: len(old.history)] == old.history and new.chosen_s >= old.chosen_s


def parse(model: str, content: bytes, place: str) -> Aliases:
    """Return the aliases that the file `place` of another store holds; raises AliasError if they cannot be read."""
    try:
        said = _parse(model, content)
        if said.model != json.loads(content)["model"]:
            raise ValueError("they are those of another model")
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise AliasError(f"{place}: the aliases cannot be read: {error}") from error
    return said


def as_dict(aliases: Aliases) -> dict[str, Any]:
    """Return plain values, as stored and as `--json` prints them."""
    return asdict(aliases)


def to_bytes(aliases: Aliases) -> bytes:
    """Return the content of the alias file."""
    return json.dumps(as_dict(aliases), indent=1).encode()


def _change(action: str, to: Release, old: Aliases, why: str, forced: tuple[str, ...]) -> Change:
    before = old.champion.version if old.champion else None
    accuracy, mae = (to.manifest.metrics.get(metric, {}).get("value") for metric in ("accuracy", "mae"))
    ended = old.challenger.version if old.challenger else None
    return Change(time.time(), _who(), why, action, before, to.version, forced, accuracy, mae, None, ended)


def _who() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run under a number that has no name
        return f"uid {os.getuid()}"


def _reason(why: str) -> str:
    if not why.strip():
        raise AliasError('--why "" says nothing; the next person on call needs a reason')
    return why.strip()


def _write(aliases: Aliases, content: bytes = b"") -> None:
    content = content or to_bytes(aliases)
    place, copy = path(aliases.model), copy_of(aliases.model)
    for left in place.parent.glob(f".{place.name}*.tmp"):  # of a killed writer: the lock is ours now
        left.unlink()
    try:
        durable.write_atomically(place, content)
    except OSError as error:
        raise AliasError(f"{place}: cannot be written: {error.strerror}; make room and try again") from error
    try:
        durable.write_atomically(copy, content)
    except OSError as error:  # the change is made; only its copy is one behind
        log.warning("alias_copy_failed", extra={"file": str(copy), "error": error.strerror})


def _parse(model: str, content: bytes) -> Aliases:
    said = json.loads(content)
    challenger = _challenge(said["challenger"]) if said["challenger"] else None
    history = tuple(_parse_change(change) for change in said["history"])
    line = tuple(Pin(**_known(Pin, pin)) for pin in said["line"])
    return Aliases(model, line, challenger, history, float(said.get("chosen_s", 0)))


def _parse_change(said: dict[str, Any]) -> Change:
    live = Live(**_known(Live, said["live"])) if said.get("live") else None
    return Change(**_known(Change, said) | {"forced": tuple(said["forced"]), "live": live})


def _challenge(said: dict[str, Any]) -> Challenge:
    if "pin" not in said:  # as written before a challenger answered rows
        return Challenge(Pin(**_known(Pin, said)), OLD_SHARE, 0.0)
    return Challenge(**_known(Challenge, said) | {"pin": Pin(**_known(Pin, said["pin"]))})


def _known(kind: type, said: dict[str, Any]) -> dict[str, Any]:
    """Return what this program knows of a record: a newer one may write more, and replicas are older for a while."""
    names = {one.name for one in fields(kind)}
    return {name: value for name, value in said.items() if name in names}


def _cure(model: str) -> str:
    copy = copy_of(model)
    try:
        champion = _parse(model, copy.read_bytes()).champion
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return "restore it from a backup"
    said = champion.version if champion else "nothing"
    return f"its copy is whole and says that {said} is the champion; if that is so: cp {copy} {path(model)}"
