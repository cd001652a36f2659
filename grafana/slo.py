"""What the callers were promised: read from slo.toml, the one place where a team changes it."""

import difflib
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from monitoring.metrics import REQUEST_BUCKETS_S
from registry.errors import ConfigError

FILE = Path(__file__).resolve().parent / "slo.toml"
KEYS = {"availability": ("objective",), "latency": ("objective", "bound_s")}
# Under 0.95 even 14.4 times the budget is nearly every request; over 0.99999 one failure in a day spends a month's.
LOWEST, HIGHEST = 0.95, 0.99999


@dataclass(frozen=True)
class Objectives:
    """Shares of requests that must not fail, and that must be answered within `bound_s`, a bucket."""

    availability: float
    latency: float
    bound_s: float


def read(path: Path | None = None) -> Objectives:
    """Return the objectives of a TOML file, slo.toml if left out.

    Raises ConfigError naming the key if one is unknown, missing or out of range.
    """
    path = path or FILE
    try:
        tables = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: there is no such file; it has the tables {', '.join(KEYS)}") from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path.name}: is not TOML: {error}") from error
    _check_known(path.name, "table", "", tables, tuple(KEYS))
    for name, keys in KEYS.items():
        table = tables[name] if isinstance(tables[name], dict) else {}
        _check_known(path.name, "key", f"{name}.", table, keys)
    availability, latency = (_objective(path.name, name, tables[name]["objective"]) for name in KEYS)
    return Objectives(availability, latency, _bound(path.name, tables["latency"]["bound_s"]))


def _check_known(where: str, kind: str, prefix: str, found: dict[str, Any], known: tuple[str, ...]) -> None:
    for name in found:
        if name not in known:
            close = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean '{prefix}{close[0]}'?" if close else f"known: {', '.join(known)}"
            raise ConfigError(f"{where}: unknown {kind} '{prefix}{name}'; {hint}")
    for name in known:
        if name not in found:
            raise ConfigError(f"{where}: {kind} '{prefix}{name}' is missing; add it")


def _objective(where: str, name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not LOWEST <= value <= HIGHEST:
        raise ConfigError(
            f"{where}: {name}.objective is {value!r}; accepted is a share from {LOWEST} to {HIGHEST}, as 0.999"
        )
    return float(value)


def _bound(where: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or value not in REQUEST_BUCKETS_S:
        raise ConfigError(
            f"{where}: latency.bound_s is {value!r}; accepted is a bucket of vigil_request_seconds, "
            f"for only these are counted: {', '.join(f'{edge:g}' for edge in REQUEST_BUCKETS_S)}"
        )
    return float(value)
