"""The data report as one page: what was found first, then every fact behind it, with pictures."""

from collections.abc import Sequence
from typing import Any

from training.explore import drift, images, label_hints, leakage, near_copies
from training.explore import pictures as draw
from training.explore.report import Look
from training.pages import document
from training.pages.document import Block, Notice, Picture, Section, Table, Text

_COLUMN_FACTS = ("minimum", "quartile_1", "median", "quartile_3", "maximum", "mean", "zeros", "top_share")
_IMAGE_SIGNALS = (
    "Of an image: brightness and contrast are mean and standard deviation of its pixels, sharpness the variance of "
    "their Laplacian, edge the mean step from pixel to pixel, centre and spread the first two moments of the "
    "brightness, above_mean the share of pixels brighter than the mean."
)


def html(look: Look, facts: dict[str, Any]) -> str:
    """Return the page of what was seen; it asks nothing of any other file or address."""
    return document.html(f"The data of {facts['name']}", sections(look, facts))


def sections(look: Look, facts: dict[str, Any]) -> list[Section]:
    """Return the content of the page."""
    shown = [Section("Images", images.examples(look, facts["images"]))] if look.is_image else []
    return [
        Section("Findings", _findings(facts["findings"])),
        Section("Data", _data(facts)),
        Section("Target", _target(facts)),
        *(shown or [Section("Columns", _columns(facts))]),
        Section("Duplicates", _duplicates(look, facts["duplicates"])),
        Section("Leakage", _leakage(look, facts)),
        Section("Labels", _labels(look, facts["labels"])),
        Section("Drift", _drift(look, facts["drift"])),
        Section("How it was looked at", _limits(facts["looked_at"])),
    ]


