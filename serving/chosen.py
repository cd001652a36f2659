"""Which model a service follows that was told none: the only one with a champion, fixed when there first is one.

What gets a champion later in the same store is none of its business: a worker that was started again would see
two, and serve none. Where there is a champion already, the parent fixes it; else the worker that first sees one.
"""

import os
from pathlib import Path

from registry import aliases
from registry.errors import AliasError
from serving.settings import Settings

NAME = "model"  # a link in the folder of the service, to no file: it leads to the name


def at_start(settings: Settings) -> str:
    """Return the one model that a service of these settings follows from its start on, "" while none has a champion.

    Also "" where models are named. Raises AliasError if several have a champion, or will, and none is named.
    """
    present = aliases.present_models()
    if settings.models or not present:
        return ""
    if len(present) > 1:
        names = ",".join(present)
        raise AliasError(
            f"{len(present)} models have a champion or follow a place, none is named: set VIGIL_MODELS={names}, "
            f"or one of them (vigil serve: --model {names})"
        )
    return present[0]


def only_model(folder: Path | None) -> str:
    """Return the model that this worker follows, the same for all workers that have `folder` in common.

    Raises AliasError while there is none, and without a folder where there are several.
    """
    if folder is None:
        return aliases.only_model()
    place = folder / NAME
    try:
        return os.readlink(place)
    except FileNotFoundError:
        found = aliases.only_model()
    try:
        os.symlink(found, place)  # whole or not at all, and refused to whoever comes second
    except FileExistsError:
        return os.readlink(place)
    return found
