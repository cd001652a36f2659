"""Garbage collection: which releases nobody needs any more, said before they go."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass

from registry import aliases, durable, followed, listing, store
from registry.errors import AliasError
from registry.store import Listing

KEEP = 5


@dataclass(frozen=True)
class Verdict:
    """One release of the store; `reason`: why it stays, empty if it goes."""

    listing: Listing
    reason: str


@dataclass(frozen=True)
class Rule:
    """What stays: champion, previous, challenger, and of each model the last `keep` champions and versions.

    So `keep` - 1 rollbacks work, and at least one. broken: whether broken releases without an alias go. only: the
    versions of a model that may go at all, asked while nobody can change its aliases; any may if it is None.
    """

    keep: int = KEEP
    broken: bool = False
    only: Callable[[str], frozenset[str]] | None = None

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise AliasError(f"--keep {self.keep}: at least 1 of each model stays")


def plan(rule: Rule) -> list[Verdict]:
    """Return every release with its verdict; models of others in BentoML's store are left out.

    Raises AliasError if an alias file cannot be read: then nobody knows what is needed.
    """
    found: dict[str, list[Listing]] = {}
    for one in store.releases():
        if one.ours:
            found.setdefault(one.tag.split(":")[0], []).append(one)
    return [verdict for name, listings in found.items() for verdict in _judge(name, listings, rule)]


def collect(rule: Rule, say: Callable[[list[Verdict]], None]) -> list[Verdict]:
    """Delete what `plan` says, after `say` was called with it, and return the plan.

    Publishers and promoters wait meanwhile. A release goes by one rename, so no part of it is ever
    seen; what is left of a killed collection is removed by the next writer.
    """
    with store.workshop() as place, ExitStack() as locks:
        for name in sorted({one.tag.split(":")[0] for one in store.releases() if one.ours}):
            locks.enter_context(followed.changing(name))
        verdicts = plan(rule)
        say(verdicts)
        for verdict in verdicts:
            if not verdict.reason:
                name, version = store.parts(verdict.listing.tag)
                (store.models() / name / version).rename(place / f"{name}-{version}")
                durable.sync_folder(store.models() / name)
                store.mark_latest(name)
    return verdicts


def as_text(verdicts: list[Verdict], deleted: bool) -> str:
    """Return one line per release, and the sum of what goes."""
    going = [verdict.listing for verdict in verdicts if not verdict.reason]
    rows = [
        ("keep" if v.reason else "delete", v.listing.tag, listing.size(v.listing.size_bytes), v.reason)
        for v in verdicts
    ]  # fmt: skip
    word = "deleted now" if deleted else "would be deleted (--yes does it)"
    total = f"{len(going)} of {len(verdicts)} releases, {listing.size(sum(one.size_bytes for one in going))}, {word}"
    return "\n".join([*([listing.aligned(rows)] if rows else []), total])


def as_dict(verdicts: list[Verdict], deleted: bool) -> dict[str, object]:
    """Return the same for `--json`."""
    going = [verdict.listing for verdict in verdicts if not verdict.reason]
    return {
        "delete": [one.tag for one in going],
        "size_bytes": sum(one.size_bytes for one in going),
        "keep": {v.listing.tag: v.reason for v in verdicts if v.reason},
        "deleted": deleted,
    }


def _judge(name: str, listings: list[Listing], rule: Rule) -> list[Verdict]:
    state = aliases.read(name)
    held = listing.held(state)
    champions = {pin.version for pin in state.line[-rule.keep :]}
    may_go = None if rule.only is None else rule.only(name)
    newest = {one.tag for one in [one for one in listings if not one.problem][-rule.keep :]}
    verdicts = []
    for one in listings:
        version = one.tag.split(":")[1]
        reason = held.get(version, "")
        if not reason and version in champions:
            reason = f"one of the last {rule.keep} champions"
        if not reason and one.tag in newest:
            reason = f"one of the newest {rule.keep}"
        if not reason and may_go is not None and version not in may_go:
            reason = "did not come from the shared place"
        if not reason and one.problem and not rule.broken:
            reason = f"broken, only --broken deletes it: {one.problem}"
        verdicts.append(Verdict(one, reason))
    return verdicts
