"""One TOML file, read once into frozen dataclasses. Nothing else reads settings."""

import difflib
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from monitoring.shift.reference import ReferenceSettings
from registry.errors import ConfigError
from registry.release import NAME
from training import space
from training.space import Space

SEARCHED = ("augment", "model", "optimizer", "schedule", "loop")
MODEL_KINDS = ("mlp", "cnn", "resnet")


def between(default: float, low: float, high: float) -> Any:
    """Return a field with a default and the range it accepts, both ends included."""
    return field(default=default, metadata={"low": low, "high": high})


def one_of(default: str, *choices: str) -> Any:
    """Return a text field that accepts only `choices`."""
    return field(default=default, metadata={"choices": choices})


def several(*choices: str) -> Any:
    """Return a list field, empty by default, whose entries must be among `choices`."""
    return field(default=(), metadata={"choices": choices})


@dataclass(frozen=True)
class Data:
    """All but digits and breast_cancer read `path`, relative to the TOML file. first_rows: 0 takes all rows.

    Columns of a csv or parquet file: target; id, drop: not learnt from; group: not learnt from, its rows stay in one
    split; time: not learnt from, numbers or dates; categorical: text or codes; slices: judged apart on the card,
    learnt from unless dropped too. missing: empty cells (nothing, NA, NaN, NULL, ?), filled with the median or the
    most frequent value of the training rows. nullable: may be empty in requests though full here; "*" is all. corrupt:
    images that cannot be read. side_pixels: the shorter side of an image is scaled to it and the middle kept; 0
    demands one size. label_noise: share of the training labels replaced by a random class.
    """

    source: str = one_of("digits", "digits", "breast_cancer", "npz", "csv", "parquet", "images")
    path: str = ""
    target: str = ""
    id: str = ""
    group: str = ""
    time: str = ""
    drop: tuple[str, ...] = ()
    categorical: tuple[str, ...] = ()
    slices: tuple[str, ...] = ()
    missing: str = one_of("stop", "stop", "drop_rows", "fill")
    nullable: tuple[str, ...] = ()
    corrupt: str = one_of("stop", "stop", "skip")
    side_pixels: int = between(0, 0, 4096)
    first_rows: int = between(0, 0, 2**40)
    label_noise: float = between(0.0, 0.0, 1.0)


@dataclass(frozen=True)
class Split:
    """Shares of the rows; they add up to 1. Another seed deals the rows out anew."""

    train: float = between(0.6, 0.01, 0.98)
    validation: float = between(0.15, 0.01, 0.98)
    test: float = between(0.25, 0.01, 0.98)
    seed: int = between(0, 0, 2**31)


@dataclass(frozen=True)
class Explore:
    """What training does about rows that are in two parts, and about a column that gives the answer away.

    drop: the training copies go, counted on the card. leak_score: of one column alone, balanced accuracy or R2.
    """

    duplicates: str = one_of("stop", "stop", "drop", "allow")
    leakage: str = one_of("stop", "stop", "allow")
    leak_score: float = between(0.99, 0.5, 1.0)


@dataclass(frozen=True)
class Augment:
    """Images: shift, rotate, flip, brightness, erase, mixup, noise. Tables: noise, mask. 0 turns each off.

    flip_share: mirrored left to right. brightness: largest change of the factor. mixup: alpha of the Beta
    distribution. shift_pixels: a whole number, without rotation, moves by whole pixels. noise: standard
    deviation, in standard deviations of the data. mask_share: of the cells.
    """

    flip_share: float = between(0.0, 0.0, 1.0)
    brightness: float = between(0.0, 0.0, 1.0)
    mixup: float = between(0.0, 0.0, 10.0)
    shift_pixels: float = between(0.0, 0.0, 64.0)
    rotate_degrees: float = between(0.0, 0.0, 180.0)
    noise: float = between(0.0, 0.0, 10.0)
    erase_pixels: int = between(0, 0, 256)
    mask_share: float = between(0.0, 0.0, 0.9)


