"""Which shared place the aliases of a model follow, which they are sent to, and the lock under which all that changes.

Beside the aliases, `followed/MODEL` holds the address that a model follows; its time is that of the last good look
at it, 0 before the first. Empty: a person stopped that. `sent/MODEL` holds the address that changes made here go to.
`followed/MODEL.brought` names the versions that came from there; one pull at a time writes it (`sync.lock`). `synced`
has the time of the last look that reached its place at all.

The rule. A model's aliases, `followed/MODEL` and `sent/MODEL` are written under one lock, `changing`, and who writes
asks under it what the right to write rests on, however often it was asked before: a change by a person, that the model
follows no place (`demand_own`); a look, that it still follows the place looked at (`demand_follows`, `saw`, `end`); a
beginning, that nobody stopped it and nothing is sent there (`begin`). So what a person stopped is stopped when the
command ends, whatever a look has in hand. What takes long - asking the place, copying - is done without the lock.

Two marks go first. `followed/MODEL` is there before the first release comes: a server that is told no model sees that
this is not the only one. `sent/MODEL` is there before the aliases are in the place: who finds them there finds the mark
here, and takes no model of this store for one of others.
"""

import os
from contextlib import AbstractContextManager
from pathlib import Path

from registry import durable, store
from registry.errors import AliasError
from registry.release import NAME


class StoppedError(AliasError):
    """A model follows the place no more that a look has brought something from."""


def changing(model: str) -> AbstractContextManager[None]:
    """Hold the lock under which the aliases of `model`, and whom they follow, change; never twice at once."""
    return durable.locked(store.home() / "aliases" / f".{_file(model).name}.lock")


def place(model: str) -> str:
    """Return the address that `model` follows, without its password; empty if its champion changes here."""
    return _line(_file(model))


def follows(model: str, name: str) -> bool:
    """Return whether `model` follows the place `name`."""
    return bool(name) and same(place(model), name)


def may_begin(model: str, name: str) -> bool:
    """Return whether `model` may begin to follow the place `name`: no person stopped it, and nothing is sent there."""
    return not (stopped(model) or is_promoted_here(model, name))


def begin(model: str, name: str) -> None:
    """Let `model` follow the place `name` from now on if it may: its champion changes there, and not here."""
    with changing(model):
        if not follows(model, name) and may_begin(model, name):
            _write(_file(model), f"{name}\n", time_s=0)


def end(model: str, name: str) -> None:
    """Let `model` no more follow the place `name`, if it does: its champion changes here again."""
    with changing(model):
        if follows(model, name):
            _file(model).unlink()


def stop(model: str) -> None:
    """Let the champion of `model` change here again, also beside a process that follows: it begins nothing anew."""
    with changing(model):
        _write(_file(model), "", time_s=0)


def stopped(model: str) -> bool:
    """Return whether a person stopped the following of `model`."""
    return _file(model).exists() and not place(model)


def resume(model: str) -> None:
    """Forget that a person stopped the following of `model`, of every model if it is empty."""
    for name in [model] if model else _names("followed"):
        with changing(name):
            if stopped(name):
                _file(name).unlink()


def models() -> list[str]:
    """Return the models that follow a place, also those of which nothing is here yet."""
    return [name for name in _names("followed") if place(name)]


def saw(model: str, name: str) -> None:
    """Write down that all that the place `name` says of `model` is here now, if `model` follows it."""
    with changing(model):
        if follows(model, name):
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
    """Let changes of `model` go to `url` from now on."""
    with changing(model):
        if destination(model) != url:
            _write(_sent(model), f"{url}\n")


def forget(model: str) -> None:
    """Let changes of `model` go nowhere from now on, unless told where."""
    with changing(model):
        _sent(model).unlink(missing_ok=True)


def sent() -> list[str]:
    """Return the models whose changes go to a place."""
    return [name for name in _names("sent") if destination(name)]


def is_promoted_here(model: str, name: str) -> bool:
    """Return whether changes of `model` go from this store to the place `name`."""
    return bool(name) and same(destination(model), name)


def same(one: str, other: str) -> bool:
    """Return whether two addresses are of one place."""
    return one.rstrip("/") == other.rstrip("/")


def demand_follower(name: str, model: str) -> None:
    """Raise AliasError if `model`, any model if it is empty, is to begin to follow the place that it is sent to.

    The store would wait for changes that nobody but itself makes.
    """
    for one in [model] if model else sent():
        if is_promoted_here(one, name) and not same(place(one), name):
            raise AliasError(
                f"{one}: this store sends its changes to {destination(one)}; accepted is a store that does not promote:"
                f" `sync --every` runs beside the other servers, and a server on this store needs none. If {one} is "
                f"promoted elsewhere from now on: vigil models push --stop --model {one}"
            )


def demand_own(model: str) -> None:
    """Raise AliasError if `model` follows a place: no other server would learn of a change made here."""
    if name := place(model):
        raise AliasError(
            f"{model}: this store follows {name}: no other server would learn of a change made here. Make it where "
            f"releases are promoted. If that is to be this store: vigil models sync --stop --model {model}"
        )


def demand_follows(model: str, name: str) -> None:
    """Raise StoppedError if `model` follows the place `name` no more."""
    if not follows(model, name):
        now = place(model) or "no place"
        raise StoppedError(f"{model}: is not taken from {name}: meanwhile it follows {now}; its champion here stays")


def _names(folder: str) -> list[str]:
    return sorted(file.name for file in (store.home() / folder).glob("*") if NAME.fullmatch(file.name))


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
