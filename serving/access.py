"""Who may do what: a key has roles, a route needs one, and each key has its own limit of requests.

Without a key file everyone may do everything. With one, a request names its key in `X-Api-Key: KEY` or, if
that is not there, `Authorization: Bearer KEY`. What is asked for is decided by the route table from the path
as it came, never from Host or a rebuilt URL. Of unknown keys nothing is kept, however many come.
"""

import hmac
import logging
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NoReturn

from monitoring.metrics import ServingMetrics
from registry.errors import ConfigError, RequestError
from serving import keys
from serving.buckets import Buckets, Cell
from serving.http import Head

log = logging.getLogger(__name__)

OPEN = "open"  # the role of routes that need no key
LOOK_S = 0.5
MOST_SEEN = 4096
LONGEST_SEEN = 2 * keys.LENGTH
REASONS = ("no_key", "unknown_key", "expired", "role", "rate")
CHALLENGE = ((b"www-authenticate", b'Bearer realm="vigil"'),)


@dataclass(slots=True)
class Grant:
    """What a live key may do; holds its token bucket, which counts requests.

    roles: all of them for an admin. spacing_s: seconds per request in the long run, 0 for no limit.
    slack_s: how far ahead of that pace the key may be. bucket: up to when the pace is used up, in seconds.
    """

    name: str
    digest: bytes
    roles: frozenset[str]
    spacing_s: float = 0.0
    slack_s: float = 0.0
    bucket: Cell = field(default_factory=lambda: [0.0])
    expires: datetime | None = None

    def take(self, now_s: float) -> float:
        """Take one request from the bucket; return 0, or the seconds until there is one, and take none."""
        due_s = self.bucket[0]
        if due_s < now_s:
            due_s = now_s
        if due_s - now_s > self.slack_s:
            return due_s - now_s - self.slack_s
        self.bucket[0] = due_s + self.spacing_s
        return 0.0


ANYONE = Grant("anyone", b"", frozenset((OPEN, *keys.ROLES)))


class Access:
    """Decides for every request; looks at the key file twice a second and needs no restart for a change."""

    def __init__(self, path: Path | None, metrics: ServingMetrics, folder: Path | None = None) -> None:
        """path: the key file; None lets everyone in. While the file cannot be read the keys of the last time hold.

        folder: where the workers of a service share the buckets; None keeps them private.
        """
        self._path = path
        self._buckets = Buckets(folder)
        self._metrics = metrics
        self._refused = {reason: metrics.access_refused.labels(reason) for reason in REASONS}
        self._stamp: keys.Stamp | None = None
        self._grants: dict[bytes, Grant] = {}
        self._bearers: dict[bytes, Grant] = {}  # what the two headers held, as it came: hashed once per look
        self._plain: dict[bytes, Grant] = {}
        self._look_at_s = 0.0
        if path is not None:
            self._load(path)

    def demand(self, head: Head, role: str) -> Grant:
        """Return the grant of the key that came with a request.

        Raises RequestError: 401 without a live key, 403 if its roles lack `role`, 429 with the time to wait
        if its requests came too fast.
        """
        if self._path is None or role == OPEN:
            return ANYONE
        now_s = time.monotonic()
        if now_s >= self._look_at_s:
            self._look(self._path, now_s)
        grant = self._sender(head)
        if role not in grant.roles:
            had = ", ".join(r for r in keys.ROLES if r in grant.roles)
            self._refuse(f"the key of '{grant.name}' has the role {had}; this needs {role}", "role", 403)
        if grant.spacing_s and (wait_s := grant.take(now_s)):
            self._refuse(
                f"the key of '{grant.name}' is over its rate of {1 / grant.spacing_s:g}/s", "rate", 429, wait_s
            )
        return grant

    def opens(self, head: Head, role: str) -> bool:
        """Say whether the key of a request that was let in has `role` too; takes nothing from its rate."""
        return self._path is None or role in self._sender(head).roles

    def _sender(self, head: Head) -> Grant:
        sent = head.headers.get(b"x-api-key")
        if sent is None:
            sent = head.headers.get(b"authorization", b"")
            return self._bearers.get(sent) or self._identify(sent, bearer=True)
        return self._plain.get(sent) or self._identify(sent, bearer=False)

    def _identify(self, sent: bytes, bearer: bool) -> Grant:
        secret = _secret(sent) if bearer else sent.strip()
        if not secret:
            self._refuse("a key is needed: send it as `Authorization: Bearer KEY`", "no_key", 401)
        digest = keys.digest_of(secret[: keys.LENGTH + 1])  # the time of a refusal must not grow with what was sent
        grant = self._grants.get(digest)
        if grant is None or not hmac.compare_digest(grant.digest, digest):
            self._refuse("this key is not known", "unknown_key", 401)
        if grant.expires is not None and grant.expires <= datetime.now(UTC):
            self._refuse(f"the key of '{grant.name}' has expired", "expired", 401)
        seen = self._bearers if bearer else self._plain
        if len(seen) < MOST_SEEN and len(sent) <= LONGEST_SEEN:
            seen[sent] = grant
        return grant

    def _look(self, path: Path, now_s: float) -> None:
        self._look_at_s = now_s + LOOK_S
        self._bearers.clear()  # so that a key is looked at again, and its expiry with it
        self._plain.clear()
        if keys.stamp(path) != self._stamp:
            self._load(path)

    def _load(self, path: Path) -> None:
        self._stamp = keys.stamp(path)
        try:
            found, self._stamp = keys.read(path)
        except ConfigError as error:  # the last good keys stay
            log.error("key_file_refused", extra={"error": str(error), "keys": len(self._grants)})
            self._metrics.key_file_failures.inc()
            return
        cells = self._buckets.of(key.digest for key in found if key.rate)
        self._grants = {key.digest: _grant(key, cells.get(key.digest)) for key in found}
        self._metrics.keys.set(len(found))
        log.info("key_file_read", extra={"keys": len(found)})

    def _refuse(self, why: str, reason: str, status: int, wait_s: float | None = None) -> NoReturn:
        self._refused[reason].inc()
        error = RequestError(f"access: {why}", reason=reason, status=status)
        error.retry_s = wait_s
        error.headers = CHALLENGE if status == 401 else ()
        raise error


def _secret(sent: bytes) -> bytes:
    scheme, _, secret = sent.partition(b" ")
    return secret.strip() if scheme.lower() == b"bearer" else b""


def _grant(key: keys.Key, bucket: "Cell | None") -> Grant:
    roles = frozenset(keys.ROLES if "admin" in key.roles else key.roles)
    if bucket is None:
        return Grant(key.name, key.digest, roles, expires=key.expires)
    spacing_s = 1 / key.rate
    return Grant(key.name, key.digest, roles, spacing_s, (key.burst - 1) * spacing_s + 1e-9, bucket, key.expires)
