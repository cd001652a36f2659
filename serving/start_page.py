"""The page at `/`: which models answer here, what a row of each is, and where all else is. One file, no script."""

from collections.abc import Iterable
from html import escape

from registry.example import Example
from registry.release import Release
from serving.host import Host

TYPE = b"text/html; charset=utf-8"
MOST_NAMES = 12  # columns or classes that are written out
STYLE = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1f24}"
    "a{color:#0b5cad;text-decoration:none}a:hover{text-decoration:underline}"
    "table{border-collapse:collapse;font-size:.92rem}"
    "th,td{text-align:left;vertical-align:top;padding:.2rem 1.2rem .2rem 0;border-bottom:1px solid #d6dae0}"
    "th{color:#57606a;font-weight:600;white-space:nowrap}h1{font-size:1.7rem}"
    "h2{font-size:1.2rem;margin-top:2rem;border-bottom:2px solid #d6dae0}code{font-size:.9em;overflow-wrap:anywhere}"
)
# Relative, so that they hold behind a proxy that puts the service under a path of its own.
PLACES = (
    ("openapi.json", "every address, what it takes and gives, in OpenAPI 3.1"),
    ("readyz", "whether predictions are answered, and if not, why"),
    ("v1/models", "the models, as JSON"),
    ("v2", "the Open Inference Protocol"),
)
METRICS = ("metrics", "for Prometheus")


async def page(hosts: Iterable[Host], metrics: bool, url: str, keyed: bool) -> bytes:
    """Return the page, in UTF-8.

    metrics: whether who asks gets them at this address. url: of the service, as they see it. keyed: whether rows need
    a key.
    """
    models = "".join([await _model(host, url, keyed) for host in list(hosts)]) or "<p>None.</p>"
    places = (*PLACES, METRICS) if metrics else PLACES
    rows = [(_link(address, f"/{address}"), escape(about)) for address, about in places]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Vigil</title><style>{STYLE}</style></head><body><h1>Vigil</h1>{models}"
        f"<h2>Addresses</h2>{_table(rows)}</body></html>"
    ).encode()


async def _model(host: Host, url: str, keyed: bool) -> str:
    if not host.ready:
        return f"<h2>{escape(host.name)}</h2><p>Not ready: {escape(host.reason)}</p>"
    served = host.serving()
    name, said = escape(host.name), served.release.manifest
    rows = [
        ("version", f"<code>{escape(served.release.version)}</code>"),
        ("purpose", escape(said.purpose or "not stated")),
        ("task", escape(said.task)),
        ("a row", _row(served.release)),
        *((("classes", _names(said.classes)),) if said.classes else ()),
        ("try it", _request(await served.example.get(), url, keyed)),
        ("rows go to", f"<code>POST /v1/models/{name}/predict</code>, {_link(f'v1/models/{name}', 'as JSON')}"),
        *(("card", _link(f"v1/models/{name}/card?format={kind}", "the model card")) for kind in list(served.cards)[:1]),
    ]
    return f"<h2>{name}</h2>{_table(rows)}"


def _request(example: Example, url: str, keyed: bool) -> str:
    about = f"<br>{escape(example.about)}" if example.about else ""
    return f"<code>{escape(example.curl(url, keyed), quote=False)}</code>{about}"


def _row(release: Release) -> str:
    spec = release.manifest.input
    shape = " x ".join(map(str, spec.shape))
    return f"{escape(spec.dtype)}, {shape}" + (f": {_names(spec.columns)}" if spec.columns else "")


def _names(names: tuple[str, ...]) -> str:
    shown = ", ".join(map(escape, names[:MOST_NAMES]))
    return shown + (f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else "")


def _link(address: str, text: str) -> str:
    return f'<a href="{address}">{text}</a>'


def _table(rows: Iterable[tuple[str, str]]) -> str:
    return f"<table>{''.join(f'<tr><th>{name}</th><td>{value}</td></tr>' for name, value in rows)}</table>"
