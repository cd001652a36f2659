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
    """folded: if not "", the page shows this title alone, and the table on a click."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    folded: str = ""


@dataclass(frozen=True)
class Picture:
    """An inline SVG; Markdown, which has no place for it, shows the same numbers as `table`.

    table: None where they stand beside it anyway.
    """

    svg: str
    caption: str
    table: Table | None


@dataclass(frozen=True)
class Notice:
    """Something to be seen first: level is "stop", "warn", "note" or "good"; `lines` say more about `text`."""

    level: str
    text: str
    lines: tuple[str, ...] = ()


Block = Text | Code | Table | Picture | Notice


@dataclass(frozen=True)
class Section:
    title: str
    blocks: tuple[Block, ...]


_MANY_COLUMNS = 7  # a table with more is set smaller
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
details { margin: .8rem 0 } summary { cursor: pointer; color: #0b5cad; font-size: .92rem }
table.many { font-size: .82rem } table.many th, table.many td { padding-right: .55rem }
div.notice { border-left: 5px solid; background: #f6f8fa; padding: .55rem 1rem; margin: .8rem 0 }
.notice b { font-size: .75rem; letter-spacing: .06em; text-transform: uppercase } .notice strong { display: block }
.notice strong::first-letter { text-transform: uppercase } .notice p { margin: .2rem 0; font-size: .92rem }
div.stop { border-color: #cf222e } div.warn { border-color: #d4a72c } div.note { border-color: #54aeff }
div.good { border-color: #2da44e }
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
        shown = [_markdown_block(block.table)] if block.table else []
        return "\n\n".join([escape(block.caption, quote=False), *shown])
    if isinstance(block, Notice):
        said = (f"{block.level}: {block.text}", *block.lines)
        return "\n>\n".join("> " + escape(line, quote=False) for line in said)
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
    if isinstance(block, Notice):
        more = "".join(f"<p>{escape(line)}</p>" for line in block.lines)
        return (
            f'<div class="notice {block.level}"><b>{block.level}</b><strong>{escape(block.text)}</strong>{more}</div>'
        )
    cells = "".join(f"<th>{escape(cell)}</th>" for cell in block.header)
    head = f"<thead><tr>{cells}</tr></thead>" if any(block.header) else ""
    rows = (f"<tr>{''.join(map(_html_cell, row))}</tr>" for row in block.rows)
    kind = ' class="many"' if len(block.header) > _MANY_COLUMNS else ""
    table = f'<div class="table"><table{kind}>{head}<tbody>{"".join(rows)}</tbody></table></div>'
    return f"<details><summary>{escape(block.folded)}</summary>{table}</details>" if block.folded else table


def _html_cell(text: str) -> str:
    kind = ' class="long"' if len(text) > _LONG_CELL else ""
    return f"<td{kind}>{escape(text)}</td>"