def plain(value: object) -> str:
    """Return a value of the facts as the page shows it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _findings(findings: Sequence[dict[str, str]]) -> tuple[Block, ...]:
    if not findings:
        return (Notice("good", "nothing was found that a person should look at before training"),)
    count = {level: sum(f["level"] == level for f in findings) for level in ("stop", "warn", "note")}
    said = ", ".join(f"{number} {level}{'s' if number > 1 else ''}" for level, number in count.items() if number)
    what = "stop: training refuses these data; warn: look before you train; note: good to know."
    notices = (
        Notice(f["level"], f["found"], (f["why"] + ".", f["cure"] + ".", f"See: {f['check']}")) for f in findings
    )
    return Text(f"{said}. {what}"), *notices


def _data(facts: dict[str, Any]) -> tuple[Block, ...]:
    shape = " x ".join(map(str, facts["shape"]))
    rows = [
        ("source", facts["source"]), ("task", facts["task"]), ("rows", plain(facts["rows"])),
        ("one row", f"{facts['dtype']}, {shape}"), ("SHA-256", facts["digest"]),
        ("test rows came as such", plain(facts["given_test"])),
        *((f"rows of {part}", plain(rows)) for part, rows in facts["parts"].items()),
        *(("left out", place) for place in facts["skipped"]),
    ]  # fmt: skip
    return (Table(("", ""), tuple(rows)),)


def _target(facts: dict[str, Any]) -> tuple[Block, ...]:
    target = facts["target"]
    parts = tuple(target["rows"])
    what = "class" if facts["task"] == "classification" else "step of the target"
    lines = tuple(
        (name, *(str(target["rows"][part][i]) for part in parts), str(sum(target["rows"][part][i] for part in parts)))
        for i, name in enumerate(target["names"])
    )
    table = Table((what, *parts, "all"), lines, "The numbers of rows")
    return Picture(draw.counts(target), f"Rows per {what}, divided into the parts.", table), table


def _columns(facts: dict[str, Any]) -> tuple[Block, ...]:
    columns, classes = facts["columns"], facts["target"]["names"] if facts["task"] == "classification" else []
    lines = tuple(
        (c["name"], *(plain(c[key]) for key in _COLUMN_FACTS), str(c["distinct"]), str(c["filled"])) for c in columns
    )
    heads = ("column", *(key.replace("_", " ") for key in _COLUMN_FACTS), "distinct", "filled")
    table = Table(heads, lines)
    said = (
        "zeros: share of the rows that hold 0. top share: of the most frequent value. filled: rows whose cell "
        "was empty. A category is shown by the number of its value."
    )
    bars = tuple((c["name"], *(", ".join(map(str, bars)) for bars in c["bars"])) for c in columns)
    curves = max((len(c["bars"]) for c in columns), default=1)
    behind = Table(("column", *(classes[:curves] if curves > 1 else ("rows",))), bars, "The rows in each step")
    kinds = tuple((c["name"], ", ".join(f"{v} {n}" for v, n in c["values"])) for c in columns if c["values"])
    caption = f"Each column from its lowest to its highest value{', one curve per class' if curves > 1 else ''}."
    drawn = f"The first {draw.MOST_DRAWN} are drawn. " if len(columns) > draw.MOST_DRAWN else ""
    picture = Picture(draw.multiples(columns, classes), drawn + caption, behind)
    blocks: list[Block] = [picture, behind, table, Text(said)]
    if kinds:
        blocks.append(Table(("category", "rows of its values"), kinds))
    return tuple(blocks)


def _duplicates(look: Look, found: dict[str, Any]) -> tuple[Block, ...]:
    table = Table(("", "rows"), (
        ("repeat an earlier row of their part", str(found["repeated_rows"])),
        ("stand in two parts or three", str(found["rows_in_two_parts"])),
        ("equal another row, with another label", str(found["contradicting_rows"])),
        *([("test images that are nearly another image", str(found["near_copies"]))] if look.is_image else []),
    ))  # fmt: skip
    blocks: list[Block] = [table]
    if found["pairs"]:
        blocks.append(Table(("in training or validation", "and later in"), tuple(map(tuple, found["pairs"]))))
    if found["contradicting"]:
        blocks.append(Text("Equal to another row, with another label: " + ", ".join(found["contradicting"])))
    if found["nearest"]:
        lines = tuple((p["test"], p["other"], plain(p["correlation"])) for p in found["nearest"])
        nearest = Table(("test image", "nearly", "correlation"), lines, "The pairs as a table")
        caption = "Left the test image, right the other one, with their correlation."
        blocks += [Picture(draw.pairs(images.near(look, len(lines))), caption, nearest), nearest]
    return tuple(blocks)


def _leakage(look: Look, facts: dict[str, Any]) -> tuple[Block, ...]:
    found, classes = facts["leakage"], facts["target"]["names"]
    measure = found["measure"]
    said = (
        f"How well one column alone tells the target: {measure} on rows that the rule was not made from. "
        f"From {found['limit']:g} on (explore.leak_score) it is taken for a leak."
    )
    order = tuple((name, plain(score)) for name, score in found["order"].items())
    blocks: list[Block] = [Text(said)]
    if found["scores"]:
        chance = 1 / len(classes) if facts["task"] == "classification" else 0.0
        lines = tuple((s["column"], plain(s["score"])) for s in found["scores"])
        table = Table(("column", measure), lines, "The scores as numbers")
        if look.is_image and leakage.column_step(look.table.x.shape[1:]) == 1:
            caption = (
                "Every pixel: black at chance, white at the limit. One bright spot is a mark that gives the class away."
            )
            blocks.append(Picture(images.score_map(look, chance, found["limit"]), caption, table))
        blocks.append(Picture(draw.ranking(found["scores"], found["limit"], chance), "The highest scores.", table))
        blocks.append(table)
    else:
        blocks.append(Text("Too few rows to say."))
    if order:
        blocks += [Text("The same for what is not a column:"), Table(("place in", measure), order)]
    return tuple(blocks)


def _labels(look: Look, found: dict[str, Any]) -> tuple[Block, ...]:
    what = "R2" if look.table.task == "regression" else "share of right answers"
    said = (
        f"A quick model ({found['model']}) was trained {found['folds']} times on {found['rows']} rows, each time "
        f"without a fifth of them, and asked about that fifth; {what}: {plain(found['score'])}."
    )
    if not found["judged"]:
        less = f"It is right too rarely (below {label_hints.LEAST_RIGHT:.0%}, or little better than the largest class)"
        return Text(said), Notice("note", f"{less} to be asked about labels; judged: {plain(found['judged'])}")
    kind = "its residual" if look.table.task == "regression" else "its probability"
    counted = Text(f"Rows it confidently disagrees with: {found['count']}; judged: {plain(found['judged'])}.")
    if not found["count"]:
        return Text(said), counted
    lines = tuple((h["row"], h["label"], h["said"], plain(h["sureness"])) for h in found["listed"])
    folded = "The rows as a table" if look.is_image else ""
    table = Table(("row", "its label", "the model says", kind), lines, folded)
    blocks: list[Block] = [Text(said), counted]
    if look.is_image:
        blocks.append(Picture(draw.tiles(images.hints(look)), "Label, and what the model says; surest first.", table))
    return *blocks, table


def _drift(look: Look, found: dict[str, Any]) -> tuple[Block, ...]:
    blocks: list[Block] = [Text(_IMAGE_SIGNALS)] if look.is_image else []
    for name, drifted in found.items():
        title = (
            "Training against the other parts."
            if name == "parts"
            else f"Along the {name}: each window against all others."
        )
        if drifted is None:
            why = "too few rows" if name == "parts" else "too few rows, or the order is that of the target"
            blocks.append(Text(f"{title} Not judged: {why}."))
            continue
        rows = ", ".join(f"{w}: {n}" for w, n in zip(drifted["windows"], drifted["rows"], strict=True))
        lines = tuple(
            (s["name"], *map(plain, s["gaps"]), plain(s["p"]), ", ".join(s["sure"]) or "-") for s in drifted["signals"]
        )
        table = Table(("signal: gap", *drifted["windows"], "p", "sure in"), lines, "The gaps as numbers, with p")
        averages = tuple((s["name"], *map(plain, s["means"])) for s in drifted["signals"])
        means = Table(("signal: mean", *drifted["windows"]), averages, "The mean of each signal in each window")
        said = f"{title} Rows per window: {rows}. {drifted['compared']} comparisons; p is corrected for all of them."
        caption = "Gap between the distributions (0 to 1); framed where it is sure."
        blocks += [Text(said), Picture(draw.drift_map(drifted, drift.MUCH), caption, table), table, means]
    return tuple(blocks)


def _limits(looked_at: dict[str, int]) -> tuple[Block, ...]:
    rows = tuple((name, str(count)) for name, count in looked_at.items())
    return (
        Table(("looked at, at most", "rows or values"), rows),
        Text("Where there are more rows, those with the lowest hashes are taken: a random choice that stays the same."),
        Text(
            f"False alarms: without drift, the parts differ, or the order matters, in at most {drift.ALPHA:.0%} of "
            "the data sets each (Kolmogorov-Smirnov, corrected after Holm 1979; classes and values with ties less "
            "often). Where rows form groups, the parts are compared by group. A column without any tie to the target "
            "does not reach the limit of a leak: each class needs 8 rows in each half."
        ),
        Text(
            "Hints about labels have no such rate. A row is one when the quick model gives another class a probability "
            f"of {label_hints.SAID:g} (less for a class it is never sure of) and the label at most "
            f"{label_hints.DENIED:g} (after Northcutt, Jiang & Chuang 2021, Confident learning). Near copies are "
            "images whose pixels correlate by "
            f"{near_copies.ALIKE:g} or more; shifted, turned and mirrored copies are not found."
        ),
    )
