"""The table of routes: address, method, and the role a key needs. A metric's route label is a pattern of it."""

import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from registry.errors import RequestError
from serving.http import Call, Head, Reply

Role = Literal["open", "predict", "label", "metrics", "admin"]
Parameters = dict[str, str]
Handler = Callable[[Call, Parameters], Awaitable[Reply]]


@dataclass(frozen=True)
class Route:
    """pattern: a path whose parts in braces are parameters. handler: None is a prediction, which has its own path."""

    method: str
    pattern: str
    role: Role
    handler: Handler | None = None


@dataclass(frozen=True)
class Match:
    route: Route
    parameters: Parameters


class Routes:
    """Finds the route of a request."""

    def __init__(self, table: list[Route]) -> None:
        self.table = table
        self._exact: dict[str, list[Route]] = {}
        self._patterns: list[tuple[re.Pattern[str], list[Route]]] = []
        by_pattern: dict[str, list[Route]] = {}
        for route in table:
            by_pattern.setdefault(route.pattern, []).append(route)
        for pattern, routes in by_pattern.items():
            if "{" in pattern:
                expression = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(pattern))
                self._patterns.append((re.compile(expression), routes))
            else:
                self._exact[pattern] = routes

    def find(self, head: Head) -> Match | None:
        """Return the route of `head`; None for an address that is none of ours.

        Raises RequestError 405 with the methods that are accepted there.
        """
        exact = self._exact.get(head.path)
        if exact is not None:
            return Match(_of_method(exact, head), {})
        for expression, routes in self._patterns:
            found = expression.fullmatch(head.path)
            if found:
                return Match(_of_method(routes, head), found.groupdict())
        return None

    def role(self, head: Head) -> Role:
        """Return what a key needs for `head`; an address that is none of ours is for an admin."""
        routes = self._exact.get(head.path)
        if routes is None:
            routes = next((found for expression, found in self._patterns if expression.fullmatch(head.path)), None)
        if routes is None:
            return "admin"
        return next((route.role for route in routes if route.method == head.method), routes[0].role)

    def label(self, path: str) -> str:
        """Return the pattern that `path` fits, "other" if none: what a metric may say of it."""
        if path in self._exact:
            return path
        return next((routes[0].pattern for expression, routes in self._patterns if expression.fullmatch(path)), "other")


def _of_method(routes: list[Route], head: Head) -> Route:
    for route in routes:
        if route.method == head.method:
            return route
    accepted = ", ".join(route.method for route in routes)
    error = RequestError(f"{head.path[:200]}: {head.method} is not accepted; use {accepted}", status=405)
    error.headers = ((b"allow", accepted.encode()),)
    raise error
