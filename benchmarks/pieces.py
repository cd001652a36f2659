"""What a long benchmark has measured so far, written piece by piece, so that a run that is cut off can go on."""

import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass
class Kept:
    """The pieces of one data set that are measured, by name; save is called when there is one more."""

    pieces: dict[str, Any] = field(default_factory=dict)
    save: Callable[[], None] = lambda: None

    def put(self, name: str, found: Any) -> None:
        """Keep a piece."""
        self.pieces[name] = as_json(found)
        self.save()


def begun(found: dict[str, Any], name: str, trials: int, resume: bool) -> dict[str, Any]:
    """Return the pieces of a data set that an earlier run left in `found`, none unless it goes on with as many trials.

    What is put into them is part of `found`, until `done`.
    """
    parts = found.setdefault("parts", {})
    old = parts.get(name, {})
    same = resume and old.get("trials") == trials
    parts[name] = {"trials": trials, "pieces": old["pieces"] if same else {}}
    pieces: dict[str, Any] = parts[name]["pieces"]
    return pieces


def done(found: dict[str, Any], name: str) -> None:
    """Drop the pieces of a data set that is measured whole."""
    del found["parts"][name]
    if not found["parts"]:
        del found["parts"]


def write(found: dict[str, Any], file: Path) -> None:
    """Write what was found; a run that is cut off here leaves the file as it was."""
    new = file.with_suffix(".new")
    new.write_text(json.dumps(found, indent=1) + "\n")
    new.replace(file)


def as_json(found: Any) -> Any:
    """Return it as JSON has it, so that a piece that was read again is as one that was just measured."""
    return json.loads(json.dumps(found))


def progress(line: str) -> None:
    """Say what is measured now, and after how much time."""
    print(f"{time.process_time():6.0f} s of CPU: {line}", file=sys.stderr, flush=True)
