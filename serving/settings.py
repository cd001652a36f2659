"""What the service is told from outside: `VIGIL_*` variables, read once into one frozen dataclass."""

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from monitoring.log import policy, pseudonym
from monitoring.log.policy import Policy
from monitoring.log.pseudonym import Pseudonyms
from monitoring.log.recorder import Limits
from registry import signing, store
from registry.errors import ConfigError
from registry.release import NAME
from serving import lifecycle

PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
}
# Of the registry, between our processes, of the monitor, of who looks at them, and of deploy/compose.yaml.
NOT_OURS = (
    signing.VARIABLE, signing.PASSWORD, "VIGIL_RELEASES", lifecycle.SUPERVISOR, "VIGIL_REPORTS", "VIGIL_PROMETHEUS",
    "VIGIL_ALERTMANAGER", "VIGIL_SERVICE", "VIGIL_MONITOR", "VIGIL_IMAGE", "VIGIL_TOOLS_IMAGE",
)  # fmt: skip
LANES = ("auto", "fast", "asgi")
POSITIVE = frozenset(
    f"VIGIL_{name}"
    for name in (
        "WORKERS", "POLL_S", "TIMEOUT_S", "RECEIVE_S", "IDLE_S", "MAX_CONNECTIONS", "MAX_HEAD_BYTES", "MAX_BODY_BYTES",
        "MAX_BATCH_ROWS", "MAX_INFLIGHT_ROWS",
    )
)  # fmt: skip


class Address(NamedTuple):
    """Where to listen. host: a name or a number."""

    host: str
    port: int


@dataclass(frozen=True)
class Settings:
    """The variable of a field is `VIGIL_` and its name in capitals.

    models: whose champions are served; none named means the only model that has one.
    providers: where the model must run, in order of preference; the first one is a demand.
    threads: of one run; 0 measures at load and keeps the fastest.
    cuda_graphs: replay a run on a GPU as one graph where the model allows it.
    tensorrt_cache: folder of engines that TensorRT has built; empty means `tensorrt` beside the store.
    rehearsal_mb: memory in which a process of its own loads a release before it replaces one that serves; 0: none does.
    log: the prediction log; empty means `log.sqlite` beside the store.
    workers: processes that share the port, each with models of its own.
    drain_s, grace_s: see `serving.lifecycle.Lifecycle`.
    log_keep_days, log_keep_mb: what the log may hold, see `monitoring.log.retention.Limits`; 0 is without end.
    record_policy: what of a request is recorded, see `monitoring.log.policy`; empty means all of it.
    record_key, record_key_file: the key for what is hashed, or the file it is in.
    record_rows_per_s, record_mb_per_s, signal_rows_per_s: what a worker records and measures of the rows it answers,
    at most; a megabyte is 1,000,000 bytes of rows as they came in.
    trace_share: of the requests, see `serving.tracing`; 0 loads nothing of it.
    keys: the key file; empty lets everyone in.
    admin_address: where alone metrics and admin routes are answered; None answers them where predictions are.
    metrics_folder: where the workers of a service keep their counts, a folder of each service in it; empty means
    in memory (/dev/shm), or the temporary folder where there is none.
    lane: fast, asgi, or auto, which is fast where it works.
    busy_poll_us: how long a worker stays awake for the next request while they come quickly, see `serving.busy_poll`.
    timeout_s: the longest a request may take, and what one without X-Request-Timeout gets.
    receive_s: the longest a client may take to send a request. idle_s: how long a connection without one stays open.
    max_inflight_rows: per model.
    """

    models: tuple[str, ...] = ()
    providers: tuple[str, ...] = ("cpu",)
    threads: int = 0
    cuda_graphs: bool = True
    tensorrt_cache: str = ""
    rehearsal_mb: int = 4096
    log: str = ""
    log_keep_days: float = 0.0
    log_keep_mb: float = 0.0
    record: bool = True
    record_policy: str = ""
    record_key: str = field(default="", repr=False)
    record_key_file: str = ""
    record_rows_per_s: float = 1000.0
    record_mb_per_s: float = 2.0
    signal_rows_per_s: float = 20_000.0
    metrics_folder: str = ""
    trace_share: float = 0.0
    lane: str = "auto"
    busy_poll_us: int = 50
    poll_s: float = 0.25
    timeout_s: float = 30.0
    receive_s: float = 10.0
    idle_s: float = 75.0
    max_connections: int = 10_000
    max_head_bytes: int = 32 * 1024
    max_body_bytes: int = 8 * 1024 * 1024
    max_batch_rows: int = 256
    max_inflight_rows: int = 4096
    workers: int = 1
    drain_s: float = 5.0
    grace_s: float = 20.0
    keys: str = ""
    admin_address: Address | None = None

    @property
    def log_path(self) -> Path:
        return Path(self.log) if self.log else store.home() / "log.sqlite"

    @property
    def log_limits(self) -> Limits:
        return Limits(self.log_keep_days, self.log_keep_mb)

    @cached_property
    def policy(self) -> Policy | None:
        """The recording policy; raises ConfigError if it cannot be used."""
        return policy.read(Path(self.record_policy), self.pseudonyms) if self.record and self.record_policy else None

    @cached_property
    def pseudonyms(self) -> Pseudonyms | None:
        """The hashes under the key there is; raises ConfigError if it cannot be used."""
        return pseudonym.from_environment({pseudonym.KEY: self.record_key, pseudonym.KEY_FILE: self.record_key_file})

    @property
    def hidden(self) -> Pseudonyms | None:
        """What the ids that clients give are known as, in the prediction log and in ours; None: as they came."""
        return self.pseudonyms if self.policy is not None and self.policy.hash_ids else None

    @property
    def tensorrt_path(self) -> Path:
        return Path(self.tensorrt_cache) if self.tensorrt_cache else store.home() / "tensorrt"

    @property
    def keys_path(self) -> Path | None:
        return Path(self.keys) if self.keys else None


