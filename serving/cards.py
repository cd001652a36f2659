"""The model card of the live release, as it was published: HTML for people, Markdown for everything else."""

import urllib.parse

from registry.errors import RequestError
from registry.release import Release

FILES = {"html": "card.html", "md": "card.md"}
TYPES = {"html": b"text/html; charset=utf-8", "md": b"text/markdown; charset=utf-8"}
# A card is one file: the browser need fetch and run nothing, so it may not.
HEADERS = (
    (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'; img-src data:"),
    (b"x-content-type-options", b"nosniff"),
)


def read(release: Release) -> dict[str, bytes]:
    """Return the cards that `release` holds, by format, in verified bytes; raises ReleaseError if altered."""
    return {kind: release.read(file) for kind, file in FILES.items() if file in release.manifest.files}


def wanted(query: bytes, accept: bytes) -> str:
    """Return the format a request asks for: `?format=html|md`, else Markdown if its Accept header names it."""
    asked = urllib.parse.parse_qs(query.decode("latin-1"), keep_blank_values=True).get("format")
    if asked is None:
        return "md" if b"text/markdown" in accept.lower() else "html"
    if asked[-1] not in FILES:
        raise RequestError(f"format: accepted are {', '.join(FILES)}, found '{asked[-1][:40]}'", field="format")
    return asked[-1]


def choose(release: Release, cards: dict[str, bytes], kind: str) -> bytes:
    """Return the card; raises RequestError 404 for one that the release does not have."""
    if kind not in cards:
        has = ", ".join(f"?format={other}" for other in cards) or "no card"
        raise RequestError(f"{release.tag}: was published without {FILES[kind]}; it has {has}", status=404)
    return cards[kind]
