"""Pages for people: one HTML file in light or dark, without script, link to or request from anywhere else."""

from collections.abc import Sequence
from html import escape

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --grey: #57606a; --line: #d6dae0; --paper: #ffffff; --soft: #f4f6f8;
  --link: #0b5cad; --red: #cf222e; --amber: #9a6700; --green: #1a7f37; --bar: #1f6feb }
@media (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --grey: #9aa4af; --line: #353c45; --paper: #0f1318;
  --soft: #1a2027; --link: #6cb0f5; --red: #ff7b72; --amber: #e3b341; --green: #56d364; --bar: #58a6ff } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 84rem; margin: 2rem auto; padding: 0 1.2rem;
  color: var(--ink); background: var(--paper) }
h1 { font-size: 1.7rem; margin-bottom: .2rem } h2 { font-size: 1.2rem; margin-top: 2rem;
  border-bottom: 2px solid var(--line) } h3 { font-size: 1rem; margin: 1.3rem 0 .3rem; font-weight: 600 }
a { color: var(--link); text-decoration: none } a:hover { text-decoration: underline }
p.lead, figcaption { color: var(--grey) } figure { margin: 1rem 0 } code { background: var(--soft); padding: 0 .25rem }
div.table { overflow-x: auto } svg { max-width: 100%; height: auto }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; width: 100% }
th, td { border-bottom: 1px solid var(--line); padding: .35rem .9rem .35rem 0; text-align: left; vertical-align: top }
th { color: var(--grey); font-weight: 600; white-space: nowrap } td { white-space: nowrap }
td.long { white-space: normal; min-width: 8.5rem; overflow-wrap: break-word }
b.mark { font-weight: 600 } b.mark::before { content: ""; display: inline-block; width: .62rem; height: .62rem;
  border-radius: 50%; margin-right: .45rem; background: currentColor }
.red { color: var(--red) } .amber { color: var(--amber) } .green { color: var(--green) } .grey { color: var(--grey) }
"""
LONG_CELL = 34  # characters; a longer cell may be broken into lines


def page(title: str, body: Sequence[str]) -> str:
    """Return a whole page; body: pieces of HTML, for which the caller has escaped what is not its own."""
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    inner = "\n".join((f"<h1>{escape(title)}</h1>", *body))
    whole = f"<head>{head}<style>{STYLE}</style></head>\n<body>\n{inner}\n</body>"
    return f'<!doctype html>\n<html lang="en">\n{whole}\n</html>\n'


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table of cells that are pieces of HTML."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    lines = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    return f'<div class="table"><table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table></div>'


def mark(colour: str, words: str) -> str:
    """Return words behind a dot; colour: red, amber, green or grey."""
    return f'<b class="mark {colour}">{escape(words)}</b>'


def link(place: str, words: str) -> str:
    """Return a link to a place."""
    return f'<a href="{escape(place)}">{escape(words)}</a>'


def _cell(inner: str) -> str:
    kind = ' class="long"' if len(inner) > LONG_CELL and "<" not in inner else ""
    return f"<td{kind}>{inner}</td>"
