"""What a shared place says: of which models it has aliases, and which they are."""

import shlex

from registry import aliases
from registry.aliases import Aliases
from registry.errors import AliasError, StackError
from registry.release import NAME
from registry.remote import Remote

MOST_ALIAS_BYTES = 64_000_000


def names(remote: Remote, model: str) -> list[str]:
    """Return `model`, or all that the place has aliases of; raises StackError if it has none."""
    if model:
        return [model]
    found = [n.removesuffix(".json") for n in remote.names("aliases") if n.endswith(".json")]
    known = [name for name in found if NAME.fullmatch(name)]  # others lie there by accident, and hinder nobody
    if not known:
        raise StackError(f"{remote.name}: holds no releases; send some: vigil models push {remote.name}")
    return known


def read(remote: Remote, model: str, overwrite: bool = False) -> tuple[Aliases | None, bytes]:
    """Return the aliases of `model` in the place and their bytes; None and no bytes if there are none to heed."""
    aliases.path(model)  # raises AliasError for a name that would lead elsewhere
    content = None if overwrite else remote.read(f"aliases/{model}.json", MOST_ALIAS_BYTES)
    if content is None:
        return None, b""
    try:
        return aliases.parse(model, content, f"{remote.name}/aliases/{model}.json"), content
    except AliasError as error:
        cure = f"vigil models push {shlex.quote(remote.name)} --model {model} --overwrite"
        text = f"{error}; delete it there if it is none of yours, or where releases are promoted: {cure}"
        raise AliasError(text) from error


def read_champion(remote: Remote, model: str) -> tuple[Aliases, bytes]:
    """Return what `read` does; raises AliasError where the place has no champion of `model`."""
    there, content = read(remote, model)
    if there is None or there.champion is None:
        raise AliasError(f"{remote.name}: {model} has no champion there; vigil models push {remote.name} sends it")
    return there, content


def read_if_readable(remote: Remote, model: str) -> Aliases:
    """Return the aliases of `model` in the place, empty ones if they are damaged or not there."""
    try:
        return read(remote, model)[0] or Aliases(model)
    except AliasError:
        return Aliases(model)
