"""Parts of the traffic whose quality is measured apart, by columns and signals that the training settings name.

How rows are told apart is fixed when the release is made, on its held-out rows, and travels in its manifest.
A column of text: the most frequent values and the rest. A number, or a measure of an image such as its brightness: up
to four ranges that hold about as many held-out rows each. So the number of slices is bounded whatever clients send.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np

from monitoring.judge.intervals import CONFIDENCE, wilson
from monitoring.shift import signals
from registry.errors import ConfigError
from registry.release import InputSpec

MOST_NAMES = 5  # columns or signals
MOST_VALUES = 8  # of text; the others together are one slice more
RANGES = 4
MOST_CHARACTERS = 60  # of a value in a name
OTHER, UNKNOWN = "other", "unknown"


@dataclass(frozen=True)
class Slicing:
    """How rows are told apart by one column or signal.

    codes: of a column of text, the indices that have a slice each, in the order of `names`; the last name is that of
    the others. cuts: of a number, where the next range begins. floors: by slice, the share of right answers that it
    must not be surely under. rows, right: held-out rows of each slice, and those of them that were answered right; ()
    in a release that does not say.
    """

    source: str
    names: tuple[str, ...]
    floors: tuple[float, ...]
    codes: tuple[int, ...] = ()
    cuts: tuple[float, ...] = ()
    rows: tuple[int, ...] = ()
    right: tuple[int, ...] = ()

    def places(self, values: np.ndarray) -> np.ndarray:
        """Return the index into `names` for each value (n,), len(names) where it is not known (NaN)."""
        if self.codes:
            table = np.full(max(self.codes) + 2, len(self.codes))
            table[list(self.codes)] = np.arange(len(self.codes))
            known = np.where(np.isnan(values), -1, values).astype(np.int64)
            found = table[known.clip(0, len(table) - 1)]
        else:
            found = np.searchsorted(np.array(self.cuts), values, side="right")
        return np.where(np.isnan(values), len(self.names), found)


LISTS = tuple(one.name for one in fields(Slicing) if one.name != "source")


def demand(names: Sequence[str], spec: InputSpec) -> None:
    """Raise ConfigError unless each of `quality.slices` is a column of the rows or a measure of them."""
    known = _sources(spec)
    for name in names:
        if name not in known:
            listed = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "")
            raise ConfigError(f"quality.slices: '{name}' is not in the rows of the traffic; accepted are {listed}")
    if len(names) > MOST_NAMES:
        raise ConfigError(f"quality.slices: {len(names)} names; up to {MOST_NAMES} are accepted: leave some out")


def fit(names: Sequence[str], spec: InputSpec, rows: np.ndarray, right: np.ndarray, floor: float) -> list[Slicing]:
    """Return how to tell apart rows by each name, from held-out rows (n, *shape) and whether each was answered right.

    The floor of a slice is that of the whole model, or what was sure of the slice when the release was made, where
    that is less: a part of the traffic that was always harder is no news. Raises ConfigError as `demand` does.
    """
    demand(names, spec)
    drafts = [
        (_by_value if name in spec.categories else _by_range)(name, spec, values_of(spec, rows, name)) for name in names
    ]
    sure = confidence(sum(len(draft.names) for draft in drafts))
    made = []
    for draft in drafts:
        places = draft.places(values_of(spec, rows, draft.source))
        parts = [right[places == at] for at in range(len(draft.names))]
        counts = tuple(len(part) for part in parts), tuple(int(part.sum()) for part in parts)
        floors = tuple(_floor(part, floor, sure) for part in parts)
        made.append(replace(draft, floors=floors, rows=counts[0], right=counts[1]))
    return made


def confidence(slices: int) -> float:
    """Return the confidence of each of `slices` intervals that all hold together with CONFIDENCE (Bonferroni)."""
    return 1 - (1 - CONFIDENCE) / max(1, slices)


def namer(said: Mapping[str, Any], spec: InputSpec) -> Callable[[np.ndarray], list[tuple[str, ...]]] | None:
    """Return a function of rows (n, *shape) that tells the names of the slices of each; None if there are none.

    said: the table `quality` of a manifest.
    """
    slicings = parse(said)
    if not slicings:
        return None

    def names(rows: np.ndarray) -> list[tuple[str, ...]]:
        columns = []
        for one in slicings:
            table = np.array([*one.names, f"{one.source}={UNKNOWN}"], dtype=object)
            columns.append(table[one.places(values_of(spec, rows, one.source))])
        return list(zip(*columns, strict=True))

    return names


def parse(said: Mapping[str, Any]) -> list[Slicing]:
    """Return the slicings in the table `quality` of a manifest, [] in a release that has none."""
    return [Slicing(**one | {key: tuple(one.get(key, ())) for key in LISTS}) for one in said.get("slices", ())]


def floors(said: Mapping[str, Any]) -> dict[str, float]:
    """Return the floor of each slice by its name."""
    return {name: floor for one in parse(said) for name, floor in zip(one.names, one.floors, strict=True)}


def to_manifest(slicings: Sequence[Slicing]) -> list[dict[str, Any]]:
    """Return what `parse` reads from the table `quality` under "slices"."""
    return [asdict(one) for one in slicings]


def values_of(spec: InputSpec, rows: np.ndarray, name: str) -> np.ndarray:
    """Return the value of each row that slices are told by, float64 (n,), NaN where it is not known."""
    if name in spec.columns:
        values: np.ndarray = rows[:, spec.columns.index(name)].astype(np.float64)
        return values
    blank = np.zeros((len(rows), 1), dtype=np.float32)
    found: np.ndarray = signals.compute(spec, rows, blank)[:, _sources(spec).index(name)].astype(np.float64)
    return found


def _sources(spec: InputSpec) -> tuple[str, ...]:
    # The signals of a regression end in that of its prediction.
    return spec.columns or signals.names(spec, 0)[:-1]


def _by_value(name: str, spec: InputSpec, values: np.ndarray) -> Slicing:
    texts = spec.categories[name]
    counts = np.bincount(values[~np.isnan(values)].astype(np.int64), minlength=len(texts))
    codes = np.sort(np.argsort(-counts, kind="stable")[:MOST_VALUES])
    codes = codes[counts[codes] > 0]
    names = [f"{name}={_short(texts[code])}" for code in codes]
    repeated = len(set(names)) < len(names)  # two that begin alike
    names = [f"{name}={code}:{_short(texts[code])}" for code in codes] if repeated else names
    return Slicing(name, (*names, f"{name}={OTHER}"), (), tuple(int(code) for code in codes))


def _by_range(name: str, spec: InputSpec, values: np.ndarray) -> Slicing:
    known = values[~np.isnan(values)]
    ends = np.quantile(known, np.linspace(0, 1, RANGES + 1)[1:-1], method="higher")
    cuts = np.unique([float(f"{cut:.4g}") for cut in ends if cut > known.min()])
    texts = [f"{cut:g}" for cut in cuts]
    if not texts:
        return Slicing(name, (f"{name}=any",), ())
    inner = [f"{low}<={name}<{high}" for low, high in zip(texts, texts[1:], strict=False)]
    return Slicing(name, (f"{name}<{texts[0]}", *inner, f"{name}>={texts[-1]}"), (), cuts=tuple(cuts.tolist()))


def _short(text: str) -> str:
    return " ".join(text.split())[:MOST_CHARACTERS]


def _floor(right: np.ndarray, floor: float, sure: float) -> float:
    return min(floor, wilson(float(right.sum()), len(right), sure)[0]) if len(right) else 0.0
