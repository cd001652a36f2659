"""Which values of which settings a search may try, as the table [search.space] says it."""

from collections.abc import Callable, Mapping
from dataclasses import Field, fields
from typing import Any

from registry.errors import ConfigError

SCALES = ("log", "linear")
NOT_COMPARABLE = "optimizer.label_smoothing"  # the validation loss is measured with it
Space = tuple[Any, ...]  # of one setting: low, high and a scale, or the values to choose from


def read(
    value: Any, place: str, sections: Mapping[str, type], check: Callable[["Field[Any]", Any, str], Any]
) -> dict[str, Space]:
    """Return the space by dotted key of a setting.

    place: for messages. sections: whose settings may be searched. check: returns a value that fits a setting
    (field, value, dotted key), or raises. Raises ConfigError if a setting is unknown or not comparable, or if its
    list says nothing.
    """
    found = {}
    for key, values in _leaves(value):
        section, _, rest = key.partition(".")
        known = {entry.name: entry for entry in fields(sections[section])} if section in sections else {}
        if rest not in known:
            raise ConfigError(
                f"{place} names '{key}'; accepted are settings of {', '.join(sections)}, for example "
                'schedule.peak = [1e-4, 1e-2, "log"]'
            )
        if key == NOT_COMPARABLE:
            raise ConfigError(
                f"{place} names '{key}'; the validation loss is measured with it, so trials that differ in it cannot "
                "be compared: choose it in [optimizer]"
            )
        if not isinstance(values, list) or len(values) < 2:
            raise ConfigError(
                f'{place} has {key} = {values!r}; accepted are [low, high, "log"], [low, high, "linear"] and '
                "lists of two values or more"
            )
        found[key] = _choices([check(known[rest], one, key) for one in _numbers(values)], values, f"{place}: {key}")
    return found


def is_range(values: Space) -> bool:
    """Return whether these are low, high and a scale."""
    return len(values) == 3 and values[2] in SCALES and not isinstance(values[0], str)


def ends(values: Space) -> tuple[Any, Any]:
    """Return the lowest and the highest of the values."""
    tried = values[:2] if is_range(values) else values
    return min(tried), max(tried)


def _numbers(values: list[Any]) -> list[Any]:
    return values[:2] if is_range(tuple(values)) else values


def _choices(checked: list[Any], values: list[Any], place: str) -> Space:
    if not is_range(tuple(values)):
        return tuple(checked)
    low, high = checked
    if low >= high or (values[2] == "log" and low <= 0):
        raise ConfigError(f"{place} goes from {low} to {high}; accepted is low < high, above 0 for log")
    return low, high, values[2]


def _leaves(value: Any, prefix: str = "") -> list[tuple[str, Any]]:
    # TOML reads schedule.peak as a table in a table, and "schedule.peak" as one key: both are meant.
    if not isinstance(value, dict):
        return [(prefix, value)]
    return [leaf for key, inner in value.items() for leaf in _leaves(inner, f"{prefix}.{key}" if prefix else key)]
