"""A recorded log, or a file of past traffic, through the alert rules."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from monitoring.backtest import counted, replay, spread, sqlite_log
from monitoring.backtest.counted import Seen
from monitoring.backtest.outcome import Outcome
from monitoring.backtest.rules import PROFILES
from monitoring.backtest.spread import Part
from monitoring.opened import opened
from registry import verbs
from registry.errors import DataError

EVER_S = (-1e12, 1e12)


@dataclass(frozen=True)
class Order:
    """log: a prediction log, or a Parquet or CSV file.

    model: whose rows, all on a log if empty; for a file the release that answers its rows, or the name of a model,
    whose champion does. span_s: the times that are replayed. names: of columns of a file that have other names than
    usual, by field of `table.Names`. ray: the address of a cluster, "local", or "" for this machine. processes: of
    this machine, without Ray.
    """

    log: Path
    model: str = ""
    span_s: tuple[float, float] = EVER_S
    profile: str = "production"
    names: dict[str, str] = field(default_factory=dict)
    ray: str = ""
    processes: int = 1


def backtest(order: Order) -> list[Outcome]:
    """Return what would have fired, for each model. Raises DataError if the log or file cannot be read or is empty."""
    if not order.log.is_file():
        raise DataError(f"{order.log}: no such file; accepted are a prediction log, Parquet and CSV")
    if not sqlite_log.is_log(order.log):
        from monitoring.backtest import table  # pyarrow is needed for files alone

        tag = order.model if ":" in order.model else verbs.champion_of(order.model)
        parts = table.parts(order.log, tag, order.names, order.span_s, PROFILES[order.profile])
        return [_outcome(order, tag.split(":")[0], parts)]
    found = sqlite_log.models(order.log)
    if order.model and order.model not in found:
        listed = ", ".join(found) or "none"
        raise DataError(f"{order.log}: holds no row of {order.model}; it has {listed}")
    return [_outcome(order, model, _log_parts(order, model)) for model in ([order.model] if order.model else found)]


def _log_parts(order: Order, model: str) -> Sequence[Part]:
    return sqlite_log.parts(order.log, model, order.span_s, PROFILES[order.profile])


def _outcome(order: Order, model: str, parts: Sequence[Part]) -> Outcome:
    rules = PROFILES[order.profile]
    seen = counted.together(_read(order, parts))
    known = {version: opened(f"{model}:{version}") for version in seen.counted}
    refused = int(seen.invalid[1].sum())
    if not seen.counted and not refused and not seen.unknown:
        raise DataError(f"{order.log}: holds no row of {model} in the time that was asked for")
    firings = tuple(replay.replay(model, seen, known, rules))
    spans = tuple(replay.spans(seen, rules))
    return Outcome(str(order.log), model, order.profile, spans, refused, seen.unknown, firings)


def _read(order: Order, parts: Sequence[Part]) -> Iterator[Seen]:
    if order.ray:
        return spread.on_ray(parts, order.ray)
    return spread.in_processes(parts, order.processes) if order.processes > 1 else spread.here(parts)
