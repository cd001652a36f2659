"""Errors a user can fix. Anything else that escapes is a bug in this project.

UserError
├─ ConfigError       a key or variable is missing, unknown or out of range
├─ DataError         a file, row or label does not fit what was declared
├─ CheckpointError   a checkpoint is unreadable, or belongs to another run
├─ ExportError       the ONNX file does not agree with the PyTorch model
├─ ReleaseError      a release is absent, incomplete or not the bytes that were published
├─ AliasError        a promotion or rollback that the rules refuse
├─ RequestError      a request the service will not answer; carries field and row
└─ StackError        a program or port that is needed is not there
"""


class UserError(Exception):
    """Base class; the command line prints the message alone and exits with `exit_status`."""

    exit_status = 2


class ConfigError(UserError): ...


class DataError(UserError): ...


class CheckpointError(UserError): ...


class ExportError(UserError): ...


class ReleaseError(UserError): ...


class AliasError(UserError): ...


class RequestError(UserError):
    """A refused request: `status` is the HTTP code, `reason` the bounded metric label.

    retry_s: when to try again, for the Retry-After of a 429 or 503; None where trying again does not help.
    headers: what else the reply must carry, as the WWW-Authenticate of a 401.
    """

    def __init__(self, message: str, reason: str = "malformed", status: int = 422, **place: object) -> None:
        super().__init__(message)
        self.reason = reason
        self.status = status
        self.place = place
        self.retry_s: float | None = 1.0 if status in (429, 503) else None
        self.headers: tuple[tuple[bytes, bytes], ...] = ()


class StackError(UserError): ...
