"""What others wrote, as it may go to a terminal."""


def plain(text: str) -> str:
    """Return `text` on one line, with what moves the cursor or turns text around replaced: it could hide a line."""
    return "".join(one if one.isprintable() else " " if one.isspace() else "?" for one in text)
