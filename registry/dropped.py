"""Which changes a shared place has dropped on purpose, so that stores that took them may follow all the same.

    URL/dropped/NAME.json           who changed what and when, of each dropped change

A history only grows, and whoever has changes that the place lacks is told; but not where somebody chose between two
histories (`--overwrite`) and wrote down here what was given up.
"""

import json
import logging

from registry.aliases import Aliases, Change
from registry.errors import UserError
from registry.remote import Remote

log = logging.getLogger(__name__)

MOST_BYTES = 16_000_000

Key = tuple[float, str, str, str]


def add(remote: Remote, old: Aliases, new: Aliases) -> None:
    """Write down which changes of `old` are not in `new`; where the place cannot be written, only the log says so."""
    lost = _lost(old, new)
    if not lost:
        return
    try:
        content = json.dumps(sorted({*_known(remote, old.model), *lost})).encode()
        remote.write(_path(old.model), content)
    except UserError as error:
        log.warning("dropped_not_told", extra={"model": old.model, "error": str(error)})


def holds(remote: Remote, old: Aliases, new: Aliases) -> bool:
    """Return whether all changes of `old` that are not in `new` were dropped on purpose. Raises StackError."""
    return _lost(old, new) <= _known(remote, old.model)


def _known(remote: Remote, model: str) -> set[Key]:
    content = remote.read(_path(model), MOST_BYTES)
    try:
        said = json.loads(content) if content else []
        return {(float(at), str(who), str(action), str(to)) for at, who, action, to in said}
    except (ValueError, TypeError):
        return set()


def _lost(old: Aliases, new: Aliases) -> set[Key]:
    return {*map(_key, old.history)} - {*map(_key, new.history)}


def _key(change: Change) -> Key:
    return change.time_s, change.who, change.action, change.to_version


def _path(model: str) -> str:
    return f"dropped/{model}.json"
