"""`vigil init`: look at a user's data and write a commented TOML file that trains at once."""

import json
import os
import tempfile
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from monitoring.shift.reference import ROWS_PER_BIN
from registry.errors import ConfigError, DataError
from registry.release import NAME
from training import config as configuration
from training import toml
from training.begin import plan
from training.begin.plan import Setting, Sketch
from training.config import Config
from training.explore import demands, duplicates, leakage
from training.rows import data, split
from training.rows.data import Table
from training.rows.split import Parts

_KINDS = {".csv": "csv", ".tsv": "csv", ".tab": "csv", ".txt": "csv", ".data": "csv", ".parquet": "parquet",
          ".pq": "parquet", ".npz": "npz"}  # fmt: skip
_MOST_SEEDS = 20
_DOC = "Every other key, its default and its range: training/config.py."


@dataclass(frozen=True)
class Begun:
    """The file that was written, with what was chosen and why, and how many rows each part has."""

    path: Path
    about: str
    settings: tuple[Setting, ...]
    counts: dict[str, int]


@dataclass(frozen=True)
class _Proof:
    """The settings with which the data were loaded, dealt out and found fit for training."""

    settings: tuple[Setting, ...]
    parts: Parts


def write(name: str, source: Path, target: str = "", folder: Path = Path()) -> Begun:
    """Write `folder`/`name`.toml for the data in `source`, and return what it says.

    target: the column to predict; "" guesses it. The data were loaded and dealt out under these settings
    before the file appears. Raises a UserError if the name cannot be one of a release, if the file is
    there already, or if the data cannot be trained on.
    """
    path = folder / f"{name}.toml"
    if not NAME.fullmatch(name):
        raise ConfigError(f"{name!r} is no name; accepted are 1 to 63 of a-z, 0-9, '-' and '_': it names the release")
    if path.exists():
        raise ConfigError(f"{path}: is there already; remove it, or choose another name")
    sketch = _sketch(source, target)
    where = os.path.relpath(source.resolve(), folder.resolve())
    proof = _prove(_settings(name, where, sketch), folder)
    text = _text(name, source, sketch, proof.settings)
    try:
        with open(path, "x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise ConfigError(f"{path}: is there already; remove it, or choose another name") from None
    return Begun(path, sketch.about, proof.settings, proof.parts.counts())


def as_text(begun: Begun) -> str:
    """Return what was chosen, one setting a line, and what to do next."""
    lines = [f"  {s.key} = {toml.value(s.value)}  ({s.why})" for s in begun.settings if s.why and s.value is not None]
    counts = ", ".join(f"{count} {part}" for part, count in begun.counts.items())
    return "\n".join([
        f"wrote {begun.path}: {begun.about}", *lines, f"  rows: {counts}",
        f"next: read it, then vigil train {begun.path}",
    ])  # fmt: skip


def as_json(begun: Begun) -> str:
    """Return the same as one JSON object on one line."""
    chosen = {s.key: s.value for s in begun.settings if s.value is not None}
    return json.dumps({"path": str(begun.path), "settings": chosen, "rows": begun.counts})


def _sketch(source: Path, target: str) -> Sketch:
    kind = _KINDS.get(source.suffix.lower(), "")
    if source.is_dir():
        sketch = plan.of_images(source)
    elif not source.is_file():
        raise DataError(f"{source}: no such file or folder; --from takes CSV, Parquet, NPZ or a folder of images")
    elif kind == "npz":
        sketch = plan.of_npz(source)
    elif kind:
        return plan.of_table(source, kind, target)
    else:
        raise DataError(f"{source}: of an unknown kind; accepted are {', '.join(_KINDS)} and a folder of images")
    if target:
        raise DataError(f"{source}: --target names a column of a table; here the labels are y, or the folders")
    return sketch


def _settings(name: str, where: str, sketch: Sketch) -> tuple[Setting, ...]:
    source, *rest = sketch.settings
    return (
        Setting("name", name), Setting("purpose", _purpose(sketch), "on the card; say better what it is for"),
        sketch.task, source, Setting("data.path", where, "relative to this file"), *rest,
        *_split(sketch), *_network(sketch),
    )  # fmt: skip


def _purpose(sketch: Sketch) -> str:
    # True of other data in the same form too, which `vigil train --data` may name.
    if target := _value(sketch.settings, "data.target"):
        return f"Predict {target}."
    if _value(sketch.settings, "data.source") == "images":
        return "Say what an image shows."
    return "Predict a number." if sketch.task.value == "regression" else "Say which class a row belongs to."


def _split(sketch: Sketch) -> list[Setting]:
    if sketch.given_test:
        why = "the test rows are those that came as such; the others are dealt out 8 to 1"
        return [Setting("split.train", 0.8, why), Setting("split.validation", 0.1), Setting("split.test", 0.1)]
    if sketch.rows >= 1000:
        return []
    why = f"{sketch.rows} rows: validation and test need enough of them to be judged by"
    return [Setting("split.train", 0.5, why), Setting("split.validation", 0.2), Setting("split.test", 0.3)]


def _network(sketch: Sketch) -> list[Setting]:
    """Return model, augmentation, batches and epochs for the number of rows and their shape."""
    if len(sketch.shape) > 1:
        return _image_network(sketch)
    why = f"{sketch.rows} rows, {sketch.shape[0]} columns: "
    steps = (
        (1_000, 32, 2, 0.2, 32, 100, "a small network, many rounds"),
        (20_000, 128, 2, 0.1, 64, 60, "a middling network"),
        (200_000, 256, 3, 0.1, 256, 30, "a larger network, larger batches"),
        (2**62, 256, 3, 0.05, 1024, 15, "a larger network, large batches, few rounds"),
    )
    _, width, depth, dropout, batch, epochs, said = next(step for step in steps if sketch.rows < step[0])
    return [
        Setting("model.kind", "mlp", why + said), Setting("model.width", width), Setting("model.depth", depth),
        Setting("model.dropout", dropout), Setting("loop.epochs", epochs, "at most; it stops when nothing improves"),
        Setting("loop.batch_rows", batch), Setting("loop.patience_epochs", max(4, epochs // 5)),
    ]  # fmt: skip


def _image_network(sketch: Sketch) -> list[Setting]:
    height, width = sketch.shape[:2]
    small, side = sketch.rows < 5_000, min(height, width)
    shift = Setting("augment.shift_pixels", max(1, side // 14), "each image a little elsewhere every time")
    epochs = "at most; it stops when nothing improves"
    said = f"{sketch.rows} images of {width} x {height} pixels"
    threads = Setting("loop.threads", _threads(), "of the processor; another number may give other bits")
    if len(sketch.shape) == 2 or side < 16:
        depth = max(1, min(3, int(np.log2(side)) - 1))
        return [
            shift, Setting("model.kind", "cnn", f"{said}: a plain convolutional network"), Setting("model.width", 32),
            Setting("model.depth", depth), Setting("model.dropout", 0.2 if small else 0.1),
            Setting("loop.epochs", 40 if small else 12, epochs), Setting("loop.batch_rows", 32 if small else 128),
            Setting("loop.patience_epochs", 10 if small else 4), threads,
        ]  # fmt: skip
    flip = "photos mean the same in a mirror; 0 if yours do not (text, left and right hands)"
    return [
        Setting("augment.flip_share", 0.5, flip), shift, Setting("model.kind", "resnet", f"{said}: a residual network"),
        Setting("model.width", 32 if small else 64), Setting("model.depth", 1), Setting("model.dropout", 0.0),
        Setting("optimizer.weight_decay", 0.2), Setting("optimizer.label_smoothing", 0.1),
        Setting("schedule.kind", "one_cycle", "up and down once over all epochs, so all of them are run"),
        Setting("schedule.peak", 0.005), Setting("loop.epochs", 30 if small else 14),
        Setting("loop.batch_rows", 64 if small else 128), Setting("loop.patience_epochs", 30 if small else 14),
        Setting("loop.ema", 0.99), Setting("loop.precision", "auto"), threads,
    ]  # fmt: skip


def _threads() -> int:
    return min(8, os.cpu_count() or 1)


def _prove(settings: tuple[Setting, ...], folder: Path) -> _Proof:
    """Load and deal out the data as `vigil train` will, and change what would stop it there. Raises DataError."""
    pictures = _value(settings, "data.source") == "images"
    config = _config(_with(settings, Setting("data.corrupt", "skip")) if pictures else settings)
    table = data.load(config.data, folder, config.task)
    if pictures and table.skipped:
        why = f"{len(table.skipped)} cannot be read and are counted on the card, for example {table.skipped[0]}"
        settings = _with(settings, Setting("data.corrupt", "skip", why))
    seed, parts = _deal(table, config)
    table = data.filled(table, parts.train)
    if seed:
        settings = _with(settings, Setting("split.seed", seed, "the first that puts rows of every class into training"))
    if (bins := len(parts.test) // ROWS_PER_BIN) < config.reference.bins:
        why = f"{len(parts.test)} test rows fill no more bins of the drift reference"
        settings = _with(settings, Setting("reference.bins", bins, why))
    leaks = _leaks(table, parts, config)
    if leaks and len(leaks) < table.x.shape[1]:
        return _prove(_without(settings, leaks), folder)
    if leaks:
        why = f"{', '.join(leaks)} alone gives the target away; no column would be left without"
        settings = _with(settings, Setting("explore.leakage", "allow", why))
    if copies := int(duplicates.find(table.key, parts).spare.sum()):
        why = f"{copies} rows stand in a later part too: the copies in training go, and are counted on the card"
        settings = _with(settings, Setting("explore.duplicates", "drop", why))
    return _Proof(settings, parts)


def _deal(table: Table, config: Config) -> tuple[int, Parts]:
    for seed in range(_MOST_SEEDS):
        try:
            return seed, split.checked(table, replace(config.split, seed=seed))
        except DataError as error:
            refused = error
    raise DataError(f"{refused} (no split.seed below {_MOST_SEEDS} helps)")


def _leaks(table: Table, parts: Parts, config: Config) -> dict[str, float]:
    """Return the columns of a table that alone give the target away, with their scores."""
    if not table.names:
        return {}
    scores = leakage.scores(table, np.concatenate([parts.train, parts.validation]))
    found = demands.above(scores, config.explore.leak_score)
    return {table.names[column]: float(scores[column]) for column in found}


def _without(settings: tuple[Setting, ...], leaks: dict[str, float]) -> tuple[Setting, ...]:
    """Return the settings with these columns dropped."""
    said = "; ".join(f"{name}: alone gives the target away ({score:.3f}), keep it if it is honest" for name, score in
                     leaks.items())  # fmt: skip
    kept = []
    for setting in settings:
        if setting.key in ("data.categorical", "data.slices") and isinstance(setting.value, tuple):
            left = tuple(name for name in setting.value if name not in leaks)
            if not left:
                continue
            setting = replace(setting, value=left)
        kept.append(setting)
    old = next((s for s in kept if s.key == "data.drop"), Setting("data.drop", (), "not learnt from."))
    names = old.value if isinstance(old.value, tuple) else ()
    return _with(
        tuple(kept), Setting("data.drop", (*names, *leaks), "; ".join(filter(None, [old.why.rstrip("."), said])))
    )


def _with(settings: tuple[Setting, ...], new: Setting) -> tuple[Setting, ...]:
    """Return the settings with `new` in place of its key, else after the last of its section."""
    section = new.key.rpartition(".")[0]
    others = [s for s in settings if s.key != new.key]
    same = [number for number, s in enumerate(others) if s.key.rpartition(".")[0] == section]
    at = same[-1] + 1 if same else len(others)
    return (*others[:at], new, *others[at:])


def _value(settings: Sequence[Setting], key: str) -> object:
    return next((s.value for s in settings if s.key == key), None)


def _config(settings: Sequence[Setting]) -> Config:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "settings.toml"
        path.write_text("\n".join(_lines(settings)), encoding="utf-8")
        return configuration.load(path)


def _text(name: str, source: Path, sketch: Sketch, settings: Sequence[Setting]) -> str:
    head = [f"# Written by: vigil init {name} --from {source}", f"# It saw: {sketch.about}. {_DOC}"]
    return "\n".join([*head, *_lines(settings)]) + "\n"


def _lines(settings: Sequence[Setting]) -> list[str]:
    lines, section = [], ""
    for setting in settings:
        above, _, key = setting.key.rpartition(".")
        if above != section:
            lines += ["", f"[{above}]"]
            section = above
        lines += [f"# {line}" for line in textwrap.wrap(setting.why, toml.WIDTH, break_long_words=False)]
        lines.append(f'# {key} = "..."' if setting.value is None else f"{key} = {toml.value(setting.value)}")
    return lines
