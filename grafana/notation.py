"""promtool's notation of a series, read back: what Prometheus sees of it at a minute."""

import re

LOOKBACK = 5  # minutes for which a sample counts
STALE = "stale"
RUN = re.compile(r"(-?[\d.]+(?:e-?\d+)?)([+-][\d.]+(?:e-?\d+)?)?x(\d+)|_x(\d+)|(_)|(stale)|(-?[\d.]+(?:e-?\d+)?)")
Sample = float | str | None  # a value, STALE, or nothing


def samples(values: str) -> list[Sample]:
    """Return the samples that the notation stands for; raises ValueError where it is none."""
    found: list[Sample] = []
    for word in values.split():
        read = RUN.fullmatch(word)
        if read is None:
            raise ValueError(f"{word!r} is not in promtool's notation")
        start, step, times, gap, one_gap, stale, single = read.groups()
        if times:
            found += [float(start) + float(step or 0) * i for i in range(int(times) + 1)]
        elif single:
            found.append(float(single))
        else:
            found += [STALE] if stale else [None] * (1 if one_gap else int(gap))
    return found


def at(values: str, minute: int, step: int = 1) -> Sample:
    """Return the value that is seen at a minute, with a sample every `step` minutes; None without one."""
    known = samples(values)
    for i in range(min(minute // step, len(known) - 1), -1, -1):
        if minute - i * step > LOOKBACK:
            return None
        if known[i] is not None:
            return None if known[i] == STALE else known[i]
    return None


def last_seen(values: str, minute: int, step: int = 1) -> int | None:
    """Return the last minute of the hour before, or this one, at which the value was 1; None if it never was."""
    return next((one for one in range(minute, max(minute - 60, 0) - 1, -1) if at(values, one, step) == 1), None)
