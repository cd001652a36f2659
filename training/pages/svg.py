"""The few shapes that pictures on a page are made of, as SVG text."""

from collections.abc import Sequence
from html import escape

INK, GREY, PALE = "#1b1f24", "#6e7781", "#d6dae0"
COLOURS = ("#1f6feb", "#d1570a", "#1a7f37", "#8250df")


def drawing(title: str, width: float, height: float, parts: Sequence[str]) -> str:
    """Return a picture of this size, named for those who cannot see it."""
    head = f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" role="img"'
    font = 'font-family="system-ui, sans-serif" font-size="12"'
    return f'{head} aria-label="{escape(title)}" {font}>{"".join(parts)}</svg>'


def text(x: float, y: float, words: str, anchor: str = "start", colour: str = INK, size: int = 12) -> str:
    """Return a line of text; anchor: "start", "middle" or "end"."""
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" font-size="{size}"'
    return f"<text {place}>{escape(words)}</text>"


def turned(x: float, y: float, words: str, size: int = 11) -> str:
    """Return a line of text that rises to the right."""
    place = f'transform="translate({x:.1f} {y:.1f}) rotate(-45)" fill="{INK}" font-size="{size}"'
    return f"<text {place}>{escape(words)}</text>"


def box(x: float, y: float, width: float, height: float, colour: str, opacity: float = 1.0, said: str = "") -> str:
    """Return a filled rectangle; `said` is shown where a pointer rests on it."""
    shape = f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 0):.1f}" height="{max(height, 0):.1f}" fill="{colour}"'
    tip = f"<title>{escape(said)}</title>" if said else ""
    return f'{shape} fill-opacity="{opacity:.2f}">{tip}</rect>' if said else f'{shape} fill-opacity="{opacity:.2f}"/>'


def frame(x: float, y: float, width: float, height: float, colour: str) -> str:
    """Return the outline of a rectangle."""
    size = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<rect {size} fill="none" stroke="{colour}" stroke-width="2"/>'


def steps(points: Sequence[tuple[float, float]], colour: str, said: str = "") -> str:
    """Return a line through the points; `said` is shown where a pointer rests on it."""
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    tip = f"<title>{escape(said)}</title>" if said else ""
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5">{tip}</polyline>'


def dashes(x1: float, y1: float, x2: float, y2: float, colour: str = GREY) -> str:
    """Return a dashed straight line."""
    return f'<path d="M{x1:.1f} {y1:.1f} L{x2:.1f} {y2:.1f}" stroke="{colour}" stroke-dasharray="4 3"/>'


def dot(x: float, y: float, radius: float, colour: str, opacity: float = 0.9, said: str = "") -> str:
    """Return a filled circle; `said` is shown where a pointer rests on it."""
    tip = f"<title>{escape(said)}</title>" if said else ""
    return (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:g}" fill="{colour}" fill-opacity="{opacity:.2f}">{tip}</circle>'
    )


def image(x: float, y: float, width: float, height: float, uri: str, said: str) -> str:
    """Return an image whose bytes are in its address; small ones keep their pixels."""
    size = f'x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
    return f'<image {size} href="{uri}" style="image-rendering:pixelated"><title>{escape(said)}</title></image>'


def short(words: str, most: int) -> str:
    """Return words that fit, cut at the end if they are too many."""
    return words if len(words) <= most else words[: most - 1] + "…"
