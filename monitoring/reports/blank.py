"""The page of a report that had nothing to compare."""

from html import escape

from monitoring import paper
from monitoring.reports.findings import Findings


def html(found: Findings) -> str:
    """Return a page that says why, with what is known all the same."""
    broken = paper.table(("left out", "why"), [(escape(name), escape(why)) for name, why in found.broken.items()])
    quality = f"<p>{escape(found.quality.metric)}: {escape(found.quality.to_text())}</p>" if found.quality else ""
    body = [f'<p class="lead">{paper.mark("grey", "nothing to compare")}</p>', f"<p>{escape(found.empty)}</p>", quality]
    return paper.page(f"{found.tag}: recorded traffic", body + ([broken] if found.broken else []))
