"""`vigil models sync` and `push`, and how every change of the aliases that is typed reaches the servers."""

import argparse
import contextlib
import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

from registry.verbs import say

if TYPE_CHECKING:
    from registry.aliases import Change
    from registry.share import Shared

MOST_EVERY_S = 20  # a third of what VigilSyncStale waits for a look
PLACE = "VIGIL_RELEASES"  # the shared place that a change of the champion is sent to; as of `vigil models push`


def change(options: argparse.Namespace, model: str, words: list[str], make: Callable[[], "Change"]) -> int:
    """Make a change of the aliases of `model`, send it where other stores follow, and print it; return exit status 0.

    words: the verb that makes it elsewhere. Raises AliasError, before anything is changed, where the model follows a
    place or lacks changes that the place has; StackError if it could not be sent: then it was printed, and stays.
    """
    from registry import followed, share

    if place := followed.place(model):
        _refuse(model, place, [*words, "--why", options.why])
    if url := os.environ.get(PLACE) or followed.destination(model):
        share.demand_up_to_date(url, model)
    made = make()
    try:
        sent = f"\n  sent to {_send(url, model)}" if url else ""
    except BaseException:  # Ctrl-C, too: what was changed must be known
        with contextlib.suppress(Exception):  # why it was not sent is what is told
            say(options, asdict(made), told(model, made))
            _warn_of_several(made)
        raise
    said = say(options, asdict(made), told(model, made) + sent)
    _warn_of_several(made)
    return said


def told(model: str, change: "Change") -> str:
    """Return who follows whom, with what was overruled, for a person; of a promotion also a request that it answers."""
    from registry import listing

    text = f"{change.action}: {change.from_version or 'nothing'} -> {change.to_version}"
    if change.share:
        share = f"{100 * change.share:g} % of the requests of {change.from_version}"
        text = f"challenge: {change.to_version} also answers {share}"
    if change.action == "end":
        text = f"end: {change.to_version} no longer challenges {change.from_version}"
    notes = [f"  forced although {objection}" for objection in change.forced]
    if (live := change.live) is not None:
        notes.append(f"  {listing.of_traffic(live)}")
    if change.ended and change.action != "end":
        notes.append(f"  the challenge of {change.ended} ended with it")
    if change.action == "promote":
        notes += _request(f"{model}:{change.to_version}")
    return "\n".join([text, *notes])


def _warn_of_several(change: "Change") -> None:
    # stderr, so that whoever reads --json learns of it too
    from registry import aliases

    champions = aliases.models()
    if change.action == "promote" and change.from_version is None and len(champions) > 1:
        print(
            f"vigil: {len(champions)} models have a champion now; a service that runs stays with its own, a new one is "
            f"refused unless told which: VIGIL_MODELS={','.join(champions)}, or one of them",
            file=sys.stderr,
        )


def share(options: argparse.Namespace) -> int:
    """Follow a shared place, or send it the aliases and releases of this store."""
    from registry import followed, following, share
    from registry.errors import ConfigError

    if options.stop:
        return _stop(options)
    url = options.url or os.environ.get(PLACE)
    if not url and options.name == "push" and options.model:
        url = followed.destination(options.model)
    if not url:
        raise ConfigError(
            f"vigil models {options.name}: name a place, here or in {PLACE}: file:///srv/releases, s3://BUCKET"
        )
    if options.every and (options.name == "push" or options.overwrite):
        raise ConfigError("--every is for sync alone, and not together with --overwrite: once is enough for that")
    if options.keep is not None and not options.every:
        raise ConfigError("--keep is for sync --every; vigil gc --keep N deletes once")
    if options.every:
        keep = share.TAKEN if options.keep is None else options.keep
        following.follow(url, options.model, options.every, lambda found: _print(options, found), keep)
    else:
        move = share.pull if options.name == "sync" else share.push
        _print(options, move(url, options.model, options.overwrite))
    return 0


def describe(listed: argparse.ArgumentParser) -> None:
    """Add the options of `vigil models`."""
    listed.usage = "vigil models [NAME] | vigil models sync URL [--every S] | vigil models push URL | ... --stop"
    listed.add_argument("name", nargs="?", help="one model, all if left out; or sync, or push")
    listed.add_argument(
        "url",
        nargs="?",
        help="sync: follow the champions there; push: send those here; file:///FOLDER, s3://BUCKET",
    )
    listed.add_argument("--every", type=_seconds, default=0.0, metavar="S", help="sync: look again every S seconds")
    listed.add_argument(
        "--keep",
        type=int,
        metavar="N",
        help="sync --every: after a change, delete what came from there but the last N champions and the newest N; 2",
    )
    listed.add_argument(
        "--overwrite", action="store_true", help="sync, push: drop changes of the other side that this one lacks"
    )
    listed.add_argument(
        "--stop",
        action="store_true",
        help="sync: follow no more, the champion changes in this store again; push: send changes nowhere any more",
    )


