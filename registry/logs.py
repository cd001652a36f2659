"""Log lines a person and a machine can read: a constant event, then its fields. Never a row or a label."""

import json
import logging
import sys
import time

USUAL = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
LIBRARIES = ("uvicorn.error", "asyncio")  # they write a line for what a client does wrong
MOST_EVENTS = 1000
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


class Fewer(logging.Filter):
    """Lets so many lines of one event through each second; the next one says how many were suppressed."""

    def __init__(self, most_per_s: int) -> None:
        super().__init__()
        self._most = most_per_s
        self._seen: dict[str, tuple[int, int]] = {}  # event: second, lines in it; events are constant, so few

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether the line is written; on the threads of one process."""
        event = f"{record.name}:{record.msg}"  # not yet with its arguments
        second, lines = self._seen.get(event, (0, 0))
        now = int(record.created)
        if now != second:
            if lines > self._most:
                record.suppressed = lines - self._most
            lines = 0
            if len(self._seen) >= MOST_EVENTS:
                self._seen.clear()
        self._seen[event] = (now, lines + 1)
        return lines < self._most


def set_up(most_per_s: int | None = None) -> None:
    """Send the project's own loggers to stderr; those of libraries stay as they are.

    most_per_s: lines of one event, for a process in which others cause lines; then the server's library too.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines(as_json=not sys.stderr.isatty()))
    if most_per_s is not None:
        handler.addFilter(Fewer(most_per_s))
        for name in LIBRARIES:
            logging.getLogger(name).addFilter(Fewer(most_per_s))
    for name in OURS:
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.setLevel(logging.INFO)
        logger.propagate = False
