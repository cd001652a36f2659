"""Processes that change one store at once, or until they are killed; run by tests/registry/test_crash.py."""

import os
import random
import time
from datetime import UTC, datetime
from pathlib import Path

from tiny_release import make_draft

from registry import aliases, collect, store
from registry.errors import AliasError, ReleaseError

START_S = datetime(2026, 1, 1, tzinfo=UTC).timestamp()


def draft(number):
    """Return a draft that differs from every other number's; its purpose is the number."""
    created = datetime.fromtimestamp(START_S + number, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return make_draft(created=created, purpose=str(number))


def publish_until_killed(home, files, journal, first):
    """Publish and promote without end, writing each change to `journal` once it is done."""
    os.environ["BENTOML_HOME"] = str(home)
    done = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(done, b"ready\n")
    for number in range(first, first + 1000):
        made = store.publish(draft(number), Path(files))
        os.write(done, f"publish {made.version}\n".encode())
        change = aliases.promote(made.tag, "next", force=True)
        os.write(done, f"promote {change.to_version}\n".encode())


def promote_until_killed(home, files, journal, first):
    """Promote, challenge and roll back without end, writing each change to `journal` once it is done."""
    os.environ["BENTOML_HOME"] = str(home)
    done = os.open(journal, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    tags = [one.tag for one in store.releases("tiny")][-2:]
    os.write(done, b"ready\n")
    while True:
        champion = aliases.read("tiny").champion
        tag = next(tag for tag in tags if champion is None or not tag.endswith(champion.version))
        change = aliases.promote(tag, "next", force=True)
        os.write(done, f"promote {change.to_version}\n".encode())
        other = next(tag for tag in tags if not tag.endswith(change.to_version))
        change = aliases.challenge(other, 0.1, "promising")
        os.write(done, f"challenge {change.to_version}\n".encode())
        if aliases.read("tiny").previous:
            change = aliases.rollback("tiny", "back")
            os.write(done, f"rollback {change.to_version}\n".encode())


def change_for(home, files, journal, seed, seconds):
    """Do what a random person on call would for `seconds`; write what was done, and every unexpected error."""
    os.environ["BENTOML_HOME"] = str(home)
    draw, end = random.Random(seed), time.monotonic() + seconds
    with open(journal, "w") as done:
        for step in range(1_000_000):
            if time.monotonic() > end:
                return
            name = draw.choices(list(ACTIONS), [5, 5, 2, 3, 1, 8, 1])[0]
            try:
                outcome = ACTIONS[name](files, seed * 1_000_000 + step, draw)
            except Exception as error:  # the test reads it: nothing unexpected may happen
                outcome = f"FAILED {error!r}"
            print(name, outcome, file=done, flush=True)


def _publish(files, number, draw):
    place = Path(f"{files}-{number}")
    place.mkdir()
    for source in Path(files).iterdir():
        os.symlink(source, place / source.name)
    (place / "card.md").unlink()
    (place / "card.md").write_text(str(number))
    return store.publish(draft(number), place).tag


def _promote(files, number, draw):
    return _with_any(draw, lambda tag: aliases.promote(tag, "x", force=True), "is the champion already")


def _rollback(files, number, draw):
    try:
        return aliases.rollback("tiny", "x").to_version
    except AliasError as error:
        return _expected(error, "nothing to roll back to")
    except ReleaseError as error:
        return _expected(error, "not in the store")  # collected: it was further back than the last champions


def _challenge(files, number, draw):
    return _with_any(draw, lambda tag: aliases.challenge(tag, 0.1, "x"), "it is the champion", "has no champion")


def _with_any(draw, change, *expected):
    found = [one for one in store.releases("tiny") if one.problem is None]
    try:
        return change(draw.choice(found).tag).to_version if found else "nothing"
    except AliasError as error:
        return _expected(error, *expected)
    except ReleaseError as error:
        return _expected(error, "not in the store", "incomplete")  # collected meanwhile


def _end(files, number, draw):
    try:
        return aliases.end_challenge("tiny", "x").to_version
    except AliasError as error:
        return _expected(error, "no challenge is under way")


def _open(files, number, draw):
    pin = aliases.read("tiny").champion
    if pin is None:
        return "nothing"
    try:
        opened = store.open_release(f"tiny:{pin.version}")
    except ReleaseError as error:
        if aliases.read("tiny").champion == pin:
            raise
        return f"refused: {error}"  # it was no champion any more
    if opened.digest != pin.digest or opened.read("card.md").decode() != opened.manifest.purpose:
        raise ValueError(f"{opened.tag} is a mixture")
    return opened.tag


def _collect(files, number, draw):
    return sum(not verdict.reason for verdict in collect.collect(collect.Rule(keep=3), lambda plan: None))


def _expected(error, *words):
    if not any(word in str(error) for word in words):
        raise error
    return f"refused: {error}"


ACTIONS = {
    "publish": _publish, "promote": _promote, "rollback": _rollback, "challenge": _challenge, "end": _end,
    "open": _open, "collect": _collect,
}  # fmt: skip