def _request(tag: str) -> list[str]:
    from registry import example

    found = example.lines(tag)
    return ["  a request that it answers, where vigil serve runs:", *(f"  {line}" for line in found)] if found else []


def _refuse(model: str, place: str, words: list[str]) -> None:
    from registry import followed
    from registry.errors import AliasError
    from registry.remote import name_of

    stop, typed = f"vigil models sync --stop --model {model}", f"vigil {shlex.join(words)}"
    if followed.is_promoted_here(model, place):
        cure = f"Releases are sent there from this very store, so it waits for itself. Type: {stop} && {typed}"
    elif followed.same(name_of(os.environ.get(PLACE, "")), place):
        cure = f"If releases are promoted here: {stop} && {typed}\nIf elsewhere, type there: {typed}"
    else:
        cure = (
            f"If this store is to promote from now on: {stop}\n"
            f"Type where releases are promoted: {PLACE}={shlex.quote(place)} {typed}"
        )
    raise AliasError(f"{model}: this store follows {place}: no other server would learn of a change made here. {cure}")


def _stop(options: argparse.Namespace) -> int:
    """End the following or the sending of one model or all, and print what was ended; asks no place."""
    from registry import followed
    from registry.errors import AliasError, ConfigError

    if options.url or options.every or options.overwrite or options.keep is not None:
        raise ConfigError(f"vigil models {options.name} --stop: accepted beside it is --model alone")
    if options.name == "sync":
        does, there, of, end = "follows", followed.models(), followed.place, followed.stop
    else:
        does, there, of, end = "sends changes to", followed.sent(), followed.destination, followed.forget
    if not there or options.model not in ("", *there):
        found = ", ".join(f"{name} {does} {of(name)}" for name in there) or f"no model of this store {does} a place"
        of_model = f" for {options.model}" if options.model else ""
        raise AliasError(f"vigil models {options.name} --stop: nothing to stop{of_model}; found: {found}")
    ended = {name: of(name) for name in ([options.model] if options.model else there)}
    for name in ended:
        end(name)
    return say(options, {"verb": options.name, "stopped": ended}, _of_stop(options.name, ended))


def _of_stop(verb: str, ended: dict[str, str]) -> str:
    if verb == "sync":
        lines = [
            f"{name}: follows {place} no more; its champion changes in this store{_sent_nowhere(name, place)}"
            for name, place in ended.items()
        ]
        last = "end a `vigil models sync --every` that still runs: it leaves this alone until it is started again"
        return "\n".join([*lines, last])
    lines = [f"{name}: its changes are sent to {place} no more" for name, place in ended.items()]
    if url := os.environ.get(PLACE):
        from registry.remote import name_of

        lines.append(f"{PLACE} is set: while it is, they go to {name_of(url)}")
    return "\n".join(lines)


def _sent_nowhere(model: str, place: str) -> str:
    """Return the command that lets changes of `model` go to `place`, "" where they go somewhere."""
    from registry import followed

    if os.environ.get(PLACE) or followed.destination(model):
        return ""
    return f", and is sent nowhere; to send it there: vigil models push {shlex.quote(place)} --model {model}"


def _send(url: str, model: str) -> str:
    """Send the aliases of `model` and return the name of the place."""
    from registry import share
    from registry.errors import StackError, UserError
    from registry.remote import Remote

    try:
        share.push(url, model)
        return Remote(url).name
    except (UserError, OSError, KeyboardInterrupt) as error:
        cure = "" if isinstance(error, share.DivergedError) else f"\nSend it: vigil models push --model {model}"
        raise StackError(
            f"{model}: the change is made in this store, but was not sent, and servers elsewhere do not follow it yet: "
            f"{str(error) or 'interrupted'}{cure}"
        ) from error


def _print(options: argparse.Namespace, found: "list[Shared]") -> None:
    for one in found:
        copied = f", copied {', '.join(one.releases)} ({one.size_bytes / 1e6:.2f} MB)" if one.releases else ""
        text = f"{one.model}: champion {one.champion}{'' if one.changed else ', as before'}{copied}"
        say(options, asdict(one), text)


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= MOST_EVERY_S:
        accepted = f"accepted is a number of seconds above 0 and up to {MOST_EVERY_S}"
        raise argparse.ArgumentTypeError(
            f"{accepted}, found '{text}'; VigilSyncStale opens after a minute without a look"
        )
    return number
