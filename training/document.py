"""A short document as sections of blocks, written as Markdown or as one HTML file that needs no other."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape


@dataclass(frozen=True)
class Text:
    text: str


@dataclass(frozen=True)
class Code:
    text: str


@dataclass(frozen=True)
class Table:
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Picture:
    """An inline SVG; Markdown, which has no place for it, shows the same numbers as `table`."""

    svg: str
    caption: str
    table: Table


Block = Text | Code | Table | Picture


@dataclass(frozen=True)
class Section:
    title: str
    blocks: tuple[Block, ...]


_LONG_CELL = 40  # characters; a longer cell may be broken into lines
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24 }
nav { font-size: .9rem; color: #57606a } nav a { margin-right: .9rem; white-space: nowrap }
a { color: #0b5cad; text-decoration: none } a:hover { text-decoration: underline }
div.table { overflow-x: auto; margin: .8rem 0 }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums }
th, td { border-bottom: 1px solid #d6dae0; padding: .25rem 1rem .25rem 0; text-align: left; vertical-align: top }
th { color: #57606a; font-weight: 600 } th, td { white-space: nowrap }
td.long { white-space: normal; overflow-wrap: anywhere }
svg { max-width: 100%; height: auto }
pre { background: #f4f6f8; padding: .7rem; overflow-x: auto; font-size: .85rem }
figure { margin: 1rem 0 } figcaption { color: #57606a; font-size: .88rem }
h1 { font-size: 1.7rem } h2 { font-size: 1.2rem; margin-top: 2rem; border-bottom: 2px solid #d6dae0 }
"""


def markdown(title: str, sections: Sequence[Section]) -> str:
    """Return the document as GitHub-flavoured Markdown."""
    parts = [f"# {escape(title, quote=False)}"]
    for section in sections:
        parts += [f"## {section.title}", *(_markdown_block(block) for block in section.blocks)]
    return "\n\n".join(parts) + "\n"


def html(title: str, sections: Sequence[Section]) -> str:
    """Return the document as one HTML page without script, link to or request from anywhere else."""
    places = [f'<a href="#s{number}">{escape(section.title)}</a>' for number, section in enumerate(sections)]
    body = [f"<h1>{escape(title)}</h1>", f"<nav>{' '.join(places)}</nav>"]
    for number, section in enumerate(sections):
        head = f'<h2 id="s{number}">{escape(section.title)}</h2>'
        body += [head, *(_html_block(block) for block in section.blocks)]
    head = f'<meta charset="utf-8"><title>{escape(title)}</title><style>{_STYLE}</style>'
    inner = "\n".join(body)
    return f'<!doctype html>\n<html lang="en">\n<head>{head}</head>\n<body>\n{inner}\n</body>\n</html>\n'


def plain(table: Table) -> list[str]:
    """Return the table as lines for a terminal, columns aligned."""
    lines = [table.header, *table.rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(table.header))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]


def _markdown_block(block: Block) -> str:
    if isinstance(block, Text):
        return escape(block.text, quote=False)
    if isinstance(block, Code):
        return f"```\n{block.text}\n```"
    if isinstance(block, Picture):
        return f"{escape(block.caption, quote=False)}\n\n{_markdown_block(block.table)}"
    lines = [block.header, ("---",) * len(block.header), *block.rows]
    return "\n".join("| " + " | ".join(_cell(cell) for cell in line) + " |" for line in lines)


def _cell(text: str) -> str:
    # A tag would vanish from the rendered table, a bar or a new line would break it.
    return escape(text, quote=False).replace("|", "\\|").replace("\n", " ")


def _html_block(block: Block) -> str:
    if isinstance(block, Text):
        return f"<p>{escape(block.text)}</p>"
    if isinstance(block, Code):
        return f"<pre>{escape(block.text)}</pre>"
    if isinstance(block, Picture):
        return f"<figure>{block.svg}<figcaption>{escape(block.caption)}</figcaption></figure>"
    cells = "".join(f"<th>{escape(cell)}</th>" for cell in block.header)
    head = f"<thead><tr>{cells}</tr></thead>" if any(block.header) else ""
    rows = (f"<tr>{''.join(map(_html_cell, row))}</tr>" for row in block.rows)
    return f'<div class="table"><table>{head}<tbody>{"".join(rows)}</tbody></table></div>'


def _html_cell(text: str) -> str:
    kind = ' class="long"' if len(text) > _LONG_CELL else ""
    return f"<td{kind}>{escape(text)}</td>"
