"""What Prometheus and Alertmanager say over HTTP, as plain values."""

import http.client
import json
import math
import urllib.error
import urllib.parse
import urllib.request
from dataclasses import dataclass
from datetime import datetime
from http import HTTPStatus
from typing import Any

from registry.errors import StackError

TIMEOUT_S = 5.0
MOST_BYTES = 1 << 26  # of an answer; what is longer comes from another program
OTHERS = (KeyError, IndexError, TypeError, AttributeError, ValueError)  # reading JSON of another shape
RUNBOOK, SUMMARY = "runbook_url", "summary"


@dataclass(frozen=True)
class Sample:
    """One series of an instant query; value: never NaN."""

    labels: dict[str, str]
    value: float


@dataclass(frozen=True)
class Firing:
    """An alert that fires. since_s: Unix time. muted: silenced, or kept back because of another alert."""

    name: str
    severity: str
    labels: dict[str, str]
    annotations: dict[str, str]
    since_s: float
    muted: bool


def instant(base: str, query: str) -> list[Sample]:
    """Return what `query` gives now, without what is not a number.

    Raises StackError if the Prometheus at `base` does not answer, or refuses the query.
    """
    said = _get("Prometheus", base, f"/api/v1/query?{urllib.parse.urlencode({'query': query})}")
    series = _result("Prometheus", base, said, "vector")
    try:
        samples = [Sample(one["metric"], float(one["value"][1])) for one in series]
    except OTHERS as error:
        raise StackError(foreign("Prometheus", base)) from error
    return [sample for sample in samples if not math.isnan(sample.value)]


def notified(base: str) -> list[Firing]:
    """Return the alerts that the Alertmanager at `base` holds, the oldest first; raises StackError."""
    said = _get("Alertmanager", base, "/api/v2/alerts?active=true&silenced=true&inhibited=true")
    try:
        found = [_firing(one, one["startsAt"], one["status"]["state"] == "suppressed") for one in said]
    except OTHERS as error:
        raise StackError(foreign("Alertmanager", base)) from error
    return sorted(found, key=lambda firing: firing.since_s)


def evaluated(base: str) -> list[Firing]:
    """Return the alerts that fire by the rules of the Prometheus at `base`, the oldest first; raises StackError."""
    return _in_state(base, "firing")


def pending(base: str) -> list[Firing]:
    """Return the alerts that wait for their `for` in the Prometheus at `base`, the oldest first; raises StackError."""
    return _in_state(base, "pending")


def started(base: str) -> float:
    """Return when the Prometheus at `base` started, as Unix time; raises StackError."""
    said = _get("Prometheus", base, "/api/v1/status/runtimeinfo")
    try:
        return datetime.fromisoformat(said["data"]["startTime"]).timestamp()
    except OTHERS as error:
        raise StackError(foreign("Prometheus", base)) from error


def address(text: str, variable: str) -> str:
    """Return where a program listens as a URL without a slash at its end; raises StackError for what is none."""
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urllib.parse.urlsplit(url)
        whole = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # half an IPv6 address, or a port that is none
        whole = False
    if not whole:
        raise StackError(f"{variable}: '{text}' is no address; accepted are HOST:PORT and http(s)://HOST:PORT/PATH")
    return url.rstrip("/")


def _in_state(base: str, state: str) -> list[Firing]:
    said = _get("Prometheus", base, "/api/v1/alerts")
    try:
        found = [_firing(one, one["activeAt"], False) for one in said["data"]["alerts"] if one["state"] == state]
    except OTHERS as error:
        raise StackError(foreign("Prometheus", base)) from error
    return sorted(found, key=lambda firing: firing.since_s)


def _firing(said: dict[str, Any], since: str, muted: bool) -> Firing:
    labels = said["labels"]
    since_s = datetime.fromisoformat(since).timestamp()
    return Firing(labels["alertname"], labels.get("severity", ""), labels, said["annotations"], since_s, muted)


def answer(program: str, base: str, path: str) -> tuple[int, str]:
    """Return status and text of what `program` answers at `base`, an error or not; raises StackError without one."""
    try:
        with _reply(base + path) as reply:
            return reply.status, reply.read(MOST_BYTES).decode(errors="replace")
    except (ValueError, http.client.HTTPException) as error:  # not even HTTP
        raise StackError(foreign(program, base)) from error
    except OSError as error:
        reason = getattr(error, "reason", None) or error
        raise StackError(
            f"{program} at {base}: does not answer ({reason}); start it, or say where it is: --{program.lower()} "
            f"HOST:PORT or VIGIL_{program.upper()}"
        ) from error


def _reply(url: str) -> Any:
    # An error is read where a good answer is: it, too, may be cut off.
    try:
        return urllib.request.urlopen(url, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        return error


def foreign(program: str, base: str) -> str:
    """Return what is said where something else answers at `base`."""
    return f"{program} at {base}: what answers there is no {program}; see --{program.lower()}"


def _get(program: str, base: str, path: str) -> Any:
    status, text = answer(program, base, path)
    if status >= HTTPStatus.BAD_REQUEST:
        raise StackError(f"{program} at {base}: answered {status}: {text[:300].strip()}")
    try:
        return json.loads(text)
    except ValueError as error:
        raise StackError(foreign(program, base)) from error


def _result(program: str, base: str, said: Any, kind: str) -> list[dict[str, Any]]:
    data = said.get("data") if isinstance(said, dict) else None
    if not isinstance(data, dict) or data.get("resultType") != kind or not isinstance(data.get("result"), list):
        raise StackError(foreign(program, base))
    result: list[dict[str, Any]] = data["result"]
    return result
