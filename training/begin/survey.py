"""What the columns of a table hold, from one pass over the file: the ground that `begin` decides on."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from training.rows import dates
from training.rows.columns import EMPTY, CellError, Numbers, Rows, has_decimal_comma, is_number

MOST_VALUES = 20_000  # different ones that are remembered of a column


@dataclass
class Seen:
    """A column. numbers: all cells that are not empty are one; forms: all are dates in. whole: without a fraction.

    counts: how often each value occurs, of the first MOST_VALUES different ones; rising: each number is the one
    before plus one; sorted: no number is below the one before.
    """

    name: str
    rows: int = 0
    empty: int = 0
    numbers: bool = True
    forms: tuple[str, ...] = dates.FORMS
    whole: bool = True
    counts: Counter[str] = field(default_factory=Counter)
    all_remembered: bool = True
    different: bool = True
    rising: bool = True
    sorted: bool = True
    last: float | None = None

    def add(self, cells: Sequence[str]) -> None:
        """Take in the next cells of the column."""
        filled = [cell.strip() for cell in cells]
        filled = [cell for cell in filled if cell not in EMPTY]
        self.rows += len(cells)
        self.empty += len(cells) - len(filled)
        self._count(filled)
        if self.numbers:
            self._measure(filled)
        if not self.numbers and self.forms:
            self.forms = dates.forms(filled, self.forms)

    @property
    def dates(self) -> bool:
        """Return whether the cells are dates, of one form or of one that cannot be told from another."""
        return bool(self.forms) and not self.numbers

    @property
    def values(self) -> int:
        """Return how many different values occur; from MOST_VALUES on a lower bound."""
        return len(self.counts)

    def _count(self, filled: list[str]) -> None:
        if self.all_remembered:
            before = sum(self.counts.values())
            self.counts.update(filled)
            self.different = self.different and len(self.counts) == before + len(filled)
            self.all_remembered = len(self.counts) <= MOST_VALUES

    def _measure(self, filled: list[str]) -> None:
        column = Numbers("float64")
        try:
            column.add(filled)
        except CellError:
            self.numbers = self.whole = self.rising = self.sorted = False
            return
        found = column.values()
        self.whole = self.whole and bool((found == np.floor(found)).all())
        steps = np.diff(found if self.last is None else np.append(self.last, found))
        self.rising = self.rising and bool((steps == 1).all())
        self.sorted = self.sorted and bool((steps >= 0).all())
        self.last = float(found[-1]) if len(found) else self.last


def look(rows: Rows) -> dict[str, Seen]:
    """Return what each column of the file holds."""
    seen = {name: Seen(name) for name in rows.columns}
    for batch in rows.batches(rows.columns):
        for name, column in seen.items():
            column.add(list(batch(name, True)))
    return seen


def identifies(column: Seen) -> bool:
    """Return whether the column tells rows apart and nothing else: all values differ, and it is text or counts up."""
    if column.rows < 2 or column.empty or not column.different or column.dates:
        return False
    named = bool(re.fullmatch(r"(?i)(.*[_ .-])?(id|ids|uuid|guid|key|index|idx|nr|no|rownames?)|.*(Id|ID)|unnamed_\d+",
                              column.name))  # fmt: skip
    return not column.numbers or column.whole and (column.rising or named)


def groups(column: Seen) -> bool:
    """Return whether the rows of one value belong together: a name like patient_id, many values, each several times."""
    stem = r"(?i)(.*[_ .-])?(patient|subject|person|user|customer|client|household|family|device|machine|session|group)"
    named = bool(re.fullmatch(stem + r"([_ .-]?(id|no|nr|number|key|name))?", column.name))
    return (
        named and 30 <= column.values <= column.rows / 1.5 and not column.empty and (column.whole or not column.numbers)
    )


def with_comma(column: Seen) -> str:
    """Return a number with a decimal comma, if the column holds such numbers and nothing else, else ""."""
    commas = [value for value in column.counts if has_decimal_comma(value)]
    whole = commas and all(has_decimal_comma(value) or is_number(value) for value in column.counts)
    return commas[0] if whole else ""


def is_time(column: Seen) -> bool:
    """Return whether the column is a time: dates of one form, or rising whole numbers under such a name."""
    named = re.fullmatch(r"(?i)(.*[_ .-])?(time|timestamp|date|datetime|unixtime|epoch_s)", column.name)
    told = column.dates and len(column.forms) == 1
    return column.values > 1 and (told or bool(named) and column.numbers and column.sorted)


def few(column: Seen) -> bool:
    """Return whether the texts are few enough to be categories: each has some rows to learn from."""
    return column.all_remembered and column.values <= max(20, min(1000, column.rows // 20))
