"""A recorded log, or a file of past traffic, through the alert rules."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from monitoring.backtest import counted, replay, spread, sqlite_log
from monitoring.backtest.counted import Seen
from monitoring.backtest.outcome import Outcome
from monitoring.backtest.rules import PROFILES, Rules
from monitoring.backtest.spread import Part
from monitoring.log.opened import opened
from registry import verbs
from registry.errors import DataError

EVER_S = (-1e12, 1e12)
Cut: TypeAlias = Callable[[Path, str, tuple[float, float], Rules], Sequence[Part]]


@dataclass(frozen=True)
class Order:
    """log: a prediction log, what `vigil log export` wrote of one, or another Parquet or CSV file.

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
    if sqlite_log.is_log(order.log):
        return _of_models(order, sqlite_log.models(order.log), sqlite_log.parts)
    from monitoring.backtest import exported, table  # pyarrow is needed for files alone

    if exported.is_export(order.log):
        return _of_models(order, exported.models(order.log), exported.parts)
    tag = order.model if ":" in order.model else verbs.champion_of(order.model)
    parts = table.parts(order.log, tag, order.names, order.span_s, PROFILES[order.profile])
    return [_outcome(order, tag.split(":")[0], parts)]


def _of_models(order: Order, models: list[str], cut: Cut) -> list[Outcome]:
    if order.model and order.model not in models:
        raise DataError(f"{order.log}: holds no row of {order.model}; it has {', '.join(models) or 'none'}")
    rules = PROFILES[order.profile]
    chosen = [order.model] if order.model else models
    return [_outcome(order, model, cut(order.log, model, order.span_s, rules)) for model in chosen]


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
