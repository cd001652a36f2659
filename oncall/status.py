"""How things are now: tiles of the dashboard, what each model serves and was promoted, drift, quality, alerts."""

import shlex
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from oncall import api, direct, tiles
from oncall.api import Firing, Sample
from oncall.tiles import Tile
from registry import aliases, followed
from registry.aliases import Change
from registry.errors import ConfigError, UserError
from registry.release import NAME

LIVE = 'max by (model, version, provider) (vigil_model_info{{stage="live",model=~"{model}"}})'
SHARE_OF_LIMIT = (
    'topk by (model) (1, model_signal:drift_z{{model=~"{model}"}} / (model_signal:drift_limit_restless > 0))'
)
ROWS = 'sum by (model, version) (vigil_input_rows_total{{model=~"{model}"}})'
DRIFTED = 'max by (model, signal) (model_signal:drifted_z{{model=~"{model}"}})'
SCRAPED = "min(timestamp(vigil_ready))"  # of servers that are gone there is no sample
QUALITY = 'max by (model, version, metric) (vigil_quality_{what}{{model=~"{model}"}})'
MEASURED = ("value", "lower", "upper", "floor", "rows")
WATCHDOG = "Watchdog"
BLIND = ("error_burn", "latency_burn", "budget_left")  # tiles that look back at servers that are gone

T = TypeVar("T")


@dataclass(frozen=True)
class Drift:
    """worst: the signal nearest to its limit, or furthest over it; share: of that limit. over: what moved."""

    worst: str
    window: str
    share: float
    over: list[str]


@dataclass(frozen=True)
class Quality:
    """Of the live release, on labelled traffic; floor: None if it has none."""

    metric: str
    value: float
    lower: float
    upper: float
    floor: float | None
    rows: int


@dataclass(frozen=True)
class Model:
    """live: (version, provider) of every release that servers answer with. agrees: None if one side is not known.

    measured: whether Prometheus was asked; without it a server says what is live, and "" is its provider.
    rows: that the servers that run now have answered with these; None if not known.
    scraped_s: Unix time of the look at the servers that `live` is of; None if not known.
    """

    name: str
    live: list[tuple[str, str]] | None
    promoted: str | None
    previous: str | None
    changed: Change | None
    drift: Drift | None
    quality: list[Quality]
    measured: bool = True
    rows: int | None = None
    scraped_s: float | None = None

    @property
    def agrees(self) -> bool | None:
        if self.live is None or self.promoted is None:
            return None
        return {version for version, _ in self.live} == {self.promoted}

    @property
    def unseen(self) -> bool:
        """Return whether the champion was changed after the servers were looked at."""
        return bool(self.changed and self.scraped_s and self.changed.time_s > self.scraped_s)

    @property
    def follows(self) -> str:
        """Return the place that this store takes the model from, "" if it is promoted here."""
        return followed.place(self.name)

    @property
    def waits_for_itself(self) -> bool:
        """Return whether this store follows the place that it sends its own changes of the model to."""
        return followed.is_promoted_here(self.name, self.follows)

    @property
    def undo(self) -> str:
        """Return the command that brings the champion of before back, "" if there was none.

        A store that follows a place refuses it: there it is what to type where releases are promoted.
        """
        if not self.previous:
            return ""
        command = f'vigil rollback --model {self.name} --why "..."'
        if self.waits_for_itself:
            return f"vigil models sync --stop --model {self.name} && {command}"
        return f"VIGIL_RELEASES={shlex.quote(self.follows)} {command}" if self.follows else command


@dataclass(frozen=True)
class Status:
    """What was found; pending: pages that come if it stays so. problems: why something could not be asked.

    started_s: when Prometheus started, asked where something is pending; None if not known.
    """

    time_s: float
    tiles: list[Tile]
    models: list[Model]
    firing: list[Firing]
    problems: list[str] = field(default_factory=list)
    pending: list[Firing] = field(default_factory=list)
    started_s: float | None = None

    @property
    def code(self) -> int:
        """Return the exit status: 0 nothing fires, 1 something does, 2 it could not all be asked."""
        return 2 if self.problems else int(any(not one.muted for one in self.firing))


