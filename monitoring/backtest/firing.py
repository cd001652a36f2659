"""From a condition that holds or not, step by step, to the times at which its alert would have fired."""

from dataclasses import dataclass, field

MOST_SIGNALS = 3


@dataclass(frozen=True)
class Held:
    """What was seen while a condition held. value: how bad. signals: how far each moved, as z."""

    value: float
    signals: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Firing:
    """One alert that would have fired. since_s: when its condition began to hold, from_s: when it fired.

    to_s: when it ended, None if it still fires where the replay ends. value: the worst that was seen, said by `says`.
    signals: those that moved furthest, with the largest z of each.
    """

    alert: str
    severity: str
    model: str
    version: str
    since_s: float
    from_s: float
    to_s: float | None
    value: float
    says: str
    signals: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Alert:
    """One alert of one version. wait_s: its `for`. low: whether a small value is bad. says: what the value is."""

    name: str
    severity: str
    model: str
    version: str
    wait_s: int
    says: str
    low: bool = False


class Watched:
    """Follows one condition; steps must not go back."""

    def __init__(self, alert: Alert) -> None:
        self._alert = alert
        self._since_s: float | None = None
        self._value = 0.0
        self._signals: dict[str, float] = {}
        self.fired: list[Firing] = []

    def step(self, at_s: float, held: Held | None) -> None:
        """Note that from `at_s` on the condition holds, or does not."""
        if held is None:
            self._end(at_s)
            return
        if self._since_s is None:
            self._since_s, self._value, self._signals = at_s, held.value, {}
        self._value = (min if self._alert.low else max)(self._value, held.value)
        for signal, z in held.signals.items():
            self._signals[signal] = max(z, self._signals.get(signal, z))

    def finish(self, at_s: float) -> list[Firing]:
        """Return what fired, `at_s` being where the replay ends."""
        if self._since_s is not None and self._since_s + self._alert.wait_s <= at_s:
            self._add(None)
        self._since_s = None
        return self.fired

    def _end(self, at_s: float) -> None:
        if self._since_s is not None and self._since_s + self._alert.wait_s < at_s:
            self._add(at_s)
        self._since_s = None

    def _add(self, to_s: float | None) -> None:
        alert, since_s = self._alert, self._since_s or 0.0
        worst = sorted(self._signals.items(), key=lambda item: -item[1])[:MOST_SIGNALS]
        self.fired.append(
            Firing(alert.name, alert.severity, alert.model, alert.version, since_s, since_s + alert.wait_s, to_s,
                   self._value, alert.says, tuple(worst))
        )  # fmt: skip
