"""What service and monitor say themselves: all there is to know of them while Prometheus does not answer."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from oncall import api
from oncall.tiles import Tile
from registry.errors import StackError

Kinds: TypeAlias = dict[str, type | tuple[type, ...]]
SERVICE, MONITOR = "Service", "Monitor"
JUDGED = {"ok": "good", "behind": "warning", "stale": "bad"}
# What is read, by its type: many programs answer /healthz with a status of their own.
HEALTH: Kinds = {"status": str, "age_s": (int, float), "failing": dict}
MODEL: Kinds = {"model": str, "ready": bool, "versions": list}


@dataclass
class Direct:
    """live: the version that answers, by model, None where there is none; all None if the service did not say."""

    tiles: list[Tile] = field(default_factory=list)
    live: dict[str, str | None] | None = None
    problems: list[str] = field(default_factory=list)


def read(service: str, monitor: str) -> Direct:
    """Ask one server and the monitor at these addresses; who does not answer is among the problems."""
    found = Direct()
    for look, base in ((_service, service), (_monitor, monitor)):
        _try(found, look, base)
    return found


def _try(found: Direct, look: Callable[[Direct, str], None], base: str) -> None:
    try:
        look(found, base)
    except StackError as error:
        found.problems.append(str(error))


def _service(found: Direct, base: str) -> None:
    said = _object(SERVICE, base, "/readyz", {"ready": bool})
    text = "ready" if said["ready"] else f"not ready: {said.get('reason')}"
    found.tiles.append(_tile(SERVICE, text, base, "good" if said["ready"] else "bad"))
    status, _ = api.answer(SERVICE, base, "/v1/models")
    if status in (401, 403):
        raise StackError(f"{SERVICE} at {base}: shows its live version only to an API key; see `vigil models`")
    models = _object(SERVICE, base, "/v1/models", {"models": list})["models"]
    if not all(_holds(one, MODEL) and (one["versions"] or not one["ready"]) for one in models):
        raise StackError(api.foreign(SERVICE, base))
    # The live version is the first one of those that are loaded.
    found.live = {one["model"]: one["versions"][0] if one["ready"] else None for one in models}


def _monitor(found: Direct, base: str) -> None:
    said = _object(MONITOR, base, "/healthz", HEALTH)
    failing = "".join(f", {part} fails ({error})" for part, error in said["failing"].items())
    text = f"{said['status']}, last good run {said['age_s']:.0f} s ago{failing}"
    if said.get("last_success_s") is None:
        text = f"{said['status']}, no good run yet{failing}"
    found.tiles.append(_tile(MONITOR, text, base, JUDGED.get(said["status"], "bad")))


def _tile(program: str, text: str, base: str, judgement: str) -> Tile:
    return Tile(program, f"{text} (asked directly, at {base})", judgement, [])


def _object(program: str, base: str, path: str, kinds: Kinds) -> dict[str, Any]:
    # Both say with a 503 what is wrong.
    _, text = api.answer(program, base, path)
    try:
        said = json.loads(text)
    except ValueError as error:
        raise StackError(api.foreign(program, base)) from error
    if not _holds(said, kinds):
        raise StackError(api.foreign(program, base))
    found: dict[str, Any] = said
    return found


def _holds(said: Any, kinds: Kinds) -> bool:
    return isinstance(said, dict) and all(isinstance(said.get(key), kind) for key, kind in kinds.items())
