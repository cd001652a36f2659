"""What a report found, as the verb prints it, the folder keeps it and the index shows it."""

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from registry.errors import DataError


@dataclass(frozen=True)
class Quality:
    """The share of right answers among the labelled rows of the window; the floor is None for a release that is gone.

    value, lower, upper: None without a labelled row.
    """

    metric: str
    labelled: int
    value: float | None = None
    lower: float | None = None
    upper: float | None = None
    floor: float | None = None

    @property
    def under_floor(self) -> bool:
        """Whether even the upper end of the interval is under the floor."""
        return self.upper is not None and self.floor is not None and self.upper < self.floor

    def to_text(self) -> str:
        """Return the number with its interval, or why there is none."""
        if self.value is None:
            return "no labelled row"
        floor = "" if self.floor is None else f", floor {self.floor:.3f}"
        return f"{self.value:.3f} ({self.lower:.3f}-{self.upper:.3f}) on {self.labelled} rows{floor}"


@dataclass(frozen=True)
class Findings:
    """One report. reason: who asked for it. time_s, window_s: the end and the length of the window.

    rows, reference_rows: compared, which is at most what a report is capped at. drifted, passed: columns with the
    p-value of their test. broken: columns left out with the reason; empty: why nothing could be compared, or "".
    """

    tag: str
    reason: str
    time_s: float
    window_s: float
    rows: int
    reference_rows: int
    drifted: dict[str, float]
    passed: dict[str, float]
    broken: dict[str, str]
    empty: str
    quality: Quality | None
    out: str

    @property
    def model(self) -> str:
        return self.tag.split(":")[0]

    @property
    def version(self) -> str:
        return self.tag.split(":")[1]

    def to_json(self) -> str:
        """Return one JSON object."""
        return json.dumps(asdict(self), allow_nan=False)

    def to_text(self) -> str:
        """Return lines for a person."""
        head = f"{self.tag}: {self.rows} recorded rows against {self.reference_rows} reference rows: {self.out}"
        if self.empty:
            return "\n".join([head, f"  nothing to compare: {self.empty}"])
        worst = sorted(self.drifted.items(), key=lambda item: item[1])
        drifted = [f"  drifted  {name:20} p = {p:.2g}" for name, p in worst]
        broken = [f"  left out {name:20} {why}" for name, why in self.broken.items()]
        quality = [f"  quality  {self.quality.metric:20} {self.quality.to_text()}"] if self.quality else []
        return "\n".join([head, *(drifted or ["  no column drifted"]), *broken, *quality])


def parse(text: str) -> Findings:
    """Return the findings in `text`; raises DataError if it holds none."""
    try:
        said: dict[str, Any] = json.loads(text)
        quality = said["quality"]
        known = {field.name: said[field.name] for field in fields(Findings)}
        return Findings(**known | {"quality": None if quality is None else Quality(**quality)})
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"findings of a report cannot be read: {error}") from error
