"""A release that is damaged, deleted or signed anew while its aliases stay as they are."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from registry import aliases, carry, following, share, signing, store
from registry.errors import AliasError, ReleaseError
from registry.remote import ABANDONED_S, Remote


@pytest.fixture
def pulled(at, shared, promoted):
    """Return a release that a replica has, at which the test now is."""
    made = promoted(1)
    share.push(shared)
    at("replica")
    share.pull(shared)
    return store.open_release(made.tag)


def test_a_champion_that_is_gone_is_brought_by_the_next_look(pulled, shared):
    shutil.rmtree(pulled.path)
    assert following.look(shared, "", lambda _: None, keep=2, compared={"tiny"}) == []
    assert store.open_release(pulled.tag).digest == pulled.digest


@pytest.mark.parametrize("way", ["sync", "the first look of a follower"])
def test_a_damaged_champion_is_brought_anew_although_nothing_was_promoted(pulled, shared, way):
    (pulled.path / "model.onnx").write_bytes(b"x")
    if way == "sync":
        assert share.pull(shared) == [share.Shared("tiny", pulled.version, (pulled.version,), pulled_size(pulled))]
    else:
        assert following.look(shared, "", lambda _: None, keep=2, compared=set()) == []
    assert store.open_release(pulled.tag).digest == pulled.digest


KILLED = """
import os, sys
from registry.remote import ABANDONED_S, Remote
class Source:
    def read(self, size, pieces=[b"half", b""]):
        return pieces.pop(0) or os._exit(9)
for path in sys.argv[2:]:
    if not os.fork():
        Remote(sys.argv[1]).send(path, Source())
    os.wait()
"""


def test_what_a_killed_push_left_goes_with_the_first_push_a_day_later(shared, promoted):
    folder = f"models/tiny/{promoted(1).version}"
    subprocess.run([sys.executable, "-c", KILLED, shared, f"{folder}/model.onnx", "aliases/tiny.json"], check=True)
    place = Path(shared.removeprefix("file://"))
    old, alias = *place.glob("models/**/*.tmp"), *place.glob("aliases/*.tmp")
    mine, young = place / "models" / "mine.tmp", old.with_name(f"card.md.{'0' * 32}.tmp")
    mine.touch()
    young.touch()
    share.push(shared)
    assert all(path.exists() for path in (old, alias, mine, young))
    for path in (old, alias, mine):
        os.utime(path, (0, time.time() - ABANDONED_S - 60))
    share.push(shared)
    assert not old.exists() and not alias.exists()
    assert mine.exists() and young.exists()


def pulled_size(release):
    return sum(entry.size_bytes for entry in release.manifest.files.values())


def test_no_alias_names_a_release_that_was_collected_while_another_came_over(at, shared, promoted, pulled, monkeypatch):
    at("bentoml")
    second = promoted(2)
    share.push(shared)
    at("replica")
    take = carry.take

    def taken_and_collected(remote, model, pin, needed):
        copied = take(remote, model, pin, needed)
        if pin.version == second.version:
            shutil.rmtree(store.models() / model / pin.version)  # `vigil gc --yes`, typed now
        return copied

    monkeypatch.setattr(carry, "take", taken_and_collected)
    with pytest.raises(AliasError, match=f"{second.version}: was deleted here in the meantime"):
        share.pull(shared)
    assert aliases.read("tiny").champion.version == pulled.version
    monkeypatch.setattr(carry, "take", take)
    assert share.pull(shared)[0].champion == second.version


def test_the_look_of_one_model_keeps_what_another_has_half_brought(at, shared, promoted):
    for seed, name in enumerate(("apples", "apples-2")):
        promoted(seed, name)
    share.push(shared)
    at("replica")
    half = store.home() / "incoming" / "apples-2" / "x" / "model.onnx.part"
    half.parent.mkdir(parents=True)
    half.touch()
    share.pull(shared, "apples")
    assert half.exists()
    share.pull(shared, "apples-2")
    assert not (store.home() / "incoming").exists()


def test_a_store_with_an_older_signature_does_not_put_it_back(at, shared, promoted, pair, write_pair, monkeypatch):
    made, next_pair = promoted(1), write_pair("next")
    store.sign(made.tag, pair[0])
    share.push(shared)
    at("colleague")
    share.pull(shared)
    at("bentoml")
    store.sign(made.tag, next_pair[0])
    share.push(shared)
    at("colleague")
    promoted(2)
    share.push(shared)
    at("replica")
    monkeypatch.setenv(signing.VARIABLE, str(next_pair[1]))
    with pytest.raises(ReleaseError, match="is not signed"):
        share.pull(shared)  # the colleague's own release is not signed
    remote = Remote(shared)
    assert (
        remote.read(f"models/tiny/{made.version}/model.sig", 100_000)
        == (store.bentoml_home().parent / "bentoml" / "models" / "tiny" / made.version / "model.sig").read_bytes()
    )


def signature_in(url, made):
    return Remote(url).read(f"models/tiny/{made.version}/model.sig", 100_000)


def test_a_new_signature_reaches_each_of_two_places(shared, promoted, pair, write_pair):
    made, places = promoted(1), (shared, "memory://second")
    for key in (pair[0], write_pair("next")[0]):
        store.sign(made.tag, key)
        for url in places:
            share.push(url)
            assert signature_in(url, made) == (made.path / "model.sig").read_bytes()


@pytest.mark.parametrize("signed_before", [True, False])
def test_a_signature_made_while_a_push_sends_reaches_the_place_by_the_next_one(
    shared, promoted, pair, write_pair, monkeypatch, signed_before
):
    made, send, keys = promoted(1), Remote.send, [write_pair("next")[0]]
    if signed_before:
        store.sign(made.tag, pair[0])

    def slow(remote, path, source):
        send(remote, path, source)
        if keys:
            store.sign(made.tag, keys.pop())

    monkeypatch.setattr(Remote, "send", slow)
    share.push(shared)
    share.push(shared)
    assert signature_in(shared, made) == (made.path / "model.sig").read_bytes()
