"""What the monitor's HTTP server answers under /runbooks/: the page that an alert links to, and a list of all.

The pages are Markdown, shown as they are but for headings, code and the names of other pages.
"""

import html
import re
from pathlib import Path

from monitoring.monitor.health import Answer, Page

PREFIX = "/runbooks/"
ENDING = ".md"
NAME = re.compile(r"[A-Za-z]\w{0,99}")  # no address is put together from anything else that a client sends
LOOK = (
    "body{font:16px/1.5 sans-serif;max-width:52em;margin:2em auto;padding:0 1em}"
    "div{white-space:pre-wrap}pre{background:#eee;padding:.6em;overflow-x:auto;white-space:pre}"
    "@media(prefers-color-scheme:dark){body{background:#111;color:#ddd}pre{background:#222}a{color:#8bf}}"
)
CODE = re.compile(r"^ *```\w*\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def pages(folder: Path) -> Page:
    """Return what answers for a folder of runbooks; 404 for what is none, with a list of those there are."""

    def page(path: str, accepts: str) -> Answer:
        names = sorted(file.stem for file in folder.glob(f"*{ENDING}"))
        asked = path.removeprefix(PREFIX.rstrip("/")).strip("/").removesuffix(ENDING)
        if asked in names and NAME.fullmatch(asked):
            text = (folder / (asked + ENDING)).read_text(encoding="utf-8")
            return _answer(200, asked, _shown(text, {*names} - {asked}))
        listed = "\n".join(f'<a href="{PREFIX}{name}{ENDING}">{name}</a>' for name in names)
        return _answer(404 if asked else 200, "Runbooks", f"<h1>Runbooks</h1><div>{listed or 'none here'}</div>")

    return page


def _answer(status: int, title: str, body: str) -> Answer:
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    text = f"<!doctype html><html lang=en><head>{head}<style>{LOOK}</style></head><body>{body}</body></html>\n"
    return Answer(status, "text/html; charset=utf-8", text.encode())


def _shown(text: str, others: set[str]) -> str:
    # Odd parts are what stands between the fences of code.
    parts = CODE.split(text)
    return "".join(_code(part) if i % 2 else _prose(part, others) for i, part in enumerate(parts))


def _code(text: str) -> str:
    lines = text.splitlines()
    deep = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
    return f"<pre>{html.escape(chr(10).join(line[deep:] for line in lines))}</pre>"


def _prose(text: str, others: set[str]) -> str:
    safe = html.escape(text.strip("\n"), quote=False)
    safe = re.sub(r"`([^`\n]+)`", r"<code>\1</code>", safe)
    safe = re.sub(r"\b(Vigil[A-Z]\w+|Watchdog)\b", lambda found: _link(found[1], others), safe)
    return f"<div>{re.sub(r'^(#+) (.*)$', _heading, safe, flags=re.MULTILINE)}</div>"


def _heading(found: re.Match[str]) -> str:
    return f"<h{len(found[1])}>{found[2]}</h{len(found[1])}>"


def _link(name: str, others: set[str]) -> str:
    return f'<a href="{PREFIX}{name}{ENDING}">{name}</a>' if name in others else name
