"""What labels say of rows: of all, of those in each slice of the release, and how late they come."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from monitoring.backtest import counted
from monitoring.backtest.counted import Changes
from monitoring.backtest.rules import Rules
from monitoring.judge import slices
from monitoring.log.opened import Opened
from monitoring.monitor.tally import delay_bin


class Labelled(NamedTuple):
    """changes: of all rows. by_slice: of those in each slice. delays: int64 (k, 4), see `delays`."""

    changes: Changes
    by_slice: dict[str, Changes]
    delays: np.ndarray


class Labels(NamedTuple):
    """Labels of one version, in any order.

    answered_s, known_s: when each row was answered and its label known, (n,). steps: int64 (n, 2), what the label adds
    to the labelled rows and to the right ones. first: whether it is the first of its row, bool (n,). rows: (n, *shape),
    NaN where they were not kept; None where the release has no slices.
    """

    answered_s: np.ndarray
    known_s: np.ndarray
    steps: np.ndarray
    first: np.ndarray
    rows: np.ndarray | None


def of(labels: Labels, known: Opened, rules: Rules) -> Labelled:
    """Return what the rules need of labels."""
    changes = counted.changes(labels.answered_s, labels.known_s, labels.steps, rules)
    return Labelled(changes, _by_slice(labels, known, rules), delays(labels, rules))


def together(parts: Sequence[tuple[str, Labelled]]) -> counted.Seen:
    """Return what was labelled of versions as a part of a log, each of which may be there once."""
    return counted.Seen(
        changes={version: one.changes for version, one in parts},
        slices={(version, name): change for version, one in parts for name, change in one.by_slice.items()},
        delays=np.concatenate([counted.Seen().delays, *(one.delays for _, one in parts)]),
    )


def delays(labels: Labels, rules: Rules) -> np.ndarray:
    """Return how late labels came, int64 (k, 4): the monitor's stretch of time in which rows were answered, the bucket
    in which their first label was known, the bin of the delay, and how many."""
    first = labels.first & (labels.steps[:, 0] > 0)
    answered_s, known_s = labels.answered_s[first], labels.known_s[first]
    bins = np.array([delay_bin(one) for one in (known_s - answered_s).tolist()], np.int64)
    stretch = np.floor(answered_s / rules.stretch_s).astype(np.int64)
    known = np.floor(known_s / rules.bucket_s).astype(np.int64)
    return counted.counts_of(np.column_stack([stretch, known, bins, np.ones_like(bins)]))


def _by_slice(labels: Labels, known: Opened, rules: Rules) -> dict[str, Changes]:
    manifest = known.release.manifest
    namer = slices.namer(manifest.quality, manifest.input)
    if namer is None or labels.rows is None or not len(labels.steps):
        return {}
    flat = labels.rows.reshape(len(labels.rows), -1)
    kept = np.flatnonzero(~np.isnan(flat).all(axis=1)) if flat.dtype.kind == "f" else np.arange(len(flat))
    of_row: list[set[str]] = [set() for _ in flat]
    for place, names in zip(kept.tolist(), namer(labels.rows[kept]), strict=True):
        of_row[place] = set(names)
    found = {}
    for name in sorted(slices.floors(manifest.quality)):
        here = np.array([name in names for names in of_row])
        if here.any():
            some = (labels.answered_s[here], labels.known_s[here], labels.steps[here])
            found[name] = counted.changes(*some, rules)
    return found
