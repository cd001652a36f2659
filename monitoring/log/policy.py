"""The recording policy: one TOML file that says, per model and column, what of a request is written to the log.

    ids = "hash"                    # or "keep": the ids that clients give
    undeclared = "drop"             # or "keep": columns of numbers, and images, that are not named below

    [models.churn.columns]
    age = "bucket"                  # the bin of its drift signal
    income = [0, 20_000, 50_000]    # buckets between these edges, and beyond both ends
    city = "hash"                   # HMAC under VIGIL_RECORD_KEY or the key in VIGIL_RECORD_KEY_FILE
    plan = "keep"
    name = "drop"

    [models.churn]
    retired = ["fax"]               # named above for older releases; a release may lack it

    [models.digits]
    rows = "keep"                   # or "drop": images and tensors, as a whole

Columns of text that are not named are dropped, whatever `undeclared` says; so is all of a model that is not named
unless that is "keep".
"""

import difflib
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from monitoring.log import redaction
from monitoring.log.pseudonym import KEY, KEY_FILE, Pseudonyms
from monitoring.log.redaction import BUCKET, DROP, HASH, KEEP, Buckets, Redaction
from monitoring.shift.signals import MOST_COLUMNS, Bins, names
from registry.errors import ConfigError
from registry.release import NAME, InputSpec

VARIABLE = "VIGIL_RECORD_POLICY"
RULES = (KEEP, DROP, HASH, BUCKET)
MOST_BYTES = 1 << 20
TOP, MODEL = ("ids", "undeclared", "models"), ("columns", "rows", "retired")
Place = tuple[str, ...]
Rule = str | tuple[float, ...]  # one of RULES, or the edges of buckets


@dataclass(frozen=True)
class ModelPolicy:
    """What is declared of one model. rows: keep or drop, "" where nothing is said of them as a whole."""

    columns: dict[str, Rule] = field(default_factory=dict)
    rows: str = ""
    retired: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """A policy file, for messages that say where."""

    path: Path
    text: str = field(repr=False)

    def refuse(self, place: Sequence[str], why: str, known: Collection[str] = ()) -> NoReturn:
        """Raise ConfigError that names file, line and the key `place`; known: what may stand there instead."""
        close = difflib.get_close_matches(place[-1], known, n=1)
        listed = ", ".join([*known][:20]) + (", ..." if len(known) > 20 else "")
        hint = f"; did you mean '{close[0]}'?" if close else f"; it has {listed}" if known else ""
        line = _line(self.text, place)
        raise ConfigError(f"{self.path}{f':{line}' if line else ''}: {'.'.join(place)}: {why}{hint}")


@dataclass(frozen=True)
class Policy:
    """A policy file that was read. pseudonyms: under the key for what is hashed, if there is one."""

    source: Source
    models: dict[str, ModelPolicy]
    hash_ids: bool = False
    keep_undeclared: bool = False
    pseudonyms: Pseudonyms | None = field(default=None, repr=False)

    def redaction(self, model: str, spec: InputSpec, bins: tuple[Bins, ...]) -> Redaction:
        """Return what is done to the rows of a release of `model`; bins: of its signals.

        Raises ConfigError that names file, line and key if the policy does not fit its columns.
        """
        said = self.models.get(model, ModelPolicy())
        if not spec.columns:
            if said.columns:
                place = ("models", model, "columns", next(iter(said.columns)))
                self.source.refuse(place, f"{model} has no columns; say rows, for the whole of each")
            whole = (said.rows or (KEEP if self.keep_undeclared else DROP)) == DROP
            return Redaction(spec, whole)
        if said.rows == KEEP:
            why = f"can only be drop, since {model} takes columns; say what is done to each"
            self.source.refuse(("models", model, "rows"), why)
        if said.rows == DROP:
            return Redaction(spec, whole=True)
        return self._by_column(model, said, spec, bins)

    def _by_column(self, model: str, said: ModelPolicy, spec: InputSpec, bins: tuple[Bins, ...]) -> Redaction:
        place = ("models", model, "columns")
        for column in said.columns:
            if column not in spec.columns and column not in said.retired:
                self.source.refuse((*place, column), "is no column of the release", spec.columns)
        rules = {column: said.columns.get(column, self._undeclared(column, spec)) for column in spec.columns}
        changed = [column for column, rule in rules.items() if rule != KEEP]
        if changed and np.dtype(spec.dtype).kind != "f":
            why = f"a row holds {spec.dtype}, of which none can be missing; keep all columns, or drop the rows"
            self.source.refuse((*place, changed[0]), why)
        gone = {rule: tuple(k for k, c in enumerate(spec.columns) if rules[c] == rule) for rule in (DROP, HASH)}
        buckets = tuple(
            (k, self._buckets((*place, column), rules[column], spec, bins))
            for k, column in enumerate(spec.columns)
            if rules[column] not in (KEEP, DROP, HASH)
        )
        return Redaction(spec, False, gone[DROP], gone[HASH], buckets, self.pseudonyms)

    def _undeclared(self, column: str, spec: InputSpec) -> Rule:
        return KEEP if self.keep_undeclared and column not in spec.categories else DROP

    def _buckets(self, place: Sequence[str], rule: Rule, spec: InputSpec, bins: tuple[Bins, ...]) -> Buckets:
        column = place[-1]
        if isinstance(rule, tuple):
            if column in spec.categories:
                self.source.refuse(place, "holds text, which has no edges; say keep, drop, hash or bucket")
            return redaction.of_edges(rule)
        signals = dict(zip(spec.columns[:MOST_COLUMNS], names(spec, 0), strict=False))
        found = [one for one in bins if one.name == signals.get(column)]
        if not found:
            self.source.refuse(place, "has no drift signal whose bins could be taken; give the edges")
        return redaction.of_bins(found[0], column in spec.categories)


