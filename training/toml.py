"""Settings -> the text of a TOML file; `tomllib` reads them back as they were."""

import json
from collections.abc import Mapping
from typing import Any

WIDTH = 110  # of a list; a longer one takes a line for each entry


def text(values: Mapping[str, Any]) -> str:
    """Return settings as TOML: plain values first, then a table per section."""
    lines = [f"{key} = {value(one)}" for key, one in values.items() if not isinstance(one, dict)]
    for section, inner in values.items():
        if isinstance(inner, dict):
            lines += ["", f"[{section}]", *(f"{key} = {value(one)}" for key, one in inner.items())]
    return "\n".join(lines) + "\n"


def value(plain: Any) -> str:
    """Return one value: a number, text, true or false, or a list or tuple of them."""
    if isinstance(plain, bool):
        return "true" if plain else "false"
    if isinstance(plain, str):
        return json.dumps(plain, ensure_ascii=False).replace("\x7f", "\\u007f")
    if not isinstance(plain, list | tuple):
        return repr(plain)
    cells = [value(one) for one in plain]
    flat = f"[{', '.join(cells)}]"
    return flat if len(flat) <= WIDTH else "[\n  " + ",\n  ".join(cells) + ",\n]"
