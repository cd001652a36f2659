"""Log lines a person and a machine can read: a constant event, then its fields. Never a row or a label."""

import json
import logging
import sys
import time

USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
OURS = ("registry", "training", "serving", "monitoring", "demo", "vigil")


class Lines(logging.Formatter):
    """Text for a terminal, one JSON object per line elsewhere."""

    def __init__(self, as_json: bool) -> None:
        super().__init__()
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        """Return one line; a traceback is a field of it, or follows it on a terminal."""
        said = {key: value for key, value in vars(record).items() if key not in USUAL}
        trace = self.formatException(record.exc_info) if record.exc_info else ""
        when = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"
        if not self._as_json:
            fields = "".join(f"  {key}={value}" for key, value in said.items())
            return f"{when[11:19]} {record.levelname.lower()} {record.getMessage()}{fields}" + (
                f"\n{trace}" if trace else ""
            )
        line = {
            "time": when,
            "level": record.levelname.lower(),
            "logger": record.name,
            "event": record.getMessage(),
        }
        return json.dumps(line | said | ({"trace": trace} if trace else {}), default=str)


def set_up() -> None:
    """Send the project's own loggers to stderr; those of libraries stay as they are."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines(as_json=not sys.stderr.isatty()))
    for name in OURS:
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(logging.INFO)
        logger.propagate = False