@dataclass(frozen=True)
class Model:
    """kind: "mlp", "cnn", "resnet" or a function of your own as "module:function"; see `models.build`."""

    kind: str = "mlp"
    width: int = between(64, 1, 8192)
    depth: int = between(2, 1, 32)
    dropout: float = between(0.1, 0.0, 0.95)


@dataclass(frozen=True)
class Optimizer:
    """AdamW; weight decay applies to tensors with two dimensions or more."""

    weight_decay: float = between(0.05, 0.0, 10.0)
    beta1: float = between(0.9, 0.0, 0.9999)
    beta2: float = between(0.99, 0.0, 0.99999)
    label_smoothing: float = between(0.05, 0.0, 0.9)


@dataclass(frozen=True)
class Schedule:
    """Learning rate as a function of the optimizer step; see `schedule.rate`."""

    kind: str = one_of("cosine", "cosine", "one_cycle")
    peak: float = between(3e-3, 1e-9, 10.0)
    warmup_steps: int = between(20, 0, 1_000_000)
    floor: float = between(1e-5, 0.0, 10.0)


@dataclass(frozen=True)
class Loop:
    """threads: of PyTorch on the CPU; another number may give other bits.

    batch_rows: of a step, over all processes. micro_rows: rows that each process has in memory at once, at
    least 2; their gradients are added up to a batch. 0 takes the whole batch.
    ema: decay of the average of the weights that is judged and kept; 0 keeps the weights themselves.
    precision auto: bf16 where the processor computes in it, else fp32. checkpoint_steps: 0 saves at the
    end of an epoch only. clip_norm: 0 turns clipping off.
    """

    epochs: int = between(20, 1, 100_000)
    batch_rows: int = between(64, 2, 1_000_000)
    micro_rows: int = between(0, 0, 1_000_000)
    clip_norm: float = between(1.0, 0.0, 1e6)
    ema: float = between(0.0, 0.0, 0.99999)
    precision: str = one_of("fp32", "fp32", "bf16", "fp16", "auto")
    device: str = one_of("cpu", "cpu", "cuda", "auto")
    patience_epochs: int = between(8, 1, 100_000)
    checkpoint_steps: int = between(0, 0, 1_000_000)
    threads: int = between(1, 1, 256)
    seed: int = between(0, 0, 2**31)


@dataclass(frozen=True)
class Evaluate:
    """threshold: of a binary classifier, chosen on the validation rows; half takes the likelier class."""

    threshold: str = one_of("half", "half", "f1", "youden")


@dataclass(frozen=True)
class Export:
    """limit: largest |PyTorch - ONNX Runtime| of any output, in a regression in standard deviations of the target.

    variants: of fp16 and int8, each published as a release of its own if, at `gate.confidence`, it loses at
    most `most_accuracy_lost` (regression: of R2) on the test rows, and runs at least `least_speedup` times
    as fast with 1 row and with 64. Fewer than 268 test rows cannot show that 0.01 is not lost.
    """

    limit: float = between(1e-4, 1e-9, 1e-2)
    variants: tuple[str, ...] = several("fp16", "int8")
    most_accuracy_lost: float = between(0.01, 0.0, 1.0)
    least_speedup: float = between(1.1, 0.0, 1000.0)


@dataclass(frozen=True)
class Gate:
    """`promote` refuses a release worse than the champion by more than `margin` at `confidence`.

    margin: a difference in accuracy; in a regression, a share of the champion's mean absolute error.
    """

    margin: float = between(0.02, 0.0, 1.0)
    confidence: float = between(0.95, 0.5, 0.9999)


@dataclass(frozen=True)
class Quality:
    """floor: share of right answers below which someone is paged; 0 takes the linear baseline's lower end.

    tolerance: of a regression, an answer this near the truth is right, in units of the target; 0 takes
    the distance within which four in five of the model's own test rows lie. decline: how far quality may fall under
    that of the release. slices: columns, or signals of an image, by which live traffic is measured in parts.
    """

    floor: float = between(0.0, 0.0, 1.0)
    tolerance: float = between(0.0, 0.0, 1e300)
    decline: float = between(0.01, 0.0, 0.5)
    slices: tuple[str, ...] = ()


