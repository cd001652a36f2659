"""What is seen -> findings: each with what was found, why it matters, and the cure."""

import numpy as np

from training.explore import demands, duplicates, order
from training.explore.drift import Drift
from training.explore.finding import Finding, ranked, some
from training.explore.report import Look

FEWEST_OF_CLASS = 30
MUCH_NOISE = 0.02  # share of the rows with a hint; sound breast cancer, digits and MNIST have 0.2 to 0.8 %
MOST_NAMED = 5


def findings(look: Look) -> list[Finding]:
    """Return everything a person should know about the data, the gravest first."""
    table, settings = look.table, look.config.explore
    return ranked([
        *demands.copied(look.copies, settings, look.place), *demands.leaking(table, look.scores, settings),
        *_contradictions(look), *_near(look), *_repeated(look), *_labels(look), *_drift_apart(look),
        *_drift_along(look), *_order(look), *_classes(look), *_columns(look), *_codes(look), *_skipped(look),
    ])  # fmt: skip


def _contradictions(look: Look) -> list[Finding]:
    if not look.table.classes:
        return []
    rows = duplicates.contradictions(look.copies, look.table.y)
    if not len(rows):
        return []
    return [Finding(
        "warn", "Duplicates",
        f"{len(rows)} rows are equal to another row and have another label: {_places(look, rows)}",
        "At least one of the two labels is wrong, or the columns that tell them apart are missing",
        "Correct the labels in the file, or add the missing column",
    )]  # fmt: skip


def _near(look: Look) -> list[Finding]:
    if not look.near:
        return []
    shown = some([f"{look.place(p.test_row)} and {look.place(p.other_row)}" for p in look.near], 3)
    return [Finding(
        "warn", "Duplicates", f"{len(look.near)} test images are nearly a training image: {shown}",
        "The score on them tells how well the model remembers, not how well it reads",
        "Look at the pairs below; take one of each out, or give both one data.group",
    )]  # fmt: skip


def _repeated(look: Look) -> list[Finding]:
    count = int(look.copies.repeated.sum())
    if not count:
        return []
    return [Finding(
        "note", "Duplicates", f"{count} rows repeat an earlier row of their own part value by value",
        "They spoil no score, but they count more than others",
        "If they were written twice by mistake, drop them from the file",
    )]  # fmt: skip


def _labels(look: Look) -> list[Finding]:
    hints = look.hints
    if not hints.count:
        return []
    share = hints.count / hints.rows
    return [Finding(
        "warn" if share >= MUCH_NOISE else "note", "Labels",
        f"{hints.count} of {hints.rows} rows ({share:.1%}) have a label that a quick model confidently disagrees with: "
        f"{_first([look.place(h.row) for h in hints.listed], hints.count)}",
        "Some of them are labelled wrong; the others are hard. Wrong test labels hide how good a model is",
        "Look at the list below, the surest first, and correct the file",
    )]  # fmt: skip


def _drift_apart(look: Look) -> list[Finding]:
    found = look.apart
    if found is None or not found.sure.any():
        return []
    given, large = look.table.given_test is not None, bool(found.large.any())
    why = "Rows are dealt by hash, so parts differ by chance alone: 1 split in 100 does"
    if given:
        elsewhere = (
            "The test rows come from elsewhere than the training rows: the score is that of a move, not of a replay"
        )
        why = (
            elsewhere
            if large
            else "The given test set is surely another draw than the training rows, but little differs"
        )
    return [Finding(
        "warn" if large else "note", "Drift", f"the parts differ in {_moved(found)}", why,
        "See how the given test set was made" if given else "Change split.seed, or split by data.group",
    )]  # fmt: skip


def _drift_along(look: Look) -> list[Finding]:
    found = look.along
    if found is None or not found.sure.any():
        return []
    windows = [found.windows[w] for w in np.flatnonzero(found.sure.any(axis=1))]
    return [Finding(
        "warn" if found.large.any() else "note", "Drift",
        f"along the {look.ordered_by} {_moved(found)} change, in the windows {some(windows, 10)}",
        "The rows to come will differ from these as these differ from each other; a split by hash mixes old "
        "and new rows and so promises too much",
        "Name what changed (site, device, writer) as data.group, so that the test rows are of others",
    )]  # fmt: skip


