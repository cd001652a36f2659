"""What is looked at before the service shows itself: what its workers need for it, and who could then call."""

import contextlib
import difflib
import ipaddress
import logging
import os
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path

from registry import aliases, store
from registry.errors import AliasError
from registry.release import NAME
from serving import chosen, keys, tracing
from serving.settings import Settings, from_environment

log = logging.getLogger(__name__)


def demand(environment: Mapping[str, str]) -> None:
    """Raise ConfigError or AliasError for what a service of this environment could not use, before one is started."""
    said = from_environment(environment)
    tracing.demand(said.trace_share)
    chosen.at_start(said)
    held = claim(said)
    if held is not None:
        held.close()


def demand_models(names: Sequence[str]) -> None:
    """Raise AliasError for a model that the store does not hold; one that is empty may be filled later."""
    champions = aliases.models()
    held = sorted({*champions, *(folder.name for folder in store.models().glob("*/") if NAME.fullmatch(folder.name))})
    for name in names:
        if held and name not in held:
            close = difflib.get_close_matches(name, held, n=1)
            hint = f"did you mean '{close[0]}'? " if close else ""
            raise AliasError(f"--model: no model '{name}'; {hint}there are {', '.join(champions or held)}")


def claim(settings: Settings) -> socket.socket | None:
    """Return what keeps the admin address for the workers of this service, for their parent to hold while they live.

    Raises ConfigError for an address, or a key file, that the workers could not use.
    """
    if settings.keys_path is not None:
        keys.read(settings.keys_path)
    if settings.admin_address is None:
        return None
    from serving.lanes import admin

    return admin.claim(settings.admin_address)


def warn(key_file: Path | None, arguments: Sequence[str]) -> bool:
    """Log a warning, and return True, if there is no key file and other machines may connect.

    arguments: of this worker; `--fd N` among them is the socket that it listens on.
    """
    host = _host(arguments)
    if key_file is not None or host is None or ipaddress.ip_address(host).is_loopback:
        return False
    log.warning("no_keys", extra={"host": host, "cure": "VIGIL_KEYS=FILE vigil keys add NAME --role predict"})
    return True


def _host(arguments: Sequence[str]) -> str | None:
    with contextlib.suppress(ValueError, IndexError, OSError):
        descriptor = os.dup(int(arguments[arguments.index("--fd") + 1]))
        with socket.socket(fileno=descriptor) as listening:
            name = listening.getsockname()
            return str(name[0]) if isinstance(name, tuple) else None
    return None