@dataclass(frozen=True)
class Search:
    """What `vigil search` tries: settings of SEARCHED sections, by dotted key, in [search.space].

    [low, high, "log"] or [low, high, "linear"] is a range, any other list holds the values themselves.
    An empty space takes `search.usual`.
    """

    trials: int = between(20, 1, 100_000)
    seed: int = between(0, 0, 2**31)
    space: Mapping[str, Space] = field(default_factory=dict)


@dataclass(frozen=True)
class Config:
    name: str
    purpose: str = ""
    task: str = one_of("classification", "classification", "regression")
    data: Data = field(default_factory=Data)
    split: Split = field(default_factory=Split)
    explore: Explore = field(default_factory=Explore)
    augment: Augment = field(default_factory=Augment)
    model: Model = field(default_factory=Model)
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    loop: Loop = field(default_factory=Loop)
    evaluate: Evaluate = field(default_factory=Evaluate)
    export: Export = field(default_factory=Export)
    reference: ReferenceSettings = field(default_factory=ReferenceSettings)
    gate: Gate = field(default_factory=Gate)
    quality: Quality = field(default_factory=Quality)
    search: Search = field(default_factory=Search)

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, as stored in checkpoint, manifest and card."""
        return asdict(self)


# The settings of monitoring carry no ranges of their own.
_REFERENCE_RANGES = {
    "bins": (2, 16), "false_alarms_30d": (1e-6, 0.99), "min_rows": (1, 10**9), "psi_floor": (0.0, 10.0),
    "seed": (0, 2**31),
}  # fmt: skip


def load(path: Path, overrides: Mapping[str, Any] | None = None) -> Config:
    """Return the settings in `path`; keys that are left out keep their defaults.

    overrides: values that replace those of the file, by dotted key: {"data.path": "mnist.npz"}.

    Raises ConfigError naming the file, the key and the accepted values if the file is absent,
    is not TOML, or holds an unknown key, a wrong type or a value out of range.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}; give the path of a TOML file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    for key, value in (overrides or {}).items():
        put(values, key, value)
    config: Config = _build(Config, values, where=str(path), prefix="")
    _check_across(config, str(path))
    return config


def overrides(data: str, assignments: Sequence[str]) -> dict[str, Any]:
    """Return the overrides of a command line: the path of --data, from where one stands, and each KEY=VALUE of --set.

    A value is read as TOML, and as text where it is none. Raises ConfigError for a word without "=".
    """
    found: dict[str, Any] = {}
    for word in assignments:
        key, equals, value = word.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set {word}: accepted is KEY=VALUE, for example loop.epochs=40")
        try:
            found[key.strip()] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            found[key.strip()] = value
    return found | ({"data.path": str(Path(data).resolve())} if data else {})


def put(values: dict[str, Any], key: str, value: Any) -> None:
    """Set `value` in nested settings, by its dotted key. Raises ConfigError if a part of the key is no table."""
    section, _, rest = key.partition(".")
    if not rest:
        values[section] = value
        return
    if not isinstance(values.setdefault(section, {}), dict):
        raise ConfigError(f"'{key}': '{section}' is {values[section]!r}, no table; accepted is '{section}' alone")
    put(values[section], rest, value)


def _build(cls: type, values: dict[str, Any], where: str, prefix: str) -> Any:
    known = {f.name: f for f in fields(cls)}
    arguments = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        if key not in known:
            close = difflib.get_close_matches(key, known, n=1)
            hint = f"; did you mean '{prefix}{close[0]}'?" if close else f"; known: {', '.join(known)}"
            raise ConfigError(f"{where}: unknown key '{name}'{hint}")
        arguments[key] = _value(known[key], value, where, name)
    for key, entry in known.items():
        if key not in arguments and entry.default is MISSING and entry.default_factory is MISSING:
            raise ConfigError(f"{where}: '{prefix}{key}' is missing; add {prefix}{key} = \"...\"")
    return cls(**arguments)


