"""What a check of the data found: how grave it is, what it means, and what to do about it."""

from collections.abc import Sequence
from dataclasses import dataclass

LEVELS = ("stop", "warn", "note")


@dataclass(frozen=True)
class Finding:
    """level: "stop" ends a training run unless it is allowed, "warn" wants a look, "note" is good to know.

    check: the section of the page that shows it. cure: what to do, with the key of the TOML file.
    """

    level: str
    check: str
    found: str
    why: str
    cure: str


def ranked(findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings, the gravest first, else in the order they were made."""
    return sorted(findings, key=lambda finding: LEVELS.index(finding.level))


def some(things: Sequence[object], most: int = 5) -> str:
    """Return the first things as text, and how many more there are."""
    rest = f" and {len(things) - most} more" if len(things) > most else ""
    return ", ".join(str(thing) for thing in things[:most]) + rest
