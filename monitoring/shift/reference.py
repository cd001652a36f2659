"""The reference that travels in a release: bins, shares and limits for drift, calibrated on held-out rows.

A number far outside its usual range is set aside: a poisoned row of the reference hides no shift, and in live
traffic such rows are told apart from the others.
"""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np

from monitoring.judge import estimates
from monitoring.shift import binning, calibration, detectable, embedding, missing, signals, support
from monitoring.shift.calibration import LOOKS_30D, Nulls, z_scores
from monitoring.shift.count import count
from monitoring.shift.detectable import Shift, Sight
from monitoring.shift.embedding import Embedding
from monitoring.shift.signals import BINS, CELLS, Bins
from monitoring.shift.support import Support
from registry.errors import DataError, ReleaseError
from registry.release import EMBEDDING, InputSpec

__all__ = [
    "LOOKS_30D",
    "HeldOut",
    "Reference",
    "ReferenceSettings",
    "Shift",
    "build",
    "demand_rows",
    "parse",
    "z_scores",
]

ROWS_PER_BIN = 5  # fewest of the reference
TYPICAL_BINS = 5  # at least, of a signal whose shifts are told in deviations
# Parts that other modules own: how each is made again from what `asdict` gave, lists for tuples.
PARTS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "embedding": Embedding.from_json,
    "estimation": estimates.parse,
    "support": Support.from_json,
    "nulls": Nulls.from_json,
}


@dataclass(frozen=True)
class ReferenceSettings:
    """bins: per signal, 2-16. false_alarms_30d: probability of any drift alarm in 30 days without drift.

    psi_floor: no smaller shift is told; 0.02 is about a seventh of a standard deviation.
    """

    bins: int = 10
    false_alarms_30d: float = 0.05
    min_rows: int = 100
    psi_floor: float = 0.02
    seed: int = 0


@dataclass(frozen=True)
class HeldOut:
    """Rows that a release has not learned from, and what it answers; as in `signals.compute`, but not all are finite.

    seen: where the model has learned. named: the classes in the order of the outputs; () calls them by their places.
    embedded: (n, ...), what the graph gives out as its embedding; None where it gives none.
    """

    spec: InputSpec
    inputs: np.ndarray
    outputs: np.ndarray
    threshold: float | None = None
    seen: Support | None = None
    named: tuple[str, ...] = ()
    embedded: np.ndarray | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes, none in a regression."""
        count = self.outputs.shape[1] if self.outputs.shape[1] > 1 else 0
        return self.named or tuple(map(str, range(count)))

    @property
    def finite(self) -> np.ndarray:
        """Which rows hold finite numbers alone, bool (n,)."""
        found: np.ndarray = np.isfinite(self.inputs.reshape(len(self.inputs), -1)).all(axis=1)
        return found if self.embedded is None else found & np.isfinite(self.joint).all(axis=1)

    @property
    def joint(self) -> np.ndarray:
        """What the Fourier embedding is laid over: the graph's own, (n, width), or else the rows."""
        return self.inputs if self.embedded is None else self.embedded.reshape(len(self.embedded), -1)


@dataclass(frozen=True)
class Reference:
    """What normal looks like, and how far from it is too far.

    shares: per signal, the share of each of its bins among the rows inside its range; sums to 1. z_thresholds: by
    window. far: per signal, the bins outside its range, which hold the share `outside`
    of the rows. slopes: of each signal, the embedding's last; divided by the rows of a window it is added to the
    threshold. shifts: the smallest that show. classes: of each bin of the predicted class, what it holds.
    missing_thresholds: by window, what the score of a missing class must be over. All of these, embedding, estimation
    and support are empty or None in a release that was made without them.
    """

    rows: int
    bins: tuple[Bins, ...]
    shares: tuple[tuple[float, ...], ...]
    z_thresholds: dict[str, float]
    psi_floor: float
    min_rows: int
    embedding: Embedding | None = None
    estimation: Any = None
    support: Support | None = None
    far: tuple[tuple[int, ...], ...] = ()
    outside: tuple[float, ...] = ()
    slopes: tuple[float, ...] = ()
    nulls: Nulls | None = None
    shifts: tuple[Shift, ...] = ()
    classes: tuple[str, ...] = ()
    missing_thresholds: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """Return the artefact as stored in the release."""
        return json.dumps(asdict(self), indent=1).encode() + b"\n"

    def padded_shares(self) -> np.ndarray:
        """Return the shares as float64 (signals, BINS), 0 where a signal has fewer bins; only to be read."""
        return self._shares

    def compared(self) -> np.ndarray:
        """Return which bins lie inside the range of their signal, bool (signals, BINS); only to be read."""
        return self._compared

    @cached_property
    def _shares(self) -> np.ndarray:
        table = np.zeros((len(self.shares), BINS))
        for row, shares in zip(table, self.shares, strict=True):
            row[: len(shares)] = shares
        table.flags.writeable = False
        return table

    @cached_property
    def _compared(self) -> np.ndarray:
        table = np.ones((len(self.shares), BINS), dtype=bool)
        for row, far in zip(table, self.far, strict=False):
            row[list(far)] = False
        table.flags.writeable = False
        return table

    @property
    def watched(self) -> dict[str, int]:
        """Return the outputs, beside the answer, that drift is told from, and the numbers in a row of each."""
        width = self.embedding.width if self.embedding is not None else 0
        return {EMBEDDING: width} if width else {}

    def outside_shares(self) -> np.ndarray:
        """Return the share of rows outside the range of each signal, float64 (signals,)."""
        return np.array(self.outside or (0.0,) * len(self.bins))

    def padded_slopes(self) -> np.ndarray:
        """Return the slopes, float64 (signals,) with the embedding's last if there is one; 0 where none is known."""
        table = np.zeros(len(self.bins) + (self.embedding is not None))
        known = self.slopes[: len(table)]
        table[: len(known)] = known
        return table


