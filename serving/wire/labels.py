"""Labels that arrive late: (id, label) pairs, as JSON."""

import math
from functools import partial
from typing import Any

from serving.wire.request import LONGEST_ID, kind, refuse, shown, some
from serving.wire.text import demand_unique, known_object, read

KEYS = {"id", "label"}


def decode_labels(body: bytes, classes: tuple[str, ...]) -> list[tuple[str, str]]:
    """Return the (id, label) pairs of `{"labels": [{"id": ..., "label": ...}, ...]}` as text.

    A label is a class name, or the number of a class; in a regression (no classes) a finite number.
    Raises RequestError naming the label.
    """
    return read(body, partial(_labels, body, classes))


def _labels(body: bytes, classes: tuple[str, ...], said: Any, _: bool) -> list[tuple[str, str]]:
    given = known_object(said, known=("labels",)).get("labels")
    if not isinstance(given, list) or not given:
        refuse("labels", None, f"must be a list of at least one label, found {kind(given)}", "missing")
    pairs = [_label(label, i, classes) for i, label in enumerate(given)]
    demand_unique(body, 1 + 2 * len(pairs))
    return pairs


def _label(label: Any, index: int, classes: tuple[str, ...]) -> tuple[str, str]:
    if not isinstance(label, dict) or label.keys() != KEYS:
        refuse("labels", index, f"must be an object with id and label, found {_other(label)}", "malformed")
    ident, said = label["id"], label["label"]
    if not isinstance(ident, str) or not 0 < len(ident) <= LONGEST_ID:
        refuse("labels", index, f"id must be a string of 1 to {LONGEST_ID} characters", "malformed")
    if not classes:
        return ident, _number(said, index)
    if isinstance(said, int) and not isinstance(said, bool) and 0 <= said < len(classes):
        return ident, classes[said]
    if not isinstance(said, str) or said not in classes:
        refuse("labels", index, f"label {shown(said)} is not a class; this model has {some(classes)}", "malformed")
    return ident, said


def _other(label: Any) -> str:
    # What stands where a label should, by the keys that it lacks and has too many.
    if not isinstance(label, dict):
        return kind(label)
    lacks = [key for key in ("id", "label") if key not in label]
    more = [shown(key) for key in label if key not in KEYS]
    without = f" without {' and '.join(lacks)}" if lacks else ""
    return f"an object{without}{' with ' + some(more) if more else ''}"


def _number(said: Any, index: int) -> str:
    try:
        number = math.nan if isinstance(said, bool) or not isinstance(said, int | float) else float(said)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        refuse("labels", index, f"label must be a finite number, found {kind(said)}", "malformed")
    return repr(number)
