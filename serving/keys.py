"""The key file: who may call the service. It holds no secret, only the SHA-256 of each key.

JSON, written as a whole with mode 0600: `{"keys": [{"name", "sha256", "roles", "rate", "burst", "created",
"expires"}, ...]}`. A key is 256 random bits, so its plain SHA-256 cannot be turned back by guessing. A name
may have several live keys: add the new one, move the clients, remove the old one.
"""

import difflib
import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Any

from registry import durable
from registry.errors import ConfigError

VARIABLE = "VIGIL_KEYS"
ROLES = ("predict", "label", "metrics", "admin")
PREFIX = "vigil_"  # lets a secret scanner find a key that was committed by mistake
LENGTH = len(PREFIX) + 43
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
FIELDS = ("name", "sha256", "roles", "rate", "burst", "created", "expires")
MOST_BYTES = 16 * 1024 * 1024
IDENT_DIGITS = 8

Stamp = tuple[int, int, int]


@dataclass(frozen=True)
class Key:
    """One key and what it may do.

    digest: SHA-256 of the key. rate: requests per second in the long run, 0 for no limit; burst: how many
    may come at once. expires: the first moment at which the key is void; None: never.
    """

    name: str
    digest: bytes
    roles: tuple[str, ...]
    rate: float = 0.0
    burst: int = 1
    created: datetime | None = None
    expires: datetime | None = None

    @property
    def ident(self) -> str:
        """Return what tells the keys of one name apart: the first digits of the digest."""
        return self.digest.hex()[:IDENT_DIGITS]


def digest_of(secret: bytes) -> bytes:
    """Return what the file holds of a key."""
    return hashlib.sha256(secret).digest()


def make(key: Key) -> tuple[str, Key]:
    """Return a new secret, and `key` with its digest and the present time; raises ConfigError for a wrong field."""
    secret = PREFIX + secrets.token_urlsafe(32)
    now = datetime.now(UTC).replace(microsecond=0)
    made = replace(key, digest=digest_of(secret.encode()), created=now)
    if made.expires is not None and made.expires <= now:
        raise ConfigError(f"expires: {_text(made.expires)} has passed; name a day from today on")
    return secret, _parse_key(_as_dict(made), "key")


def add(path: Path, key: Key) -> None:
    """Add `key` to the file, which is made if there is none; raises ConfigError if it cannot be read or written."""
    with _changing(path):
        _write(path, [*_present(path), key])


def remove(path: Path, name: str, ident: str = "") -> list[Key]:
    """Remove the keys of `name`, or the one with this ident, and return them; raises ConfigError if there is none."""
    with _changing(path):
        held = read(path)[0]
        gone = [key for key in held if key.name == name and key.ident.startswith(ident)]
        if not gone:
            wanted = f"'{name}' with ident {ident}" if ident else f"'{name}'"
            raise ConfigError(f"{path}: no key {wanted}; `vigil keys list` shows those there are")
        _write(path, [key for key in held if key not in gone])
    return gone


def read(path: Path) -> tuple[tuple[Key, ...], Stamp]:
    """Return the keys in the file, and the stamp of the bytes they were read from.

    Raises ConfigError that names place and cure: no such file, not this format, or writable by others.
    """
    try:
        with open(path, "rb") as file:
            status = os.fstat(file.fileno())
            content = file.read(MOST_BYTES + 1)
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: no such key file; `vigil keys add NAME --role predict` makes one") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read by user {os.geteuid()}: {error.strerror}") from error
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ConfigError(f"{path}: others may write to it (mode {status.st_mode & 0o777:o}); chmod 600 {path}")
    if len(content) > MOST_BYTES:
        raise ConfigError(f"{path}: larger than {MOST_BYTES} bytes")
    return parse(content, path), _stamp(status)


def stamp(path: Path) -> Stamp | None:
    """Return what changes when the file does; None without one."""
    try:
        return _stamp(os.stat(path))
    except OSError:
        return None


def parse(content: bytes, path: Path) -> tuple[Key, ...]:
    """Return the keys that the bytes of a key file hold; raises ConfigError that names the key and the field."""
    try:
        said = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not a key file: {error}") from error
    if not isinstance(said, dict) or said.keys() != {"keys"} or not isinstance(said["keys"], list):
        raise ConfigError(f'{path}: not a key file: accepted is {{"keys": [...]}}')
    found = tuple(_parse_key(one, f"{path}: keys[{i}]") for i, one in enumerate(said["keys"]))
    digests = [key.digest for key in found]
    if len(set(digests)) != len(digests):
        raise ConfigError(f"{path}: holds the same key twice")
    return found


