"""What was seen of a user's data -> settings, each with the reason for it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from registry.errors import DataError
from training.begin import survey
from training.begin.survey import Seen
from training.config import Data
from training.rows import dates, decode, images, sources, tabular

Value = str | float | tuple[str, ...]
_TARGETS = ("target", "label", "labels", "class", "y", "outcome", "response", "survived", "species", "diagnosis",
            "churn", "income", "price", "quality")  # fmt: skip
_MOST_NAMED = 12
_MOST_CLASSES = 20  # of whole numbers; more are a quantity
_FEWEST_PER_CLASS = 5
_MOST_EMPTY = 0.9  # share of empty cells from which a column says too little
_LARGEST_SIDE = 64  # of images that are taken as they are
_MOST_SLICES, _MOST_SLICE_VALUES = 3, 6


@dataclass(frozen=True)
class Setting:
    """One line of the file: `key` is dotted; value: None leaves a key to be filled in; why: the comment above it."""

    key: str
    value: Value | None
    why: str = ""


@dataclass(frozen=True)
class Sketch:
    """What to learn and from what; about: one line on the data. rows, shape: of the data, and of one row."""

    task: Setting
    settings: tuple[Setting, ...]
    about: str
    rows: int
    shape: tuple[int, ...]
    given_test: bool = False


def of_table(path: Path, source: str, target: str) -> Sketch:
    """Return the sketch of a CSV or Parquet file; target: "" guesses the column. Raises DataError."""
    rows = tabular.open_rows(path, source)
    seen = survey.look(rows)
    aimed, why = _target(path, seen, target)
    task = _task(path, aimed)
    roles = _roles([column for column in seen.values() if column is not aimed])
    count = aimed.rows
    learnt = [column for column in seen.values() if roles.get(column.name, ("", ""))[0] in ("learnt", "categorical")]
    if not learnt:
        raise DataError(f"{path}: no column is left to learn from: {_reasons(roles, 'drop') or 'there is one only'}")
    settings = [
        Setting("data.source", source, f"{rows.kind}: {count} rows, {len(seen)} columns"),
        Setting("data.target", aimed.name, why),
        *_role_settings(roles), *_gaps(aimed, [c for c in seen.values() if roles.get(c.name, ("", ""))[0] != "drop"]),
        *_slices(learnt, roles),
    ]  # fmt: skip
    return Sketch(task, tuple(settings), f"{rows.kind}, {count} rows, {len(seen)} columns", count, (len(learnt),))


def of_npz(path: Path) -> Sketch:
    """Return the sketch of an NPZ file. Raises DataError."""
    raw = sources.read(Data("npz", path.name), path.parent, "classification")
    given = raw.given_test is not None
    about = f"x is {raw.x.dtype} of shape {raw.x.shape}, y is {raw.labels.dtype}"
    regression = raw.labels.dtype.kind == "f"
    why = "y holds fractions: a number is predicted" if regression else "y holds whole numbers or text: classes"
    task = Setting("task", "regression" if regression else "classification", why)
    return Sketch(task, (Setting("data.source", "npz", about),), about, len(raw.x), raw.x.shape[1:], given)


def of_images(root: Path) -> Sketch:
    """Return the sketch of an image folder. Raises DataError."""
    files = images.find(root)
    sizes, grey = decode.kinds(decode.Job(root, {file.name: file.state for file in files}, 0))
    labels, given = {file.label for file in files}, any(file.part == "test" for file in files)
    shorter = min(min(size) for size in sizes)
    about = f"{len(files)} {'grey ' if grey else ''}images, {len(labels)} classes" + (
        ", a test set beside them" if given else ""
    )
    settings = [Setting("data.source", "images", about)]
    side = shorter
    if len(sizes) > 1 or shorter > _LARGEST_SIDE:
        side = min(shorter, _LARGEST_SIDE)
        found = f"{len(sizes)} sizes" if len(sizes) > 1 else "large images"
        settings.append(Setting(
            "data.side_pixels", side, f"{found}, shorter sides from {shorter} pixels: each is scaled to this one and "
            "the middle is kept; the service is sent the same squares",
        ))  # fmt: skip
    task = Setting("task", "classification", "one folder per class")
    return Sketch(task, tuple(settings), about, len(files), (side, side) if grey else (side, side, 3), given)


def _target(path: Path, seen: Mapping[str, Seen], asked: str) -> tuple[Seen, str]:
    if asked and asked not in seen:
        raise DataError(f"{path}: no column '{asked}' (--target); found {', '.join(seen)}")
    if asked:
        return seen[asked], ""
    named = [name for wanted in _TARGETS for name in seen if name.lower() == wanted]
    usable = [name for name, column in seen.items() if _role(column)[0] in ("learnt", "categorical")]
    chosen = (named or usable[-1:] or list(seen)[-1:])[0]
    found = "by its name" if named else "the last column that can be one"
    others = [name for name in seen if name != chosen]
    more = f" and {len(others) - _MOST_NAMED} more" if len(others) > _MOST_NAMED else ""
    return seen[chosen], (f"guessed, {found}; --target COLUMN chooses another: {', '.join(others[:_MOST_NAMED])}{more}")


def _task(path: Path, target: Seen) -> Setting:
    many = not target.all_remembered
    said = f"{target.name} holds {'more than ' if many else ''}{target.values} different"
    if target.values < 2:
        raise DataError(f"{path}: {said} values; there is nothing to tell apart; name another column with --target")
    classes = target.values <= _MOST_CLASSES and target.values * _FEWEST_PER_CLASS <= target.rows
    if target.numbers and not (target.whole and classes):
        return Setting("task", "regression", f"{said} numbers: a number is predicted")
    if (number := survey.with_comma(target)) and not survey.few(target):
        raise DataError(f"{path}: {target.name} holds numbers with a decimal comma, such as {number}; write a point")
    if not target.numbers and (many or target.values * 2 > target.rows):
        raise DataError(f"{path}: {said} texts in {target.rows} rows; name another column with --target")
    return Setting("task", "classification", f"{said} {'whole numbers' if target.numbers else 'texts'}: classes")


Roles = dict[str, tuple[str, str]]  # column -> (the key of its role, or "learnt"; the reason)


def _roles(columns: list[Seen]) -> Roles:
    roles: Roles = {}
    for column in columns:
        role, why = _role(column)
        if role in ("group", "time", "id") and any(role == other for other, _ in roles.values()):
            role = "drop"
        roles[column.name] = (role, why)
    return roles


def _role(column: Seen) -> tuple[str, str]:
    some = f"{column.values}{'' if column.all_remembered else ' or more'} different"
    if column.empty == column.rows:
        return "drop", "empty in every row"
    if column.values == 1:
        return "drop", f"always {next(iter(column.counts))}"
    if column.empty >= _MOST_EMPTY * column.rows:
        return "drop", f"empty in {column.empty} of {column.rows} rows"
    if (number := survey.with_comma(column)) and not survey.few(column):
        return "drop", f"numbers with a decimal comma, such as {number}: write them with a point to learn from them"
    if survey.is_time(column):
        return "time", _dated(column) if column.dates else "a rising number of that name"
    if survey.identifies(column):
        return "id", "counts up" if column.rising else "another value in every row"
    if survey.groups(column):
        return "group", f"{some} in {column.rows} rows"
    if column.numbers:
        return "learnt", "numbers"
    if column.dates:
        return "drop", _dated(column)
    if survey.few(column):
        return "categorical", f"{some}"
    return "drop", f"{some} texts in {column.rows} rows, too many for categories"


def _dated(column: Seen) -> str:
    if len(column.forms) == 1:
        return "dates" if column.forms[0] == dates.ISO else f"dates as {column.forms[0]}"
    either, first = " or ".join(column.forms), next(iter(column.counts))
    return (
        f"dates as {either}, such as {first}, and none tells which: write them as 2026-01-31 to name them in data.time"
    )


def _reasons(roles: Roles, role: str) -> str:
    return "; ".join(f"{name}: {why}" for name, (found, why) in roles.items() if found == role)


def _role_settings(roles: Roles) -> list[Setting]:
    single = {
        "id": "tells rows apart, is not learnt from", "time": "not learnt from",
        "group": "rows of one value stay in one split",
    }  # fmt: skip
    lists = {"drop": "not learnt from", "categorical": "text, each value a category"}
    settings = []
    for role, meaning in (single | lists).items():
        names = tuple(name for name, (found, _) in roles.items() if found == role)
        if names:
            value: Value = names[0] if role in single else names
            settings.append(Setting(f"data.{role}", value, f"{meaning}. {_reasons(roles, role)}"))
        elif role == "group":
            why = "none was seen; if rows belong together (one patient, one customer), name the column"
            settings.append(Setting("data.group", None, why))
    return settings


def _gaps(target: Seen, used: list[Seen]) -> list[Setting]:
    empty = ", ".join(f"{column.name} {column.empty}" for column in used if column.empty)
    if not empty:
        return []
    left_out = f"; rows without {target.name} ({target.empty}) are left out" if target.empty else ""
    return [
        Setting("data.missing", "fill", f"empty cells: {empty}; the median or most frequent value goes in{left_out}")
    ]


def _slices(learnt: list[Seen], roles: Roles) -> list[Setting]:
    names = [c.name for c in learnt if roles[c.name][0] == "categorical" and c.values <= _MOST_SLICE_VALUES]
    if not names:
        return []
    return [Setting("data.slices", tuple(names[:_MOST_SLICES]), "few values: each is judged apart on the card")]