def read(model: str, prometheus: str, alertmanager: str, service: str, monitor: str) -> Status:
    """Return how things are; what does not answer is named among the problems. model: "" is every one.

    service, monitor: addresses; they are asked where Prometheus does not answer.
    Raises ConfigError for what is no name of a model: it becomes part of the queries as it is.
    """
    if model and not NAME.fullmatch(model):
        raise ConfigError(f"--model: '{model}' is not a model name; `vigil models` lists them")
    problems: list[str] = []
    ask = partial(api.instant, prometheus)
    shown = _or_problem(problems, partial(tiles.read, ask, model))
    measured = _or_problem(problems, partial(_measured, ask, model)) if shown is not None else None
    scraped = _or_problem(problems, partial(ask, SCRAPED)) if shown is not None else None
    firing = _or_problem(problems, partial(api.notified, alertmanager))
    if firing is None and shown is not None:
        firing = _or_problem(problems, partial(api.evaluated, prometheus))
    waiting = _or_problem(problems, partial(api.pending, prometheus)) if shown is not None else None
    waiting = [one for one in waiting or [] if one.severity == "critical" and _of(one, model)]
    firing = [one for one in firing or [] if one.name != WATCHDOG and _of(one, model)]
    asked = direct.read(service, monitor) if shown is None else direct.Direct()
    problems += asked.problems
    promoted = _or_problem(problems, aliases.models) or []
    names = sorted({*promoted, *(measured.models() if measured else ()), *(asked.live or ())})
    if model and model not in names and (measured is not None or asked.live is not None):
        known = f"; promoted here: {', '.join(names)}" if names else ""
        problems.append(f"no model '{model}' is served, and none is promoted in this store{known}")
    every = [_model(name, measured, problems) for name in names if model in ("", name)]
    every = [replace(one, scraped_s=scraped[0].value if scraped else None) for one in every]
    if asked.live is not None:
        # Of a model that this service is not told to serve it knows nothing; another one may serve it.
        every = [
            replace(one, live=_answering(asked.live[one.name])) if one.name in asked.live else one for one in every
        ]
    told = _agreed(_seen(shown, scraped) or asked.tiles, every)
    # A program that answers as Prometheus does need not know when it started.
    started_s = _or_problem([], partial(api.started, prometheus)) if waiting else None
    return Status(time.time(), told, every, firing, problems, waiting, started_s)


def as_dict(status: Status) -> dict[str, Any]:
    """Return plain values: what `vigil status --json` prints."""
    return {
        "time_s": round(status.time_s, 3),
        "ok": status.code == 0,
        "tiles": {tile.key: _tile(tile) for tile in status.tiles},
        "models": {one.name: _as_dict(one) for one in status.models},
        "firing": [asdict(one) for one in status.firing],
        "pending": [asdict(one) for one in status.pending],
        "prometheus_started_s": status.started_s,
        "problems": status.problems,
    }


@dataclass(frozen=True)
class _Measured:
    live: list[Sample]
    nearest: list[Sample]
    drifted: list[Sample]
    rows: list[Sample]
    quality: dict[str, list[Sample]]

    def models(self) -> set[str]:
        return {sample.labels["model"] for sample in self.live}


def _measured(ask: tiles.Ask, model: str) -> _Measured:
    chosen = model or ".*"
    queries = (LIVE, SHARE_OF_LIMIT, DRIFTED, ROWS)
    live, nearest, drifted, rows = (ask(query.format(model=chosen)) for query in queries)
    quality = {what: ask(QUALITY.format(what=what, model=chosen)) for what in MEASURED}
    return _Measured(live, nearest, drifted, rows, quality)


