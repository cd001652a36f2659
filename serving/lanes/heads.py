"""The head of a request: what it says, and whether the fast lane takes it."""

import httptools

from serving.http import Head
from serving.server import Server

LENGTH = b"content-length"
UNUSUAL = (b"transfer-encoding", b"content-encoding", b"expect", b"upgrade", b"trailer")


class _Reader:
    # Takes the callbacks of the parser.
    def __init__(self) -> None:
        self.url = b""
        self.headers: dict[bytes, bytes] = {}
        self.complete = False

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        self.headers[name] = self.headers[name] + b", " + value if name in self.headers else value

    def on_headers_complete(self) -> None:
        self.complete = True


def read_head(content: bytes) -> Head | None:
    """Return the head in `content`, which ends with an empty line; None for anything but plain HTTP/1.1."""
    reader = _Reader()
    parser = httptools.HttpRequestParser(reader)
    try:
        parser.feed_data(content)
        url = httptools.parse_url(reader.url)
    except (httptools.HttpParserError, httptools.HttpParserUpgrade, httptools.HttpParserInvalidURLError):
        return None
    if not url.path or not reader.complete or parser.get_http_version() != "1.1" or not parser.should_keep_alive():
        return None
    return Head(parser.get_method().decode(), url.path.decode("latin-1"), url.query or b"", reader.headers)


def is_plain(head: Head, server: Server) -> bool:
    """Return whether the fast lane takes a request with this head; whatever is unusual is for uvicorn to judge."""
    length = head.headers.get(LENGTH, b"")
    return (
        head.method == "POST"
        and "%" not in head.path
        and length.isdigit()
        and int(length) <= server.settings.max_body_bytes
        and not any(name in head.headers for name in UNUSUAL)
    )
