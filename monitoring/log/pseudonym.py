"""Keyed hashes: one name for what is to be told apart and not known.

HMAC-SHA-256 with a secret key, cut to 128 bits. Without the key nobody can try out which id or value it is of;
with it, whoever sends a label or asks for an erasure finds the same name again.
"""

import hmac
import os
from collections.abc import Mapping
from pathlib import Path

from registry.errors import ConfigError

KEY, KEY_FILE = "VIGIL_RECORD_KEY", "VIGIL_RECORD_KEY_FILE"
FEWEST_BYTES = 16
MOST_BYTES = 4096
DIGITS = 32
PREFIX = "h-"
MOST_KEPT = 65_536  # values whose hash is remembered


class Pseudonyms:
    """The keyed hashes under one key, which is in no text of this object."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._kept: dict[tuple[str, str], str] = {}

    def ident(self, text: str) -> str:
        """Return what the id `text` is known as."""
        return PREFIX + self._digest("id", text)

    def value(self, column: str, text: str) -> str:
        """Return the hash of a value of `column`; equal values of two columns have different ones."""
        found = self._kept.get((column, text))
        if found is None:
            if len(self._kept) >= MOST_KEPT:
                self._kept.clear()
            found = self._kept[column, text] = self._digest(f"column {column}", text)
        return found

    @property
    def fingerprint(self) -> str:
        """Return what tells one key from another, and nothing of the key."""
        return self._digest("fingerprint", "")[:16]

    def _digest(self, kind: str, text: str) -> str:
        said = f"{kind}\0{text}".encode("utf-8", "surrogatepass")
        return hmac.digest(self._key, said, "sha256").hex()[:DIGITS]


def from_environment(environment: Mapping[str, str] = os.environ) -> Pseudonyms | None:
    """Return the hashes under the key of the environment, None without one.

    Raises ConfigError that names the variable, and never shows the key.
    """
    text, file = environment.get(KEY, ""), environment.get(KEY_FILE, "")
    if text and file:
        raise ConfigError(f"environment: {KEY} and {KEY_FILE} are both set; give the key by one of them")
    if not text and not file:
        return None
    key = text.encode("utf-8", "surrogateescape") if text else _read(Path(file))
    if len(key) < FEWEST_BYTES:
        raise ConfigError(
            f"environment: {KEY if text else KEY_FILE}: the key has {len(key)} bytes, accepted are {FEWEST_BYTES} or "
            "more; make one: openssl rand -hex 32"
        )
    return Pseudonyms(key)


def _read(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(MOST_BYTES).strip()
    except OSError as error:
        raise ConfigError(f"{KEY_FILE}: {path} cannot be read: {error.strerror}; make it or name another") from error
