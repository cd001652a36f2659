"""The OpenAPI 3.1 document of every route, made from the route table and from the releases that are live.

What a route may answer follows from its method, its role and its address; a summary is the first line of its
handler's docstring. Only what an answer looks like is listed here, by address.
"""

import re
from collections.abc import Iterable, Sequence

import orjson

from registry.release import Release
from serving import schemas
from serving.routes import Route
from serving.schemas import COUNT, Schema, many, record

JSON, BINARY, NPY = "application/json", "application/octet-stream", "application/x-npy"
TEXT: Schema = {"type": "string"}
TRUTH: Schema = {"type": "boolean"}
NUMBER_OR_NULL: Schema = {"type": ["number", "null"]}
ABOUT = """Rows in, predictions out. Rows are refused by field and row; every answer names the model, its version
and an id, under which the truth may be sent later. See docs/serving.md."""
WHY = {
    400: "The request cannot be read.",
    401: "No key came, or one that is not known or has expired.",
    403: "The key has not the role that this needs.",
    404: "No such model or version is served here.",
    408: "The request did not arrive in time.",
    413: "The body is larger than is accepted.",
    415: "The content type, or a content encoding, is not accepted.",
    422: "A row or a field is refused; it is named.",
    429: "The key is over its rate.",
    431: "The request line and headers are longer than is accepted.",
    500: "A bug, or the model failed; the log says why.",
    503: "Not now: not ready, draining, the queue is full, or the deadline cannot be kept.",
}
KEYS: Schema = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "X-Api-Key"},
}
EVERYWHERE = (400, 408, 431, 500, 503)
ERROR = record({"error": TEXT, "field": TEXT, "row": COUNT}, ("field", "row"))
TENSOR = record({"name": TEXT, "datatype": TEXT, "shape": many({"type": "integer"})})
INFERRED = record(
    {
        "id": TEXT, "model_name": TEXT, "model_version": TEXT,
        "outputs": many(record(TENSOR["properties"] | {"data": {"type": "array"}}), 1),
    }
)  # fmt: skip
MODEL = record(
    {
        "model": TEXT, "version": TEXT, "task": {"enum": ["classification", "regression"]}, "row": {"type": "object"},
        "classes": many(TEXT), "threshold": NUMBER_OR_NULL, "tolerance": NUMBER_OR_NULL,
    }
)  # fmt: skip
LISTED = record({"model": TEXT, "ready": TRUTH, "versions": many(TEXT)})
TENSORS = record(
    {"name": TEXT, "versions": many(TEXT), "platform": TEXT, "inputs": many(TENSOR), "outputs": many(TENSOR)}
)
ADDED = record({"accepted": COUNT, "unknown": COUNT})
ANSWERS: dict[str, Schema] = {
    "/v1/labels": ADDED,
    "/v1/models/{name}/labels": ADDED,
    "/v1/model": MODEL,
    "/v1/models/{name}": MODEL,
    "/v1/models": record({"models": many(LISTED)}),
    "/livez": record({"alive": {"const": True}}),
    "/readyz": record({"ready": TRUTH, "reason": TEXT}),
    "/openapi.json": {"type": "object"},
    "/docs.json": {"type": "object"},
    "/v2": record({"name": TEXT, "version": TEXT, "extensions": many(TEXT)}),
    "/v2/health/live": record({"live": TRUTH}),
    "/v2/health/ready": record({"ready": TRUTH}),
    "/v2/models/{name}": TENSORS,
    "/v2/models/{name}/ready": record({"name": TEXT, "ready": TRUTH}),
}
PAGES = {
    "/metrics": ("text/plain",),
    "/v1/models/{name}/card": ("text/html", "text/markdown"),
    "/": ("text/html",),
}


class Document:
    """The document as JSON: made when it is first asked for, and again when a route or a release is another one."""

    def __init__(self, keyed: bool) -> None:
        self._keyed = keyed
        self._made_of: object = None
        self._content = b""

    def content(self, table: Sequence[Route], releases: Sequence[Release]) -> bytes:
        """Return `document` of these, in UTF-8."""
        made_of = tuple(table), tuple((release.tag, release.digest) for release in releases)
        if made_of != self._made_of:
            self._content = orjson.dumps(document(table, releases, self._keyed))
            self._made_of = made_of
        return self._content


def document(table: Iterable[Route], releases: Sequence[Release], keyed: bool) -> Schema:
    """Return the document. releases: those that are live. keyed: whether requests need a key."""
    paths: dict[str, Schema] = {}
    for route in table:
        paths.setdefault(route.pattern, {})[route.method.lower()] = _operation(route, releases, keyed)
    components: Schema = {
        "schemas": {"Error": ERROR, "Inferred": INFERRED} | _of_releases(releases),
        "responses": {str(code): _refusal(code) for code in WHY},
    }
    if keyed:
        components["securitySchemes"] = KEYS
    info = {"title": "Vigil", "version": "1", "description": ABOUT}
    return {"openapi": "3.1.0", "info": info, "paths": paths, "components": components}


