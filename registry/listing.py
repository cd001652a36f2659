"""What the command line shows of the store: the table of releases, one release, the history of a model."""

import json
import time
from collections.abc import Sequence

from registry import aliases, example, store
from registry.aliases import Aliases, Change
from registry.errors import AliasError
from registry.gate import Live
from registry.plain import plain
from registry.release import SIGNATURE, Manifest, Release
from registry.store import Listing

ALIASES = ("champion", "previous", "challenger")
COLUMNS = 8  # that a summary names
HEADER = ("release", "created", "metric", "precision", "size", "", "")


def table(listings: list[Listing]) -> str:
    """Return one line per version, with the alias it holds or what is wrong with it."""
    known = {name: _held(name) for name in {listing.tag.split(":")[0] for listing in listings if listing.ours}}
    return aligned([HEADER, *(_cells(listing, known) for listing in listings)])


def as_json(listings: list[Listing]) -> str:
    """Return the listings as one JSON array."""
    return json.dumps([vars(listing) for listing in listings])


def held(state: Aliases) -> dict[str, str]:
    """Return the aliases that each version holds."""
    names: dict[str, list[str]] = {}
    for alias in ALIASES:
        if pin := getattr(state, alias):
            names.setdefault(pin.version, []).append(alias)
    return {version: ", ".join(found) for version, found in names.items()}


def no_model(name: str) -> str:
    """Return that there is no model of this name, and which there are."""
    others = sorted({one.tag.split(":")[0] for one in store.releases()})
    return f"no model '{name}'; there is {', '.join(others) or 'none yet'}"


def aligned(rows: Sequence[tuple[str, ...]]) -> str:
    """Return the rows as text in columns, made plain; the last column takes what it needs."""
    rows = [tuple(map(plain, row)) for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]) - 1)]
    lines = ("  ".join([*(cell.ljust(w) for cell, w in zip(row, widths, strict=False)), row[-1]]) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


def size(count: int) -> str:
    """Return a number of bytes in MB."""
    return f"{count / 1e6:.2f} MB"


def history(state: Aliases) -> str:
    """Return one line per change, oldest first; a sentence if there is none."""
    if not state.history:
        return f"{state.model}: never promoted; `vigil models` lists what could be"
    return "\n".join(
        plain(
            f"{time.strftime('%Y-%m-%d %H:%M:%S', time.localtime(change.time_s))}  {change.action:9}  "
            f"{change.to_version}  {change.who}: {change.why}{_remarks(change)}"
        )
        for change in state.history
    )


def summary(release: Release) -> str:
    """Return what a release says about itself, and where its card lies."""
    said = release.manifest
    files = sum(entry.size_bytes for entry in said.files.values())
    lines = [
        ("release", release.tag), ("purpose", said.purpose), ("task", _task(said)), ("input", _input(said)),
        ("precision", said.precision + (f", made from {said.parent}" if said.parent else "")),
        *((name, _interval(found)) for name, found in said.metrics.items() if _is_headline(found)),
        ("parity", _parity(said)),
        ("floor", f"{said.quality.get('metric', '')} {said.quality.get('floor', 0.0):.4g}"),
        ("data", f"{said.data.get('source', '')}, {said.data.get('rows', '')} rows"),
        ("made by", f"{said.code.get('command', '')} (commit {said.code.get('git_commit', 'unknown')})"),
        ("files", f"{len(said.files)}, {size(files)}, every byte as published"), ("digest", release.digest),
        *zip(("request", "bytes"), example.lines(release.tag), strict=False),
        ("signature", SIGNATURE if (release.path / SIGNATURE).exists() else "none"),
        *(("card", str(release.path / file)) for file in ("card.html", "card.md") if file in said.files),
    ]  # fmt: skip
    return aligned(lines)


def of_traffic(live: Live) -> str:
    """Return what labelled traffic said for a promotion, in plain words: how much better, and how sure that is."""
    what, better, worse = "accuracy", "higher", "lower"
    shown = "{:.4f}"
    if live.metric == "mae":
        what, better, worse, shown = "mean error", "smaller", "larger", "{:.2%}"
    loss, upper, margin = (shown.format(abs(value)) for value in (live.loss, live.loss_upper, live.margin))
    return (
        f"on {live.rows} labelled rows of the traffic its {what} is {loss} {worse if live.loss > 0 else better} than "
        f"that of {live.champion}; with {live.confidence:.0%} confidence "
        + (f"at least {upper} {better}" if live.loss_upper < 0 else f"at most {upper} {worse}")
        + f" ({margin} {worse} is allowed)"
    )


def _remarks(change: Change) -> str:
    found = ["forced"] if change.forced else []
    found += [f"by {change.live.rows} labelled rows of the traffic"] if change.live else []
    found += [f"{100 * change.share:g} % of the requests"] if change.share else []
    found += [f"ended the challenge of {change.ended}"] if change.ended and change.action != "end" else []
    return f"  ({', '.join(found)})" if found else ""


def _held(name: str) -> dict[str, str]:
    try:
        return held(aliases.read(name))
    except AliasError as error:
        return {"": f"ALIASES UNREADABLE {error}"}


def _cells(listing: Listing, known: dict[str, dict[str, str]]) -> tuple[str, ...]:
    name, version = listing.tag.split(":")
    mine = known.get(name, {})
    state = f"BROKEN {listing.problem}" if listing.ours else listing.problem
    if not listing.problem:
        state = mine.get("") or mine.get(version, "")
    value = "" if listing.value is None else f"{listing.metric} {listing.value:.4f}"
    signed = "signed" if listing.signed else ""
    return (listing.tag, listing.created, value, listing.precision, size(listing.size_bytes), signed, state or "")


def _task(said: Manifest) -> str:
    return f"{said.task}, {len(said.classes)} classes" if said.classes else said.task


def _input(said: Manifest) -> str:
    names, shown = said.input.columns, said.input.columns[:COLUMNS]
    more = f" and {len(names) - COLUMNS} more" if len(names) > COLUMNS else ""
    return f"{said.input.dtype} {said.input.shape}" + (f": {', '.join(shown)}{more}" if names else "")


def _parity(said: Manifest) -> str:
    if not said.parity:
        return "no certificate"
    found = said.parity
    return f"differs by {found['max_difference']:.2g} at most (limit {found['limit']:.2g})"


def _is_headline(found: object) -> bool:
    return isinstance(found, dict) and {"value", "lower", "upper"} <= found.keys()


def _interval(found: dict[str, float]) -> str:
    return f"{found['value']:.4g} ({found['lower']:.4g} to {found['upper']:.4g})"
