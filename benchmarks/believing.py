"""Rules for when to believe an estimate without labels, side by side on the same windows; see docs/decisions/0044."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from monitoring.judge.estimates import MOST_HALF
from monitoring.shift import missing
from monitoring.shift.signals import CLASS, EMBEDDING, OUTPUTS

FAR = 0.05  # from the truth: an estimate that is worth less than none
AGREE = 0.01  # CBPE and ATC, no farther apart


@dataclass(frozen=True)
class Evidence:
    """What is known of the estimate of one window. error: from the truth, which no rule sees. covered: by its interval.

    half: of its interval, infinite if too few rows make one. apart: CBPE and ATC. drifted: signals. distance: squared,
    of the embedding in deviations. psi: of the signal that moved most.
    """

    error: float
    covered: bool
    half: float
    apart: float
    drifted: frozenset[str]
    distance: float
    psi: float

    @property
    def of_answers(self) -> bool:
        """Whether the answers or the embedding drift."""
        return any(name in (*OUTPUTS, CLASS, EMBEDDING) or name.endswith(missing.GONE) for name in self.drifted)

    @property
    def of_more_than_mix(self) -> bool:
        """Whether anything drifts but how often each class is answered."""
        return any(name != CLASS and not name.endswith(missing.GONE) for name in self.drifted)


Rule = Callable[[Evidence], bool]
CHOSEN = "no signal drifts (0035)"
# Each beside the interval of at most MOST_HALF.
RULES: dict[str, Rule] = {
    CHOSEN: lambda one: not one.drifted,
    "ATC and CBPE agree, drift or not": lambda one: one.apart <= AGREE,
    "interval widened by the embedding's distance": lambda one: one.half + max(one.distance, 0.0) ** 0.5 / 4 <= FAR,
    "distance of the embedding below 0.02": lambda one: one.distance < 0.02,
    "distance of the embedding below 0.03": lambda one: one.distance < 0.03,
    "distance of the embedding below 0.05": lambda one: one.distance < 0.05,
    "largest PSI below 0.05": lambda one: one.psi < 0.05,
    "largest PSI below 0.07": lambda one: one.psi < 0.07,
    "drift of answers and embedding alone": lambda one: not one.of_answers,
    "the same, and ATC and CBPE agree": lambda one: not one.of_answers and one.apart <= AGREE,
    "drift of the mix of classes is allowed": lambda one: not one.of_more_than_mix,
}


def valid(one: Evidence, rule: Rule = RULES[CHOSEN]) -> bool:
    """Return whether a rule believes an estimate."""
    return one.half <= MOST_HALF and rule(one)


def compare(found: Sequence[tuple[bool, Evidence]]) -> dict[str, dict[str, Any]]:
    """Return by rule how many wrong estimates it believes, and the shares of good ones that it refuses.

    found: whether a window is clean, and its evidence.
    """
    wrong = [one for _, one in found if one.error > FAR]
    moved, clean = ([one for is_clean, one in found if is_clean == side and one.error <= FAR] for side in (False, True))
    return {
        name: {
            "wrong": len(wrong), "believed": sum(valid(one, rule) for one in wrong),
            "refused_under_shift": _refused(moved, rule), "refused_clean": _refused(clean, rule),
        }
        for name, rule in RULES.items()
    }  # fmt: skip


def as_text(rules: dict[str, dict[str, Any]]) -> str:
    """Return the table."""
    lines = [f"{'rule, beside the interval':46} wrong believed  good refused: under shift  clean"]
    for name, one in rules.items():
        believed = f"{one['believed']} of {one['wrong']}"
        lines.append(f"{name:46} {believed:>14}  {one['refused_under_shift']:>25.0%}  {one['refused_clean']:>5.0%}")
    return "\n".join(lines)


def _refused(good: Sequence[Evidence], rule: Rule) -> float:
    return sum(not valid(one, rule) for one in good) / len(good) if good else float("nan")