def expiry(text: str) -> datetime:
    """Return when a key with `--expires TEXT` becomes void; raises ConfigError.

    A day, as 2027-01-31, is the last one on which the key works (UTC); a time, as 2027-01-31T18:00:00Z, is the end.
    """
    try:
        if re.fullmatch(r"\d{4}-\d\d-\d\d", text):
            return datetime.combine(date.fromisoformat(text) + timedelta(days=1), time(), UTC)
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError) as error:
        raise ConfigError(f"expires: accepted is a day as 2027-01-31, found '{text}'") from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)


def table(found: Iterable[Key], now: datetime) -> str:
    """Return one aligned line per key, for people; `now` tells which have expired."""
    head = ("name", "ident", "roles", "rate", "created", "expires")
    lines = [head, *(_cells(key, now) for key in found)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def as_dict(found: Iterable[Key]) -> dict[str, Any]:
    """Return the keys as the file holds them, each with its ident."""
    return {"keys": [_as_dict(key) | {"ident": key.ident} for key in found]}


def _cells(key: Key, now: datetime) -> tuple[str, ...]:
    rate = f"{key.rate:g}/s, {key.burst} at once" if key.rate else "no limit"
    expires = _text(key.expires) if key.expires else "never"
    void = " EXPIRED" if key.expires and key.expires <= now else ""
    return key.name, key.ident, ",".join(key.roles), rate, _text(key.created) if key.created else "", expires + void


def _as_dict(key: Key) -> dict[str, Any]:
    return {
        "name": key.name, "sha256": key.digest.hex(), "roles": list(key.roles), "rate": key.rate, "burst": key.burst,
        "created": key.created and _text(key.created), "expires": key.expires and _text(key.expires),
    }  # fmt: skip


def _parse_key(said: Any, place: str) -> Key:
    if not isinstance(said, dict):
        raise ConfigError(f"{place}: must be an object with {', '.join(FIELDS)}")
    for field in said:
        if field not in FIELDS:
            raise ConfigError(f"{place}: unknown field '{field}'; {_near(field, FIELDS)}")
    name, digest, roles = said.get("name"), said.get("sha256"), said.get("roles")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ConfigError(f"{place}.name: accepted are 1 to 63 letters, digits and . _ -, found {name!r:.80}")
    if not isinstance(digest, str) or not re.fullmatch("[0-9a-f]{64}", digest):
        raise ConfigError(f"{place}.sha256: must be 64 hexadecimal digits")
    if not isinstance(roles, list) or not roles:
        raise ConfigError(f"{place}.roles: must be a list of some of {', '.join(ROLES)}")
    for role in roles:
        if role not in ROLES:
            raise ConfigError(f"{place}.roles: unknown role {role!r:.80}; {_near(str(role), ROLES)}")
    rate, burst = _limit(said, place)
    moments = (_moment(said.get(field), f"{place}.{field}") for field in ("created", "expires"))
    return Key(name, bytes.fromhex(digest), tuple(dict.fromkeys(roles)), rate, burst, *moments)


def _limit(said: dict[str, Any], place: str) -> tuple[float, int]:
    rate, burst = said.get("rate", 0.0), said.get("burst", 1)
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not 0 <= rate <= 1e9:
        raise ConfigError(f"{place}.rate: accepted are 0 (no limit) to 1e9 requests per second, found {rate!r:.80}")
    if isinstance(burst, bool) or not isinstance(burst, int) or not 1 <= burst <= 10**9:
        raise ConfigError(f"{place}.burst: accepted are 1 to 1e9 requests at once, found {burst!r:.80}")
    return float(rate), burst


def _moment(said: Any, place: str) -> datetime | None:
    if said is None:
        return None
    try:
        moment = datetime.fromisoformat(said)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{place}: accepted is a time as 2027-01-31T00:00:00Z, found {said!r:.80}") from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)


def _near(word: str, known: tuple[str, ...]) -> str:
    close = difflib.get_close_matches(word, known, n=1)
    return f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known)}"


def _text(moment: datetime) -> str:
    return moment.isoformat().replace("+00:00", "Z")


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_ctime_ns, status.st_size, status.st_ino  # ctime moves with content, mode and mtime alike


def _present(path: Path) -> tuple[Key, ...]:
    return read(path)[0] if path.exists() else ()


def _write(path: Path, kept: Iterable[Key]) -> None:
    content = json.dumps({"keys": [_as_dict(key) for key in kept]}, indent=1).encode() + b"\n"
    parse(content, path)
    durable.write_atomically(path.resolve(), content, mode=0o600)


@contextmanager
def _changing(path: Path) -> Iterator[None]:
    if not path.parent.is_dir():  # a folder that a slip of the finger made is none that the service looks into
        raise ConfigError(f"{path}: there is no folder {path.parent}; make it, or name the key file that is meant")
    try:
        with durable.locked(path.with_name(f".{path.name}.lock")):
            yield
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}") from error