def demand_rows(settings: ReferenceSettings, rows: int) -> None:
    """Raise DataError if that many held-out rows are too few to fill the bins."""
    fewest = ROWS_PER_BIN * settings.bins
    if rows < fewest:
        raise DataError(
            f"reference: {rows} held-out rows cannot fill {settings.bins} bins; at least {fewest} are needed: "
            "give the test split more rows, or lower reference.bins"
        )


def build(settings: ReferenceSettings, held: HeldOut) -> Reference:
    """Return the reference of held-out rows. Raises DataError if there are too few rows to fill the bins."""
    demand_rows(settings, len(held.inputs))
    values = signals.compute(held.spec, held.inputs, held.outputs, held.threshold, held.seen)
    counted = signals.indices(held.spec, held.classes)
    named = signals.names(held.spec, len(held.classes), held.seen is not None)
    most = signals.most_bins(len(named), settings.bins)
    bins, far = [], []
    for name, column in zip(named, values.T, strict=True):
        endless = name not in counted and _endless(held.spec, name)
        if name in counted:
            bins.append(binning.of_index(name, column, len(counted[name])))
        else:
            bins.append(binning.of_number(name, column, most, endless))
        far.append((0, len(bins[-1].cuts)) if endless else ())
    plain = _counted(settings, tuple(bins), tuple(far), values)
    whole = held.finite
    waves = embedding.fit(held.joint[whole], held.outputs[whole], settings.seed)
    if waves is not None and held.embedded is not None:
        waves = replace(waves, width=held.joint.shape[1])
    return _calibrated(settings, replace(plain, embedding=waves, support=held.seen), values, held)


def parse(content: bytes) -> Reference:
    """Return the reference in `content`; raises ReleaseError if it cannot be read."""
    try:
        said = json.loads(content)
        bins = tuple(Bins(**b | {"cuts": tuple(b["cuts"])}) for b in said["bins"])
        listed = ("shares", "far", "outside", "slopes", "classes")
        plain = {name: calibration.tuples(said[name]) for name in listed if name in said}
        plain["shifts"] = tuple(Shift(**shift) for shift in said.get("shifts", ()))
        parts = {name: made(said[name]) for name, made in PARTS.items() if said.get(name) is not None}
        return Reference(**said | {"bins": bins} | plain | parts)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ReleaseError(f"reference.json cannot be read: {error}; publish the model again") from error


def _endless(spec: InputSpec, name: str) -> bool:
    # Whether neither a dtype nor a formula bounds the signal.
    return name not in (*signals.OUTPUTS, support.NAME) and np.dtype(spec.dtype).kind == "f"


def _counted(
    settings: ReferenceSettings, bins: tuple[Bins, ...], far: tuple[tuple[int, ...], ...], values: np.ndarray
) -> Reference:
    counts = count(binning.codes_of(bins, far, values)[None])[0]
    inside = counts.sum(axis=1)
    table = counts / np.maximum(inside, 1)[:, None]
    return Reference(
        rows=len(values), bins=bins, z_thresholds={}, psi_floor=settings.psi_floor, min_rows=settings.min_rows,
        shares=tuple(tuple(row[: len(b.cuts) + 1].tolist()) for row, b in zip(table, bins, strict=True)),
        far=far, outside=tuple((1 - inside / len(values)).tolist()),
    )  # fmt: skip


def _calibrated(settings: ReferenceSettings, plain: Reference, values: np.ndarray, held: HeldOut) -> Reference:
    waves, extra = plain.embedding, None
    df = np.maximum((plain.padded_shares() > 0).sum(axis=1) - 1, 1)
    if waves is not None:
        components = np.where(held.finite[:, None], waves.components(held.joint, held.outputs), np.nan)
        extra = calibration.of_embedding(waves, components)
        df = np.append(df, len(waves.centres))
    nulls = calibration.draw(binning.codes_of(plain.bins, plain.far, values), extra, settings.seed)
    known = [b for b in plain.bins if b.name == signals.CLASS]
    classes = binning.held(known[0], held.classes) if known else ()
    # What a missing class may alarm is taken from all others.
    part, kept = (1 - (1 - settings.false_alarms_30d) ** s for s in (missing.MONTHLY_SHARE, 1 - missing.MONTHLY_SHARE))
    gone = missing.monthly(part, len(classes)) if classes else {}
    thresholds, slopes = calibration.monthly(
        nulls, df, kept if classes else settings.false_alarms_30d, settings.min_rows
    )
    made = replace(plain, z_thresholds=thresholds, slopes=slopes, nulls=nulls, classes=classes, missing_thresholds=gone)
    return replace(made, shifts=_shifts(made))


def _shifts(made: Reference) -> tuple[Shift, ...]:
    slopes = made.padded_slopes().tolist()
    sights = {
        b.name: Sight(
            np.array([share for share in shares if share > 0]),
            {window: (base, slopes[s]) for window, base in made.z_thresholds.items()},
            made.rows, made.psi_floor, made.min_rows,
        )
        for s, (b, shares) in enumerate(zip(made.bins, made.shares, strict=True))
    }  # fmt: skip
    numbers = [sights[b.name] for b in made.bins if b.high != CELLS and len(sights[b.name].shares) >= TYPICAL_BINS]
    numbers.sort(key=lambda sight: sight.limits["medium"])
    typical = numbers[len(numbers) // 2] if numbers else None
    return detectable.table(sights.get(signals.CLASS), typical)