def from_environment(environment: Mapping[str, str]) -> Settings:
    """Return the settings in `environment`; raises ConfigError that names variable and cure."""
    known = {f"VIGIL_{f.name.upper()}": f for f in fields(Settings)}
    values: dict[str, Any] = {}
    for variable, text in environment.items():
        if not variable.startswith("VIGIL_") or variable in NOT_OURS:
            continue
        if variable not in known:
            close = difflib.get_close_matches(variable, known, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(known)}"
            raise ConfigError(f"environment: unknown variable {variable}; {hint}")
        values[known[variable].name] = _value(variable, text, getattr(Settings, known[variable].name))
    return Settings(**values)


def _value(variable: str, text: str, default: object) -> object:
    try:
        if isinstance(default, bool):
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if isinstance(default, int | float):
            number = type(default)(text)
            if not math.isfinite(number) or number < 0 or (number == 0 and variable in POSITIVE):
                raise ValueError(text)
            return number
    except (KeyError, ValueError):
        wanted = "true or false" if isinstance(default, bool) else _wanted(variable, default)
        raise ConfigError(f"environment: {variable} must be {wanted}, got '{text}'") from None
    if variable == "VIGIL_ADMIN_ADDRESS":
        return _address(variable, text)
    if isinstance(default, tuple):
        return (_providers if variable == "VIGIL_PROVIDERS" else _models)(variable, text)
    if variable == "VIGIL_LANE" and text not in LANES:
        raise ConfigError(f"environment: {variable} must be one of {', '.join(LANES)}, got '{text}'")
    return text


def _wanted(variable: str, default: object) -> str:
    kind = "a whole number" if isinstance(default, int) else "a number"
    return f"{kind} above 0" if variable in POSITIVE else f"{kind}, 0 or more"


def _address(variable: str, text: str) -> Address | None:
    if not text:
        return None
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise ConfigError(f"environment: {variable} must be HOST:PORT, as 127.0.0.1:9400, got '{text}'")
    return Address(host, int(port))


def _models(variable: str, text: str) -> tuple[str, ...]:
    named = tuple(part.strip() for part in text.split(",") if part.strip())
    wrong = [name for name in named if not NAME.fullmatch(name)]
    if wrong or len(set(named)) != len(named):
        raise ConfigError(f"environment: {variable} must list different model names, as `vigil models` prints them")
    return named


def _providers(variable: str, text: str) -> tuple[str, ...]:
    asked = tuple(part.strip() for part in text.split(",") if part.strip())
    unknown = [provider for provider in asked if provider not in PROVIDERS]
    if unknown or not asked:
        raise ConfigError(f"environment: {variable} must list some of {', '.join(PROVIDERS)}, got '{text}'")
    return asked
