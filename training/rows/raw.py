"""What a reader of files found, before it is checked and becomes a Table."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Raw:
    """place: for messages, a path or a name. x: numbers (n, *shape); may be a memory map.

    labels: (n,), whole numbers or text for classes, numbers for regression. names: of the columns.
    classes: if they are named, labels are indexes into them. group, slices: text per row.
    categories: per column of text its values; x holds the index. gaps: columns with empty cells, which
    are NaN in x. time: float64 (n,), Unix seconds or any rising number.
    given_test: bool (n,), rows of a test set that came as such. skipped: "place: reason" of what was left out.
    kept: bool (rows of the file,), which of them are here; None: all.
    digest: SHA-256 of the bytes of x if the reader knows it already.
    """

    place: str
    x: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()
    group: tuple[str, ...] = ()
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    gaps: tuple[str, ...] = ()
    slices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    time: np.ndarray | None = None
    given_test: np.ndarray | None = None
    skipped: tuple[str, ...] = ()
    kept: np.ndarray | None = None
    digest: str = ""
