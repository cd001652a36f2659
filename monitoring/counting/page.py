"""The text of a scrape. The signals are most of it, and of their lines only the counts ever change.

So prometheus_client writes the lines of a release once; later scrapes put the counts behind them. For 68 signals of
two releases that takes 2.4 ms instead of 35.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, generate_latest

from monitoring.counting.signal_metrics import SignalCollector, SignalState
from monitoring.metrics import EMBEDDING_ROWS, EMBEDDING_SUM, SIGNAL_BIN, ServingMetrics

COUNTED = (SIGNAL_BIN, EMBEDDING_SUM, EMBEDDING_ROWS)


@dataclass(frozen=True)
class _Lines:
    """counted: of one release, the lines of a family without their values. fixed: whole lines of the others."""

    counted: dict[str, tuple[str, ...]]
    fixed: dict[str, str]


class Page:
    """What /metrics answers with, for one worker."""

    def __init__(self, metrics: ServingMetrics) -> None:
        self._metrics = metrics
        self._lines: dict[tuple[str, str], _Lines] = {}
        self._headers = {name: header for name, header, _ in _families([])}

    def text(self, states: Sequence[SignalState]) -> bytes:
        """Return the metrics of all workers; states: of the releases loaded here, with all their rows counted."""
        counts, sums = (self._metrics.counts.array_totals(name) for name in (SIGNAL_BIN, EMBEDDING_SUM))
        places = [(state.model, state.version) for state in states]
        self._lines = {p: self._lines.get(p) or _lines(state) for p, state in zip(places, states, strict=True)}
        values = [state.values(counts.get(place), sums.get(place)) for place, state in zip(places, states, strict=True)]
        parts = [generate_latest(self._metrics.registry).decode()]
        for name, header in self._headers.items():
            parts.append(header)
            for place, counted in zip(places, values, strict=True):
                lines = self._lines[place]
                if name in COUNTED:
                    pairs = zip(lines.counted[name], counted[name], strict=True)
                    parts += [f"{line}{value}\n" for line, value in pairs]
                else:
                    parts.append(lines.fixed[name])
        return "".join(parts).encode()


def _lines(state: SignalState) -> _Lines:
    found = {name: lines for name, _, lines in _families([state])}
    counted = {name: tuple(f"{line.rpartition(' ')[0]} " for line in found.pop(name)) for name in COUNTED}
    return _Lines(counted, {name: "".join(f"{line}\n" for line in lines) for name, lines in found.items()})


def _families(states: Iterable[SignalState]) -> list[tuple[str, str, list[str]]]:
    # Name, header and lines of each family, as prometheus_client writes them.
    registry = CollectorRegistry()
    registry.register(SignalCollector(lambda: states))
    found: list[tuple[str, str, list[str]]] = []
    header: list[str] = []
    for line in generate_latest(registry).decode().splitlines():
        if line.startswith("# HELP"):
            header = [line]
        elif line.startswith("# TYPE"):
            found.append((line.split()[2], "\n".join([*header, line, ""]), []))
        else:
            found[-1][2].append(line)
    return found