def _value(entry: "Field[Any]", value: Any, where: str, name: str) -> Any:
    want: Any = entry.type
    if want == Mapping[str, Space]:
        sections = {one.name: one.type for one in fields(Config) if one.name in SEARCHED}
        return space.read(value, f"{where}: '{name}'", sections, lambda f, v, at: _value(f, v, where, f"{name}.{at}"))  # type: ignore[arg-type]
    if is_dataclass(want):
        if not isinstance(value, dict):
            raise ConfigError(f"{where}: '{name}' must be a table, got {value!r}; write [{name}]")
        return _build(want, value, where, prefix=f"{name}.")  # type: ignore[arg-type]
    if want == tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
            raise ConfigError(f"{where}: '{name}' must be a list of texts, got {value!r}; write {name} = [\"...\"]")
        for one in value:
            _check_range(entry, one, where, name)
        return tuple(value)
    if want is float and type(value) is int:
        value = float(value)
    if type(value) is not want:
        raise ConfigError(f"{where}: '{name}' must be {want.__name__}, got {value!r}")
    _check_range(entry, value, where, name)
    return value


def _check_range(entry: "Field[Any]", value: Any, where: str, name: str) -> None:
    choices = entry.metadata.get("choices")
    if choices and value not in choices:
        close = difflib.get_close_matches(value, choices, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        raise ConfigError(f"{where}: '{name}' is {value!r}; accepted are {', '.join(choices)}{hint}")
    low, high = entry.metadata.get("low"), entry.metadata.get("high")
    if name.startswith("reference."):
        low, high = _REFERENCE_RANGES.get(entry.name, (None, None))
    if low is not None and not (math.isfinite(value) and low <= value <= high):
        raise ConfigError(f"{where}: '{name}' is {value}; accepted is {low} to {high}; change it or leave it out")


def _check_across(config: Config, where: str) -> None:
    if not NAME.fullmatch(config.name):
        raise ConfigError(
            f"{where}: 'name' is {config.name!r}; accepted are 1 to 63 of a-z, 0-9, '-' and '_', "
            "the first a letter or digit: it becomes the name of the release"
        )
    total = config.split.train + config.split.validation + config.split.test
    if abs(total - 1) > 1e-6:
        raise ConfigError(f"{where}: split.train + split.validation + split.test is {total:g}; accepted is 1")
    if config.model.kind not in MODEL_KINDS and config.model.kind.count(":") != 1:
        kinds = ", ".join(MODEL_KINDS)
        raise ConfigError(f"{where}: 'model.kind' is {config.model.kind!r}; accepted are {kinds} or module:function")
    if config.schedule.floor > config.schedule.peak:
        raise ConfigError(
            f"{where}: 'schedule.floor' is {config.schedule.floor:g}, above 'schedule.peak' "
            f"{config.schedule.peak:g}; accepted is floor <= peak"
        )
    for section, key, task in _OF_ONE_TASK:
        if config.task != task and getattr(getattr(config, section), key) != getattr(
            getattr(Config("x"), section), key
        ):
            raise ConfigError(f"{where}: '{section}.{key}' means nothing to a {config.task}; leave it out")
    _check_data(config.data, where)


_OF_ONE_TASK = (
    ("data", "label_noise", "classification"), ("evaluate", "threshold", "classification"),
    ("quality", "tolerance", "regression"),
)  # fmt: skip
_TABLES = ("csv", "parquet")
_SOURCES_WITH = {
    "path": ("npz", "images", *_TABLES), "side_pixels": ("images",), "corrupt": ("images",),
    **dict.fromkeys(("target", "id", "group", "time", "drop", "categorical", "slices", "missing", "nullable"), _TABLES),
}  # fmt: skip


def _check_data(data: Data, where: str) -> None:
    """Refuse a source without its path or target, and a key that the source would pass over."""
    for key in ("path", "target"):
        if data.source in _SOURCES_WITH[key] and not getattr(data, key):
            cure = " (in the file, or with --data)" if key == "path" else ""
            raise ConfigError(f"{where}: 'data.{key}' is missing; a {data.source} source needs it{cure}")
    for key, sources in _SOURCES_WITH.items():
        if data.source not in sources and getattr(data, key) != getattr(Data(), key):
            belongs = ", ".join(sources)
            found = f"{where}: 'data.{key}' means nothing to the source {data.source}; it belongs to {belongs}"
            raise ConfigError(f"{found}: change data.source or leave it out")
