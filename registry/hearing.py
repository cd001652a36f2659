"""What speaks against a change of the aliases, as they are: the gate, what was rolled back from, another challenge."""

import time
from typing import TYPE_CHECKING

from registry import gate, store
from registry.errors import ReleaseError
from registry.gate import Live
from registry.plain import plain
from registry.release import Release

if TYPE_CHECKING:  # which asks here
    from registry.aliases import Aliases


def objections(release: Release, state: "Aliases") -> list[str]:
    """Return the reasons not to promote `release` now, as sentences: an old rollback away from it, and the gate's."""
    found = _left(release, state)
    # A champion that broke must not stand in the way of its own replacement: it is an objection, not an error.
    try:
        champion = store.open_release(f"{state.model}:{state.champion.version}") if state.champion else None
    except ReleaseError as error:
        return [*found, f"it cannot be compared with the champion: {error}"]
    return found + gate.objections(release, champion)


def against_live(release: Release, state: "Aliases", live: Live) -> list[str]:
    """Return the reasons not to promote what labels of the traffic speak for; they outweigh a rollback of before."""
    now = state.challenger
    pin = now and (now.version, now.pin.digest, now.since_s)
    if pin != (release.version, release.digest, live.since_s):
        return ["the challenge that the verdict is about is not under way any more"]
    return gate.unfit(release.manifest)


def unfit(release: Release, state: "Aliases") -> list[str]:
    """Return why `release` cannot challenge the champion."""
    if state.champion is None:
        return [f'{state.model} has no champion; make it one: vigil promote {release.tag} --why "..."']
    if state.champion.version == release.version:
        return ["it is the champion"]
    champion = store.open_release(f"{state.model}:{state.champion.version}")
    return gate.incomparable(champion, release) or gate.other_rows(champion, release)


def told(against: list[str], release: Release, state: "Aliases", live: Live | None = None) -> str:
    """Return objections as one text, with what else may judge and what overrules them."""
    other = "" if live else _by_traffic(release, state)
    return f"{'; '.join(against)}. {other}Override: --force, which is recorded"


def _by_traffic(release: Release, state: "Aliases") -> str:
    # How labels that come in may judge a release that the held-out rows do not speak for.
    now = state.challenger
    if now and now.version == release.version:
        return f"It challenges the champion now, what labels tell of it: vigil verdict {state.model}. "
    try:
        if state.champion is None or gate.unfit(release.manifest) or unfit(release, state):
            return ""
    except ReleaseError:  # the champion is broken
        return ""
    ends = f", which ends that of {now.version}" if now else ""
    return f'Let labels of the traffic judge it: vigil challenge {release.tag} --why "..."{ends}. '


def _left(release: Release, state: "Aliases") -> list[str]:
    # A promotion after the rollback overruled it.
    for change in reversed(state.history):
        if change.action == "promote" and change.to_version == release.version:
            return []
        if change.action == "rollback" and change.from_version == release.version:
            when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(change.time_s))
            return [f"it was rolled back from at {when} by {plain(f'{change.who}: {change.why}')}"]
    return []
