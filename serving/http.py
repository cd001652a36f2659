"""One HTTP request and its answer, as every lane and every route sees them."""

from dataclasses import dataclass

JSON = b"application/json"


@dataclass(frozen=True, slots=True)
class Head:
    """The request line and the headers.

    path: without the query, percent-decoded. headers: names in lower case; the values of a repeated one are
    joined by a comma. scheme: http or https.
    """

    method: str
    path: str
    query: bytes
    headers: dict[bytes, bytes]
    scheme: str = "http"

    @property
    def url(self) -> str:
        """Return the root of the service as the client named it; not to be believed."""
        return f"{self.scheme}://{self.headers.get(b'host', b'').decode('latin-1')}"


@dataclass(slots=True)
class Call:
    """A request whose body has arrived."""

    head: Head
    body: bytes


@dataclass(slots=True)
class Reply:
    """What goes back; lengths, dates and connection headers are added by the lane.

    ident: of the request, sent as `vigil-id` where there is one.
    """

    status: int
    body: bytes
    content_type: bytes = JSON
    headers: tuple[tuple[bytes, bytes], ...] = ()
    ident: str = ""
