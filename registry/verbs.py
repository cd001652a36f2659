"""The verbs of `vigil` that are about releases; each imports what it needs when it runs."""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

Parent = argparse.ArgumentParser


def models(options: argparse.Namespace) -> int:
    """List the releases in the store, with the alias each one holds; sync and push share them with other stores."""
    from registry import listing, share_verbs, store
    from registry.errors import ReleaseError

    if options.name in ("sync", "push"):
        return share_verbs.share(options)
    if options.stop:
        raise ReleaseError("vigil models --stop: accepted are sync --stop, to follow no more, and push --stop")
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
    from registry import aliases, share_verbs

    words = ["promote", options.tag, *(["--force"] if options.force else [])]
    make = partial(aliases.promote, options.tag, options.why, options.force)
    return share_verbs.change(options, options.tag.split(":")[0], words, make)


def rollback(options: argparse.Namespace) -> int:
    """Go back to the champion before this one."""
    from registry import aliases, share_verbs

    model = model_of(options.model)
    words = ["rollback", "--model", model]
    return share_verbs.change(options, model, words, partial(aliases.rollback, model, options.why))


def challenge(options: argparse.Namespace) -> int:
    """Let a release answer a share of the champion's requests, unseen, until labels judge it; --end stops that."""
    from registry import aliases, share_verbs
    from registry.errors import AliasError

    if options.end == bool(options.tag):
        both = ", not both" if options.end else ""
        raise AliasError(f"challenge: accepted is a TAG, or --end to stop the challenge under way{both}")
    if options.end:
        model, words = model_of(options.model), ["challenge", "--end"]
        make = partial(aliases.end_challenge, model, options.why)
        return share_verbs.change(options, model, [*words, "--model", model], make)
    words = ["challenge", options.tag, "--share", f"{options.share:g}"]
    make = partial(aliases.challenge, options.tag, options.share, options.why)
    return share_verbs.change(options, options.tag.split(":")[0], words, make)


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
    from registry import share_verbs

    share_verbs.describe(verb(models, model))
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


def _portion(text: str) -> float:
    try:
        number = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        number = 0.0
    if not 0 < number <= 1:
        raise argparse.ArgumentTypeError(f"accepted is a share above 0 and up to 1, such as 10% or 0.1, found '{text}'")
    return number
