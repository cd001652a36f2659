"""The verbs of `vigil` that are about releases; each imports what it needs when it runs."""

import argparse
import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from registry.aliases import Change
    from registry.share import Shared

Parent = argparse.ArgumentParser
PLACE = "VIGIL_RELEASES"  # the shared place that a change of the champion is sent to; as of `vigil models push`


def models(options: argparse.Namespace) -> int:
    """List the releases in the store, with the alias each one holds; sync and push share them with other stores."""
    from registry import listing, store
    from registry.errors import ReleaseError

    if options.name in ("sync", "push"):
        return _share(options)
    if options.url:
        raise ReleaseError(f"vigil models: '{options.name}' is neither sync nor push; one NAME lists one model")
    found = store.releases(options.name)
    if options.json:
        print(listing.as_json(found))
    elif found:
        print(listing.table(found))
    elif options.name and store.releases():
        raise ReleaseError(f"vigil models: {listing.no_model(options.name)}")
    else:
        print(f"no releases in {store.models()}; train one: vigil train examples/digits.toml")
    return 0


def show(options: argparse.Namespace) -> int:
    """Show what a release says about itself, and where its card lies."""
    from registry import listing, store

    release = store.open_release(options.tag)
    print(release.manifest.to_bytes().decode() if options.json else listing.summary(release))
    return 0


def promote(options: argparse.Namespace) -> int:
    """Make a release the champion; the gate refuses a worse one unless --force."""
    from registry import aliases

    change = aliases.promote(options.tag, options.why, options.force)
    return print_change(options, change, options.tag.split(":")[0])


def rollback(options: argparse.Namespace) -> int:
    """Go back to the champion before this one."""
    from registry import aliases

    model = model_of(options.model)
    return print_change(options, aliases.rollback(model, options.why), model)


def challenge(options: argparse.Namespace) -> int:
    """Let a release answer a share of the champion's requests, unseen, until labels judge it; --end stops that."""
    from registry import aliases
    from registry.errors import AliasError

    if options.end == bool(options.tag):
        raise AliasError("challenge: accepted is a TAG, or --end to stop the challenge under way")
    if not options.end:
        change = aliases.challenge(options.tag, options.share, options.why)
        return print_change(options, change, options.tag.split(":")[0])
    model = model_of(options.model)
    return print_change(options, aliases.end_challenge(model, options.why), model)


def history(options: argparse.Namespace) -> int:
    """Print who changed the champion or challenged it, when and why."""
    from registry import aliases, listing, store
    from registry.errors import ReleaseError

    state = aliases.read(model_of(options.model))
    if not state.history and not store.releases(state.model):
        raise ReleaseError(f"vigil history: {listing.no_model(state.model)}")
    print(json.dumps(aliases.as_dict(state)) if options.json else listing.history(state))
    return 0


def verify(options: argparse.Namespace) -> int:
    """Check every byte of a release against its manifest."""
    from registry import store

    release = store.open_release(options.tag)
    said = {"tag": release.tag, "digest": release.digest, "files": sorted(release.manifest.files)}
    text = f"{release.tag}: {len(release.manifest.files)} files are as published (digest {release.digest})"
    return say(options, said, text)


def sign(options: argparse.Namespace) -> int:
    """Sign a release with a private key; VIGIL_REQUIRE_SIGNATURE=PUBLIC_KEY_FILE then refuses unsigned ones."""
    from registry import store
    from registry.release import SIGNATURE

    release = store.sign(options.tag, Path(options.key))
    said = {"tag": release.tag, "digest": release.digest, "signature": str(release.path / SIGNATURE)}
    return say(options, said, f"{release.tag}: signed, {said['signature']}")


def pack(options: argparse.Namespace) -> int:
    """Write a release with its card and signature to one file, which `bentoml models import` reads too."""
    from registry import archive

    path = options.file or Path(options.tag.replace(":", "-") + archive.SUFFIX)
    size = archive.pack(options.tag, path)
    return say(options, {"file": str(path), "size_bytes": size}, f"{path}: {size / 1e6:.2f} MB")


def unpack(options: argparse.Namespace) -> int:
    """Verify a release in a file and put it into the store; aliases and history do not travel."""
    from registry import archive

    tag = archive.unpack(options.file, int(options.most_gb * 1e9)).tag
    return say(options, {"tag": tag}, f'{tag}; to serve it: vigil promote {tag} --why "..."')


def gc(options: argparse.Namespace) -> int:
    """Say which releases nobody needs any more; delete them with --yes."""
    from registry import collect

    def tell(verdicts: list[collect.Verdict]) -> None:
        say(options, collect.as_dict(verdicts, options.yes), collect.as_text(verdicts, options.yes))

    rule = collect.Rule(options.keep, options.broken)
    if options.yes:
        collect.collect(rule, tell)
    else:
        tell(collect.plan(rule))
    return 0


