"""Which shared place the aliases of a model follow, and which they are sent to.

Beside the aliases, `followed/MODEL` holds the address that a model follows; its time is that of the last good look
at it, 0 before the first. `followed/MODEL.brought` names the versions that came from there, `sent/MODEL` holds the
address that changes made here go to. `synced` has the time of the last look that reached its place at all.
"""

import os
import shlex
from pathlib import Path

from registry import durable, store
from registry.errors import AliasError
from registry.release import NAME


def place(model: str) -> str:
    """Return the address that `model` follows, without its password; empty if its champion changes here."""
    return _line(_file(model))


def begin(model: str, name: str) -> None:
    """Write down that `model` follows the place `name` from now on; its champion changes there, and not here."""
    if place(model) != name:
        _write(_file(model), f"{name}\n", time_s=0)


def end(model: str) -> None:
    """Forget that `model` follows a place: its champion changes here again."""
    _file(model).unlink(missing_ok=True)


def models() -> list[str]:
    """Return the models that follow a place, also those of which nothing is here yet."""
    return sorted(file.name for file in (store.home() / "followed").glob("*") if NAME.fullmatch(file.name))


def saw(model: str) -> None:
    """Write down that all that the place says of `model` is here now."""
    os.utime(_file(model))


def looked_s(model: str) -> float:
    """Return the Unix time of the last good look at what `model` follows, 0 if there was none or it follows nothing."""
    try:
        return _file(model).stat().st_mtime
    except FileNotFoundError:
        return 0.0


def reached(name: str) -> None:
    """Write down that the place `name` answered now."""
    _write(store.home() / "synced", f"{name}\n")


def brought(model: str) -> frozenset[str]:
    """Return the versions of `model` that came from a shared place."""
    try:
        return frozenset(_record(model).read_text().split())
    except FileNotFoundError:
        return frozenset()


def add_brought(model: str, version: str) -> None:
    """Write down that `version` is about to come from a shared place."""
    if version not in (known := brought(model)):
        _write(_record(model), "".join(f"{one}\n" for one in sorted({*known, version})))


def destination(model: str) -> str:
    """Return the address that the aliases of `model` were last sent to; empty if they never were."""
    return _line(_sent(model))


def remember(model: str, url: str) -> None:
    """Write down that changes of `model` go to `url`."""
    if destination(model) != url:
        _write(_sent(model), f"{url}\n")


def demand_own(model: str) -> None:
    """Raise AliasError if `model` follows a place: no other server would learn of a change made here."""
    if name := place(model):
        raise AliasError(
            f"{model}: this store follows {name}: no other server would learn of a change made here. Make it where "
            f"releases are promoted. If nothing follows that place any more: rm {shlex.quote(str(_file(model)))}"
        )


def _file(model: str) -> Path:
    if not NAME.fullmatch(model):
        raise AliasError(f"'{model}' is not a model name; `vigil models` lists them")
    return store.home() / "followed" / model


def _record(model: str) -> Path:
    return _file(model).with_suffix(".brought")


def _sent(model: str) -> Path:
    return store.home() / "sent" / _file(model).name


def _line(path: Path) -> str:
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        return ""


def _write(path: Path, text: str, time_s: float | None = None) -> None:
    durable.make_folder(path.parent)
    durable.write_atomically(path, text.encode(), time_s=time_s)
