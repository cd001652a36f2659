"""Whether this store follows a shared place: then its champions change there, and not here.

The file `synced` beside the aliases holds the address of the place; its time is that of the last good look.
"""

import os
import shlex
from pathlib import Path

from registry import durable, store
from registry.errors import AliasError


def place() -> str:
    """Return the address that this store follows, without its password; empty if it follows none."""
    try:
        return _file().read_text().strip()
    except FileNotFoundError:
        return ""


def mark(name: str) -> None:
    """Write down that the place `name` was looked at now, and all of it is here."""
    if place() == name:
        os.utime(_file())
    else:
        durable.write_atomically(_file(), f"{name}\n".encode())


def demand_not(verb: str, why: str) -> None:
    """Raise AliasError with what to type elsewhere if this store follows a place; verb: of the refused change."""
    if name := place():
        raise AliasError(
            f"this store follows {name}: no other server would learn of a change made here. Type where releases are "
            f"promoted: VIGIL_RELEASES={shlex.quote(name)} vigil {verb} --why {shlex.quote(why)}\n"
            f"If nothing follows that place any more: rm {shlex.quote(str(_file()))}"
        )


def _file() -> Path:
    return store.home() / "synced"
