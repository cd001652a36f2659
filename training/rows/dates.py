"""Dates as people write them; the cells of a column decide together which way they are meant."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime

ISO = "YYYY-MM-DD"
FORMS = (ISO, "DD.MM.YYYY", "DD/MM/YYYY", "MM/DD/YYYY")  # each may be followed by a time of day: CLOCKS
CLOCKS = "08:05, 8:05:30, 1:05 PM or 08:05Z"
_CLOCK = re.compile(r"(\S+?)(?:,? |T)(\d{1,2})(:\S+?)(?: ?([AP]M))?", re.ASCII | re.IGNORECASE)
_PARTS = re.compile(r"(\d{1,2})([./])(\d{1,2})\2(\d{4})((?:[ T].*)?)", re.ASCII)


def moment(cell: str, form: str = ISO) -> float:
    """Return a date or time as Unix seconds, in UTC unless it says otherwise; raises ValueError if it is not in `form`.

    ISO: whatever ISO 8601 allows.
    """
    text = _clocked(cell.strip())
    if form != ISO:
        found = _PARTS.fullmatch(text)
        if not found or found[2] != form[2]:
            raise ValueError(f"{cell!r} is not written as {form}")
        day, month = (found[1], found[3]) if form.startswith("D") else (found[3], found[1])
        text = f"{found[4]}-{month:>02}-{day:>02}{found[5]}"
    when = datetime.fromisoformat(text)
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def _clocked(text: str) -> str:
    # With the time of day as ISO 8601 has it, where there is one.
    found = _CLOCK.fullmatch(text) if ":" in text else None
    if found is None:
        return text
    day, hour, rest, half = found.groups()
    if half and not 1 <= int(hour) <= 12:
        raise ValueError(f"{text!r}: no such time of day")
    after_midnight = int(hour) % 12 + 12 * (half.upper() == "PM") if half else int(hour)
    return f"{day}T{after_midnight:02}{rest}"


def forms(cells: Iterable[str], among: Iterable[str] = FORMS) -> tuple[str, ...]:
    """Return in which of the forms every cell is a date; several if no part is above 12, none if one is no date."""
    left = tuple(among)
    for cell in cells:
        left = tuple(form for form in left if _is(cell, form))
        if not left:
            break
    return left


def _is(cell: str, form: str) -> bool:
    try:
        moment(cell, form)
    except ValueError:
        return False
    return True