def _moved(found: Drift) -> str:
    which = np.flatnonzero((found.large if found.large.any() else found.sure).any(axis=0))
    which = which[np.argsort(-found.gap[:, which].max(axis=0), kind="stable")]
    return some([f"{found.names[s]} (gap {found.gap[:, s].max():.2f})" for s in which], MOST_NAMED)


def _order(look: Look) -> list[Finding]:
    made = []
    for name, score in look.by_order.items():
        if not order.told(look.table, score) or (name == "file" and look.config.data.source == "images"):
            continue
        why = {
            "file": "The file is sorted by the target. A split by hash is not misled; a cut through the file would be, "
            "and drift along the file cannot be told from it",
            "id": "The id was given by the target, or two sources were put together. It is no column, but what else "
            "differs between the sources may be one",
            "time": "The target changes with the time: a model may learn the date instead of the matter",
            "group": "Rows of a group mostly share one label: the groups count as examples, not the rows",
        }[name]
        cure = {
            "file": "Nothing to do, but do not take the first rows by data.first_rows",
            "id": "Ask how ids are given; look for columns that tell the sources apart",
            "time": "Keep the time out of the columns (data.time does), and judge on the newest rows",
            "group": "See that each part has many groups; more groups help more than more rows",
        }[name]
        said = "the place in the file" if name == "file" else f"the {name} of a row"
        made.append(Finding("note", "Leakage", f"{said} tells the target (score {score:.3f})", why, cure))
    return made


def _classes(look: Look) -> list[Finding]:
    if not look.table.classes:
        return []
    count = np.bincount(look.table.y, minlength=len(look.table.classes))
    rare = [f"{look.table.classes[c]} ({count[c]} rows)" for c in np.flatnonzero(count < FEWEST_OF_CLASS)]
    if not rare:
        return []
    return [Finding(
        "warn", "Target", f"classes with less than {FEWEST_OF_CLASS} rows: {some(rare)}",
        "A handful of test rows says next to nothing about a class",
        "Collect more of them, or join classes",
    )]  # fmt: skip


def _columns(look: Look) -> list[Finding]:
    made = []
    constant = [f"'{c.name}'" for c in look.columns if c.constant]
    nearly = [f"'{c.name}' ({c.top_share:.1%} one value)" for c in look.columns if c.nearly_constant]
    if constant:
        made.append(Finding(
            "warn", "Columns", f"columns that never change: {some(constant)}",
            "They tell nothing, and a change in service would meet a model that never saw one",
            "Name them in data.drop",
        ))  # fmt: skip
    if nearly:
        made.append(Finding(
            "note", "Columns", f"columns that hardly ever change: {some(nearly)}",
            "What a model learns from them rests on few rows", "Keep them if the rare value matters, else data.drop",
        ))  # fmt: skip
    if look.twins:
        made.append(Finding(
            "note", "Columns",
            f"columns that are one but for scale and offset: {some([f'{a} = {b}' for a, b in look.twins])}",
            "The second one adds nothing but the chance that the two disagree in service",
            "Name one of them in data.drop",
        ))  # fmt: skip
    return made


def _codes(look: Look) -> list[Finding]:
    if not look.codes:
        return []
    shown = some([f"'{name}' = {value:g} in {rows} rows" for name, value, rows in look.codes])
    return [Finding(
        "warn", "Columns", f"values far from all others that come again and again: {shown}",
        "Such a value is often a code for 'not known'; a model takes it for a number",
        'Empty those cells and set data.missing = "fill", or make the column data.categorical',
    )]  # fmt: skip


def _skipped(look: Look) -> list[Finding]:
    if not look.table.skipped:
        return []
    return [Finding(
        "warn", "Data", f"left out: {some(list(look.table.skipped))}",
        "What is left out may be of one kind, and the model will never have seen it",
        "Repair the files or fill the cells",
    )]  # fmt: skip


def _places(look: Look, rows: np.ndarray) -> str:
    return _first([look.place(int(row)) for row in rows[:MOST_NAMED]], len(rows))


def _first(places: list[str], count: int) -> str:
    """Return the first places as text, and how many more there are, of `count` in all."""
    rest = f" and {count - MOST_NAMED} more" if count > MOST_NAMED else ""
    return ", ".join(places[:MOST_NAMED]) + rest
