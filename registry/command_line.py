"""How a typed command line is read, and what is said of one that cannot be."""

import argparse
import difflib
import re
from typing import Any, NoReturn

from registry.plain import plain

UNKNOWN = re.compile(r"argument (VERB|ACTION): invalid choice: '(.*)' \(choose from (.*)\)", re.DOTALL)


class Parser(argparse.ArgumentParser):
    """An ArgumentParser that says what is wrong in one line, by the verb, and takes options before the words.

    Its subparsers are of this class too.
    """

    _inside = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Return what was typed and no rest: what no verb knows is an error of that verb, not of `vigil`."""
        if self._inside or self._subparsers is not None:
            return super().parse_known_args(args, namespace)
        self._inside = True  # the method for words and options in any order calls this one
        try:
            found, left = self.parse_known_intermixed_args(args, namespace)
        finally:
            self._inside = False
        if left:
            self.error(f"unrecognized arguments: {' '.join(left)}")
        return found, []

    def error(self, message: str) -> NoReturn:
        """Print one line that names the verb, with the nearest one for a mistyped verb, and exit with status 2."""
        self.exit(2, f"{self.prog}: {plain(_said(message))}; see {self.prog} --help\n")


def _said(message: str) -> str:
    if not (found := UNKNOWN.fullmatch(message)):
        return message
    what, typed, listed = found.groups()
    known = re.findall(r"[\w-]+", listed)
    near = difflib.get_close_matches(typed, known, n=1)
    hint = f"did you mean {near[0]}" if near else f"known: {', '.join(known)}"
    return f"'{typed}' is no {what.lower()}; {hint}"
