"""A request that a release answers, as one line to paste: a plausible row of a table, zeros for an image."""

import io
import json
import math
import os
import re
import shlex
import zipfile
from dataclasses import dataclass

import numpy as np

from registry import release as releases
from registry import store
from registry.errors import ReleaseError
from registry.release import HELDOUT, InputSpec, Release

LOCAL = "http://localhost:3000"
ADDRESS = re.compile(r"https?://[A-Za-z0-9.\-]+(:\d+)?|https?://\[[0-9a-fA-F:.]+\](:\d+)?")
MOST_BY_PLACE = 100  # numbers without names; a longer row goes as bytes, as images do
DIGITS = 6  # of a number that is shown

Value = str | int | float | None


@dataclass(frozen=True)
class Example:
    """What to send to a model. before: the commands whose output is sent. about: how bytes of one's own go, or ""."""

    model: str
    before: str
    options: str
    about: str

    def curl(self, url: str = LOCAL, keyed: bool = False) -> str:
        """Return the line that sends it. url: of the service. keyed: with the key in $KEY."""
        place = shlex.quote(f"{url if ADDRESS.fullmatch(url) else LOCAL}/v1/models/{self.model}/predict")
        key = ' -H "Authorization: Bearer $KEY"' if keyed else ""
        return f"{self.before}curl -s {place}{key} {self.options}"


def of(release: Release) -> Example:
    """Return the example of a release: of each column the middle of the held-out rows, or the value most of them have.

    Nobody's row: each value is taken by itself.
    """
    spec = release.manifest.input
    if not spec.columns and (len(spec.shape) > 1 or math.prod(spec.shape) > MOST_BY_PLACE):
        return _bytes(release.name, spec)
    seen = _held_out(release)
    values = [_value(spec, place, seen) for place in range(math.prod(spec.shape))]
    row = dict(zip(spec.columns, values, strict=True)) if spec.columns else values
    body = shlex.quote(json.dumps({"rows": [row]}, ensure_ascii=False, allow_nan=False))
    return Example(release.name, "", f"-H 'Content-Type: application/json' -d {body}", "")


def lines(tag: str) -> list[str]:
    """Return the line that sends the example of a release in the store, with what to know of it; [] if it is gone."""
    try:
        made = of(releases.load(store.models().joinpath(*store.parts(tag)), tag))
    except ReleaseError:
        return []
    return [made.curl(keyed=keyed()), *([made.about] if made.about else [])]


def keyed() -> bool:
    """Return whether the services that are started here ask for keys."""
    return bool(os.environ.get("VIGIL_KEYS"))


def _bytes(model: str, spec: InputSpec) -> Example:
    count = math.prod(spec.shape) * np.dtype(spec.dtype).itemsize
    shape = " x ".join(map(str, spec.shape))
    options = "-H 'Content-Type: application/octet-stream' -H 'Accept: application/json' --data-binary @-"
    about = (
        f"zeros; a row of yours is {count} bytes, {spec.dtype} {shape} in C order: --data-binary @FILE, without head"
    )
    return Example(model, f"head -c {count} /dev/zero | ", options, about)


def _held_out(release: Release) -> np.ndarray:
    # Rows (n, numbers of a row); none where a release of another maker holds none that fit.
    spec = release.manifest.input
    none = np.empty((0, math.prod(spec.shape)), spec.dtype)
    try:
        with np.load(io.BytesIO(release.read(HELDOUT)), allow_pickle=False) as heldout:
            found: np.ndarray = heldout["x"]
    except (ReleaseError, ValueError, KeyError, OSError, zipfile.BadZipFile):
        return none
    return found.reshape(len(found), -1) if found.shape[1:] == spec.shape and found.dtype.kind in "biuf" else none


def _value(spec: InputSpec, place: int, seen: np.ndarray) -> Value:
    column = spec.columns[place] if spec.columns else ""
    known = seen[:, place]
    known = known[np.isfinite(known)]
    if column in spec.categories:
        values = spec.categories[column]
        counts = np.bincount(known.astype(np.int64).clip(0, len(values) - 1), minlength=1)
        return values[int(counts.argmax())]
    if not len(known):
        return None if column in spec.fills else 0
    middle = np.quantile(known, 0.5, method="nearest")
    if known.dtype.kind != "f":
        return int(middle)
    shown = float(f"{middle:.{DIGITS}g}")
    return int(shown) if shown.is_integer() and abs(shown) < 10**DIGITS else shown