def _operation(route: Route, releases: Sequence[Release], keyed: bool) -> Schema:
    address = route.pattern.replace("/versions/{version}", "")
    guarded = keyed and route.role != "open"
    said: Schema = {
        "operationId": "_".join(re.findall(r"\w+", f"{route.method.lower()} {route.pattern}")),
        "summary": _summary(route),
        "tags": [route.pattern.split("/")[1] if route.pattern.startswith("/v") else "service"],
        "parameters": _parameters(route, releases),
        "security": [{scheme: []} for scheme in KEYS] if guarded else [],
        "responses": {"200": {"description": "Answered.", "content": _gives(address, releases)}}
        | {str(code): {"$ref": f"#/components/responses/{code}"} for code in sorted(_refusals(route, guarded))},
    }
    if address.endswith(("/ready", "/readyz")):
        either = {"anyOf": [ANSWERS[address], _ref("Error")]}
        said["responses"]["503"] = {"description": "Not ready, and why.", "content": {JSON: {"schema": either}}}
    if route.method == "POST":
        said["requestBody"] = {"required": True, "content": _takes(address, releases)}
    return said


def _refusals(route: Route, guarded: bool) -> set[int]:
    codes = set(EVERYWHERE)
    if route.role != "open" or "{" in route.pattern:  # also of metrics, which may have an address of their own
        codes |= {404}
    if route.method == "POST":
        codes |= {413, 415, 422}
    if route.pattern.endswith("/card"):
        codes |= {422}
    return codes | ({401, 403, 429} if guarded else set())


def _summary(route: Route) -> str:
    if route.handler is None:
        return "Answer rows." if route.pattern != "/predict" else "Answer rows; where BentoML's clients send."
    return (route.handler.__doc__ or route.pattern).partition("\n")[0]


def _parameters(route: Route, releases: Sequence[Release]) -> list[Schema]:
    known: dict[str, Schema] = {
        "name": TEXT | ({"enum": [release.name for release in releases]} if releases else {}),
        "version": TEXT | {"examples": [release.version for release in releases]},
    }
    found: list[Schema] = [
        {"name": name, "in": "path", "required": True, "schema": known[name]}
        for name in re.findall(r"\{(\w+)\}", route.pattern)
    ]
    if route.handler is None:
        found.append(_header("X-Request-Id", "What the answer and the log call the request.", TEXT))
        seconds = TEXT | {"pattern": r"^\d{1,6}(\.\d{1,6})?$", "examples": ["0.5"]}
        found.append(_header("X-Request-Timeout", "Seconds after which the answer is of no use.", seconds))
    if route.pattern.endswith("/infer"):
        about = "Of a body with binary tensors: how many of its bytes are the JSON."
        found.append(_header("Inference-Header-Content-Length", about, COUNT))
    if route.pattern.endswith("/card"):
        found.append({"name": "format", "in": "query", "schema": {"enum": ["html", "md"]}})
    return found


def _header(name: str, about: str, schema: Schema) -> Schema:
    return {"name": name, "in": "header", "description": about, "schema": schema}


def _takes(address: str, releases: Sequence[Release]) -> Schema:
    if address.endswith("/labels"):
        return {JSON: {"schema": _any("labels", releases)}}
    if address.endswith("/infer"):
        return {JSON: {"schema": _any("infer", releases)}, BINARY: {}}
    return {JSON: {"schema": _any("rows", releases)}, BINARY: {}, NPY: {}}


def _gives(address: str, releases: Sequence[Release]) -> Schema:
    if address in PAGES:
        return {kind: {"schema": TEXT} for kind in PAGES[address]}
    if address in ANSWERS:
        return {JSON: {"schema": ANSWERS[address]}}
    if address.endswith("/infer"):
        return {JSON: {"schema": _ref("Inferred")}, BINARY: {}}
    if address.endswith("/predict"):
        return {JSON: {"schema": _any("answer", releases)}, BINARY: {}, NPY: {}}
    return {JSON: {}}


def _refusal(code: int) -> Schema:
    said: Schema = {"description": WHY[code], "content": {JSON: {"schema": _ref("Error")}}}
    if code in (429, 503):
        said["headers"] = {"Retry-After": {"description": "Seconds.", "schema": COUNT}}
    return said


def _of_releases(releases: Sequence[Release]) -> dict[str, Schema]:
    makers = {"rows": schemas.rows, "answer": schemas.answer, "labels": schemas.labels, "infer": schemas.infer}
    return {f"{release.name}.{kind}": make(release) for release in releases for kind, make in makers.items()}


def _any(kind: str, releases: Sequence[Release]) -> Schema:
    if not releases:  # nothing is live: every request is refused
        return {"type": "object"}
    found = [_ref(f"{release.name}.{kind}") for release in releases]
    return found[0] if len(found) == 1 else {"anyOf": found}


def _ref(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}
