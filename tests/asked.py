"""One request to a service as a key holder makes it, and what came back."""

import http.client
import json
import urllib.parse

from tiny_release import IMAGE, rows_of

ROWS = rows_of(IMAGE, 2, seed=3).tolist()


def ask(root, method, path, secret, header="Authorization"):
    """Return the status and the headers of one request that the route would answer, if the key may ask it."""
    connection = http.client.HTTPConnection(urllib.parse.urlparse(root).netloc, timeout=10)
    headers = {"Content-Type": "application/json"} if method == "POST" else {}
    if secret is not None:
        headers[header] = f"Bearer {secret}" if header == "Authorization" else secret
    try:
        connection.request(method, path, body_of(path) if method == "POST" else None, headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.headers
    finally:
        connection.close()


def status_of(root, path, secret=None):
    """Return the status of a GET, 0 where no answer came: for who looks again and again."""
    try:
        return ask(root, "GET", path, secret)[0]
    except (OSError, http.client.HTTPException):
        return 0


def body_of(path):
    if path.endswith("labels"):
        return json.dumps({"labels": [{"id": "a", "label": "3"}]})
    if path.startswith("/v2"):
        values = [value for row in ROWS for line in row for value in line]
        return json.dumps({"inputs": [{"name": "input", "shape": [2, 8, 8], "datatype": "UINT8", "data": values}]})
    return json.dumps({"rows": ROWS})