def read(path: Path, pseudonyms: Pseudonyms | None) -> Policy:
    """Return the policy in the file `path`; pseudonyms: under the key that is to hand.

    Raises ConfigError that names file, line and key, what was found and what is accepted.
    """
    source = Source(path, _text(path))
    try:
        said = tomllib.loads(source.text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from error
    _demand_known(source, (), said, TOP)
    ids = _one_of(source, ("ids",), said.get("ids", KEEP), (KEEP, HASH))
    undeclared = _one_of(source, ("undeclared",), said.get("undeclared", DROP), (KEEP, DROP))
    given = _table(source, ("models",), said.get("models", {}))
    models = {name: _model(source, ("models", name), one) for name, one in given.items()}
    hashes = ids == HASH or any(HASH in one.columns.values() for one in models.values())
    if hashes and pseudonyms is None:
        raise ConfigError(
            f"{path}: hashes with a key, and there is none; set {KEY_FILE} to a file that holds one "
            f"(openssl rand -hex 32), or {KEY}"
        )
    return Policy(source, models, ids == HASH, undeclared == KEEP, pseudonyms)


def _model(source: Source, place: Place, given: Any) -> ModelPolicy:
    if not NAME.fullmatch(place[-1]):
        source.refuse(place, "is no model name")
    said = _table(source, place, given)
    _demand_known(source, place, said, MODEL)
    columns = _table(source, (*place, "columns"), said.get("columns", {}))
    rules = {column: _rule(source, (*place, "columns", column), rule) for column, rule in columns.items()}
    rows = _one_of(source, (*place, "rows"), said["rows"], (KEEP, DROP)) if "rows" in said else ""
    retired = said.get("retired", [])
    if not isinstance(retired, list) or not all(isinstance(column, str) for column in retired):
        source.refuse((*place, "retired"), f"must be a list of columns, found {retired!r}")
    return ModelPolicy(rules, rows, tuple(retired))


def _rule(source: Source, place: Place, said: Any) -> Rule:
    if not isinstance(said, list):
        return _one_of(source, place, said, RULES, " or a list of edges")
    try:
        if any(isinstance(edge, bool) or not isinstance(edge, int | float) for edge in said):
            raise ValueError("must be two or more rising numbers")
        redaction.of_edges(said)
    except (ValueError, OverflowError) as error:
        source.refuse(place, f"edges {said} {error}")
    return tuple(map(float, said))


def _one_of(source: Source, place: Place, said: Any, accepted: tuple[str, ...], more: str = "") -> str:
    if said not in accepted:
        source.refuse(place, f"accepted is {', '.join(accepted)}{more}; found {said!r}")
    return str(said)


def _table(source: Source, place: Place, said: Any) -> dict[str, Any]:
    if not isinstance(said, dict):
        source.refuse(place, f"must be a table, found {said!r}")
    return dict(said)


def _demand_known(source: Source, place: Place, said: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key in said:
        if key not in known:
            source.refuse((*place, key), "is no key of a policy", known)


def _text(path: Path) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(MOST_BYTES + 1)
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "is not UTF-8 text"
        raise ConfigError(f"{VARIABLE}: {path} cannot be read: {why}") from error
    if len(text) > MOST_BYTES:
        raise ConfigError(f"{VARIABLE}: {path} has more than {MOST_BYTES >> 20} MB")
    return text


def _line(text: str, place: Sequence[str]) -> int | None:
    # Of the key, below the header of its table if there is one; tomllib keeps no lines.
    *table, key = (part.replace(" ", "") for part in place)
    header, inside = f"[{'.'.join(table)}]", not table
    for number, line in enumerate(text.splitlines(), start=1):
        said = line.replace(" ", "").replace('"', "").replace("'", "")
        inside = inside or said.startswith(header)
        if said.startswith(f"[{'.'.join((*table, key))}]") or (inside and said.startswith(f"{key}=")):
            return number
    return None