def add(verb: Callable[..., Parent], why: Parent, model: Parent) -> None:
    """Add the verbs of releases to the command line; verb: makes a subparser of a function and its parents."""
    _describe_models(verb(models, model))
    verb(show).add_argument("tag", help="name:version")
    promoted = verb(promote, why)
    promoted.add_argument("tag", help="name:version, as `vigil models` prints it")
    promoted.add_argument("--force", action="store_true", help="overrule the gate; its objections are recorded")
    verb(rollback, why, model)
    challenged = verb(challenge, why, model)
    challenged.add_argument("tag", nargs="?", help="name:version")
    challenged.add_argument(
        "--share", type=_portion, default=0.1, help="of the requests, such as 10%% (the default) or 0.1"
    )
    challenged.add_argument("--end", action="store_true", help="stop the challenge under way; the champion stays")
    verb(history, model)
    verb(verify).add_argument("tag", help="name:version")
    signed = verb(sign)
    signed.add_argument("tag", help="name:version")
    signed.add_argument("--key", required=True, help="PEM file of the private key; VIGIL_KEY_PASSWORD opens it")
    packed = verb(pack)
    packed.add_argument("tag", help="name:version")
    packed.add_argument("file", type=Path, nargs="?", help="ends in .bentomodel; NAME-VERSION.bentomodel if left out")
    unpacked = verb(unpack)
    unpacked.add_argument("file", type=Path, help="what vigil pack or bentoml models export wrote")
    unpacked.add_argument("--most-gb", type=_gigabytes, default=8.0, help="refuse more content than this")
    collected = verb(gc)
    collected.add_argument(
        "--keep", type=int, default=5, help="how many of the newest, and of the last champions, stay"
    )
    collected.add_argument("--broken", action="store_true", help="delete broken releases that hold no alias, too")
    collected.add_argument("--yes", action="store_true", help="delete; without it nothing is changed")


def _describe_models(listed: Parent) -> None:
    listed.usage = "vigil models [NAME] | vigil models sync URL [--every S] | vigil models push URL"
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
        default=2,
        metavar="N",
        help="sync --every: after a change, delete what came from there but the last N champions and the newest N",
    )
    listed.add_argument(
        "--overwrite", action="store_true", help="sync, push: drop changes of the other side that this one lacks"
    )


def _share(options: argparse.Namespace) -> int:
    from registry import share
    from registry.errors import ConfigError

    url = options.url or os.environ.get(PLACE)
    if not url:
        raise ConfigError(
            f"vigil models {options.name}: name a place, here or in {PLACE}: file:///srv/releases, s3://BUCKET"
        )
    if options.every and (options.name == "push" or options.overwrite):
        raise ConfigError("--every is for sync alone, and not together with --overwrite: once is enough for that")
    if options.every:
        share.follow(url, options.model, options.every, lambda found: _print_shared(options, found), options.keep)
    else:
        move = share.pull if options.name == "sync" else share.push
        _print_shared(options, move(url, options.model, options.overwrite))
    return 0


def _print_shared(options: argparse.Namespace, found: "list[Shared]") -> None:
    for one in found:
        copied = f", copied {', '.join(one.releases)} ({one.size_bytes / 1e6:.2f} MB)" if one.releases else ""
        text = f"{one.model}: champion {one.champion}{'' if one.changed else ', as before'}{copied}"
        say(options, asdict(one), text)


def model_of(name: str) -> str:
    """Return the model a user meant: the one named, else the only one that has a champion."""
    from registry import aliases

    return name or aliases.only_model()


def champion_of(name: str) -> str:
    """Return the tag of the champion of a model, which may be left out as in `model_of`; AliasError if it has none."""
    from registry import aliases
    from registry.errors import AliasError

    state = aliases.read(model_of(name))
    if state.champion is None:
        raise AliasError(f"{state.model}: has no champion; promote a release, or name one")
    return f"{state.model}:{state.champion.version}"


def log_of(options: argparse.Namespace) -> Path:
    """Return the prediction log: --log, else the one beside the store."""
    from registry import store

    return Path(options.log) if options.log else store.home() / "log.sqlite"


def say(options: argparse.Namespace, said: object, text: str) -> int:
    """Print a result, as one JSON object with --json; return the exit status 0."""
    print(json.dumps(said) if options.json else text, flush=True)
    return 0


def _gigabytes(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < 1e6:
        raise argparse.ArgumentTypeError(f"accepted is a number above 0, found '{text}'")
    return number


def _seconds(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= 86_400:
        raise argparse.ArgumentTypeError(f"accepted is a number of seconds above 0, found '{text}'")
    return number


def _portion(text: str) -> float:
    try:
        number = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"accepted is a share above 0 and up to 1, such as 10% or 0.1, found '{text}'")
    return number


def print_change(options: argparse.Namespace, change: "Change", model: str) -> int:
    """Print who follows whom, with what was overruled, and send it where VIGIL_RELEASES says; return exit status 0.

    Raises StackError, after the change was printed, if it could not be sent; it stays.
    """
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
    if change.action == "promote" and not options.json:
        notes += _request(f"{model}:{change.to_version}")
    say(options, asdict(change), "\n".join([text, *notes]))
    if url := os.environ.get(PLACE):
        _send(options, url, model)
    return 0


def _request(tag: str) -> list[str]:
    from registry import example

    found = example.lines(tag)
    return ["  a request that it answers, where vigil serve runs:", *(f"  {line}" for line in found)] if found else []


def _send(options: argparse.Namespace, url: str, model: str) -> None:
    from registry import share
    from registry.errors import StackError, UserError
    from registry.remote import Remote

    try:
        share.push(url, model)
        if not options.json:
            print(f"  sent to {Remote(url).name}", flush=True)
    except UserError as error:
        raise StackError(
            f"{model}: the change is made in this store, but was not sent, and servers elsewhere do not follow it yet: "
            f"{error}\nSend it: vigil models push --model {model}"
        ) from error
