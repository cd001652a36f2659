"""Gauges that several models share: each takes back what it said itself."""

from monitoring.counting.counts import Gauge

Told = tuple[Gauge, tuple[str, ...], float]  # a gauge, its labels and its value


def tell(before: list[Told], now: list[Told]) -> list[Told]:
    """Set the gauges to `now`, and return it. Of `before` what is not there is taken back, and nothing else is."""
    said = {(id(gauge), labels) for gauge, labels, _ in now}
    for gauge, labels, _ in before:
        if (id(gauge), labels) not in said:
            gauge.labels(*labels).clear()
    for gauge, labels, value in now:
        gauge.labels(*labels).set(value)
    return now