def _model(name: str, measured: _Measured | None, problems: list[str]) -> Model:
    state = _or_problem(problems, partial(aliases.read, name))
    promoted, previous = (state.champion, state.previous) if state else (None, None)
    changes = [change for change in state.history if change.action in ("promote", "rollback")] if state else []
    live = _versions(name, measured.live) if measured else None
    versions = {version for version, _ in live or ()}
    return Model(
        name, live, promoted.version if promoted else None, previous.version if previous else None,
        changes[-1] if changes else None,
        _drift(name, measured) if measured and versions else None,
        _quality(name, measured, versions) if measured else [],
        measured is not None,
        _rows(name, measured, versions) if measured else None,
    )  # fmt: skip


def _answering(version: str | None) -> list[tuple[str, str]]:
    return [(version, "")] if version else []


def _versions(name: str, live: list[Sample]) -> list[tuple[str, str]]:
    return sorted((one.labels["version"], one.labels["provider"]) for one in live if one.labels["model"] == name)


def _drift(name: str, measured: _Measured) -> Drift | None:
    nearest = [one for one in measured.nearest if one.labels["model"] == name]
    moved = sorted((one.value, one.labels["signal"]) for one in measured.drifted if one.labels["model"] == name)
    over = [signal for _, signal in reversed(moved)]
    if not nearest:
        return None
    (worst,) = nearest[:1]
    return Drift(worst.labels["signal"], worst.labels["window"], worst.value, over)


def _rows(name: str, measured: _Measured, versions: set[str]) -> int:
    found = [one for one in measured.rows if one.labels["model"] == name and one.labels["version"] in versions]
    return int(sum(one.value for one in found))


def _quality(name: str, measured: _Measured, versions: set[str]) -> list[Quality]:
    found: dict[tuple[str, str], dict[str, float]] = {}
    for what, samples in measured.quality.items():
        for one in samples:
            if one.labels["model"] == name and one.labels["version"] in versions:
                found.setdefault((one.labels["version"], one.labels["metric"]), {})[what] = one.value
    return [
        Quality(metric, said["value"], said["lower"], said["upper"], said.get("floor"), int(said.get("rows", 0)))
        for (_, metric), said in sorted(found.items())
        if {"value", "lower", "upper"} <= said.keys()
    ]


def _seen(shown: list[Tile] | None, scraped: list[Sample] | None) -> list[Tile] | None:
    # What was scraped before the last server went would look calm.
    if shown is None or scraped:
        return shown
    unknown = "unknown: no server is scraped now"
    return [replace(one, text=unknown, judgement="", samples=[]) if one.key in BLIND else one for one in shown]


def _agreed(told: list[Tile], models: list[Model]) -> list[Tile]:
    # Servers compare themselves with the champion that they knew when they were last scraped.
    if not (apart := [one.name for one in models if one.live and one.agrees is False]):
        return told
    text = f"yes when last scraped, not by the alias file here: {', '.join(apart)}"
    calm = ("as_promoted", "good")
    return [replace(one, text=text, judgement="warning") if (one.key, one.judgement) == calm else one for one in told]


def _of(firing: Firing, model: str) -> bool:
    return not model or firing.labels.get("model", model) == model


def _or_problem(problems: list[str], look: Callable[[], T]) -> T | None:
    try:
        return look()
    except UserError as error:
        if str(error) not in problems:
            problems.append(str(error))
        return None


def _tile(tile: Tile) -> dict[str, Any]:
    said = {"title": tile.title, "text": tile.text, "judgement": tile.judgement or None}
    return said | {"value": tile.samples[0].value if len(tile.samples) == 1 else None}


def _as_dict(model: Model) -> dict[str, Any]:
    live = None if model.live is None else [{"version": v, "provider": p} for v, p in model.live]
    return asdict(model) | {"live": live, "agrees": model.agrees, "undo": model.undo or None}
