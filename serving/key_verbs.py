"""`vigil keys add|list|remove`: the verbs of the key file; each imports what it needs when it runs."""

import argparse
import json
import os
from pathlib import Path
from typing import Any

from registry.errors import ConfigError


def add(options: argparse.Namespace) -> int:
    """Make a key and print it, once: the file keeps only its hash. A running service takes it within a second."""
    from serving import keys

    burst = options.burst or max(1, round(2 * options.rate))
    expires = keys.expiry(options.expires) if options.expires else None
    key = keys.Key(options.name, b"", tuple(options.role), options.rate, burst, None, expires)
    secret, made = keys.make(key)
    keys.add(file_of(options), made)
    said = {"key": secret, "name": made.name, "ident": made.ident, "roles": made.roles}
    print(json.dumps(said) if options.json else secret)
    return 0


def show(options: argparse.Namespace) -> int:
    """List the keys: name, ident, roles, limit, expiry; never the keys themselves."""
    from datetime import UTC, datetime

    from serving import keys

    found, _ = keys.read(file_of(options))
    print(json.dumps(keys.as_dict(found)) if options.json else keys.table(found, datetime.now(UTC)))
    return 0


def remove(options: argparse.Namespace) -> int:
    """Remove every key of a name, or one of them; a running service refuses it within a second."""
    from serving import keys

    gone = keys.remove(file_of(options), options.name, options.ident)
    text = "\n".join(f"{key.name} {key.ident}: removed" for key in gone)
    print(json.dumps(keys.as_dict(gone)) if options.json else text)
    return 0


def file_of(options: argparse.Namespace) -> Path:
    """Return the key file: --file, else VIGIL_KEYS; raises ConfigError without either."""
    place = options.file or os.environ.get("VIGIL_KEYS", "")
    if not place:
        raise ConfigError("no key file: set VIGIL_KEYS=FILE, as the service needs it too, or give --file FILE")
    return Path(place)


def add_to(every: Any, as_json: argparse.ArgumentParser) -> None:
    """Add `keys` and its three verbs to the command line; every: the subparsers of `vigil`."""
    text = "Add, list or remove the API keys of the service."
    actions = every.add_parser("keys", help=text, description=text).add_subparsers(required=True, metavar="ACTION")
    for name, run in (("add", add), ("list", show), ("remove", remove)):
        said = (run.__doc__ or "").split("\n")[0]
        made = actions.add_parser(name, help=said, description=said, parents=[as_json])
        made.set_defaults(run=run)
        made.add_argument("--file", default="", help="the key file; default: VIGIL_KEYS")
        if run is not show:
            made.add_argument("name", help="whose key it is: a client, a team, a program")
        if run is add:
            _describe(made)
        if run is remove:
            made.add_argument(
                "--ident", default="", help="only the key whose ident starts so; `vigil keys list` has it"
            )


def _describe(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--role", action="append", required=True, metavar="ROLE",
        help="predict, label, metrics, or admin, which includes the others; may be repeated",
    )  # fmt: skip
    made.add_argument(
        "--rate", type=_positive(float), default=0.0, metavar="N",
        help="requests per second in the long run; no limit if left out",
    )  # fmt: skip
    made.add_argument(
        "--burst", type=_positive(int), default=0, metavar="N", help="requests that may come at once; default 2 x rate"
    )
    made.add_argument("--expires", default="", metavar="DATE", help="the last day it works, as 2027-01-31, or a time")


def _positive(kind: type[int] | type[float]) -> Any:
    def parse(text: str) -> float:
        try:
            number = kind(text)
        except ValueError:
            number = kind(0)
        if not 0 < number <= 1e9:
            raise argparse.ArgumentTypeError(f"accepted is a number above 0, found '{text}'")
        return number

    return parse
