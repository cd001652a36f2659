"""What is typed while a look, a pull or a push is under way holds, and what is then written rests on it."""

import shutil

import pytest

import vigil
from registry import aliases, durable, followed, following, place, share, store
from registry.errors import StackError
from registry.remote import Remote


def look(url, model=""):
    """Return what went wrong in a look at `url` that compares nothing anew."""
    return following.look(url, model, lambda _: None, keep=2, compared={"tiny", "pears"})


def stop(model="tiny"):
    assert vigil.main(["models", "sync", "--stop", "--model", model]) == 0


def champion(model="tiny"):
    return aliases.read(model).champion.version


def kept():
    return {one.tag for one in store.releases()}


@pytest.fixture
def meanwhile(monkeypatch):
    """Return a function that lets something happen once: just before a function is called, or after it."""

    def arrange(owner, name, do, of=lambda *_: True, after=False):
        whole, done = getattr(owner, name), []

        def with_it(*words, **named):
            found = whole(*words, **named) if after else None
            if not done and of(*words):
                done.append(True)
                do()
            return found if after else whole(*words, **named)

        monkeypatch.setattr(owner, name, with_it)
        return done

    return arrange


MODELS = ("pears", "tiny")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Return a folder that keeps what the first test made for the others."""
    return tmp_path_factory.mktemp("made")


@pytest.fixture
def replica(at, shared, promoted, tmp_path, made):
    """Go to a store that follows `shared`, and return its champions of two models, which were changed there since."""
    if not [*made.iterdir()]:
        _make(at, shared, promoted)
        for name in ("shared", "replica", "bentoml"):
            shutil.copytree(tmp_path / name, made / name)
    else:
        shutil.copytree(made, tmp_path, dirs_exist_ok=True)
    at("replica")
    for model in MODELS:
        followed.resume(model)
        followed.begin(model, shared)
        followed.saw(model, shared)
    return {model: champion(model) for model in MODELS}


def _make(at, shared, promoted):
    for seed in (1, 2, 3):
        at("bentoml")
        for model in MODELS:
            promoted(seed, model)
        if seed > 1:
            share.push(shared)
        at("replica")
        if seed == 2:
            assert look(shared) == []
    for model in MODELS:
        followed.stop(model)  # the place of another test is another one


def waits_for(name, number=1):
    """Return whether a lock is asked for, the one of that name, the number-th time."""
    left = [number]

    def of(path, *_):
        left[0] -= path.name == name
        return path.name == name and left[0] == 0

    return of


@pytest.mark.parametrize(
    ("lock", "number", "taken"),
    [("sync.lock", 1, False), (".tiny.lock", 1, False), (".tiny.lock", 2, True), (".tiny.lock", 3, True)],
    ids=["another-pull-ends", "aliases-are-written", "the-look-is-dated", "releases-are-deleted"],
)
def test_what_is_stopped_while_a_look_waits_for_a_lock_is_neither_changed_nor_deleted_nor_dated(
    shared, replica, meanwhile, lock, number, taken, capsys
):
    before = kept()
    done = meanwhile(durable, "locked", stop, of=waits_for(lock, number))
    assert look(shared) == [] and done
    assert followed.models() == ["pears"] and followed.looked_s("tiny") == 0.0
    assert (champion() != replica["tiny"]) == taken
    assert {tag for tag in before - kept() if tag.startswith("tiny")} == set()
    assert champion("pears") != replica["pears"] and before - kept(), "the other model follows on"
    assert (f"tiny: is not taken from {shared}: meanwhile it follows no place" in capsys.readouterr().err) != taken
    assert look(shared) == [] and (champion() != replica["tiny"]) == taken


@pytest.mark.parametrize("of", ["pears", "tiny"])
def test_what_is_stopped_while_the_release_of_any_model_comes_over_stays_as_it_is(shared, replica, meanwhile, of):
    done = meanwhile(share, "_take", stop, of=lambda remote, new, pin: new.model == of, after=True)
    assert look(shared) == [] and done
    assert champion() == replica["tiny"] and champion("pears") != replica["pears"]
    assert aliases.rollback("tiny", "the one before is better").from_version == replica["tiny"]


def test_of_a_model_that_was_stopped_before_its_turn_nothing_comes_over(shared, replica, meanwhile):
    before = kept()
    meanwhile(share, "_take", stop, of=lambda remote, new, pin: new.model == "pears")
    assert look(shared) == []
    assert {tag for tag in kept() - before if tag.startswith("tiny")} == set()


@pytest.mark.parametrize("moment", ["asked", "locked"])
def test_what_is_stopped_while_it_begins_to_follow_another_place_follows_none(
    shared, replica, meanwhile, tmp_path, moment
):
    other = f"file://{tmp_path}/other"
    aliases_of = {"tiny": champion()}
    share.push(other, "tiny")
    followed.forget("tiny")
    if moment == "asked":
        done = meanwhile(place, "read", stop, after=True)
    else:
        done = meanwhile(durable, "locked", stop, of=waits_for(".tiny.lock"))
    assert look(other) == [] and done
    assert followed.models() == ["pears"] and champion() == aliases_of["tiny"]


def test_a_stop_holds_also_where_the_place_loses_the_model_in_the_same_moment(shared, replica, meanwhile, tmp_path):
    there = tmp_path / "shared" / "aliases" / "tiny.json"
    content = there.read_bytes()
    there.unlink()
    done = meanwhile(durable, "locked", stop, of=waits_for(".tiny.lock"))
    assert look(shared) == [] and done and followed.stopped("tiny")
    there.write_bytes(content)  # its volume was not mounted whole
    assert look(shared) == [] and champion() == replica["tiny"]


@pytest.mark.parametrize(
    "write",
    [
        lambda place: followed.begin("tiny", "memory://other"),
        lambda place: followed.end("tiny", place),
        lambda place: followed.stop("tiny"),
        lambda place: followed.resume("tiny"),
        lambda place: followed.saw("tiny", place),
        lambda place: followed.remember("tiny", "memory://other"),
        lambda place: followed.forget("tiny"),
        lambda place: aliases.rollback("tiny", "slow"),
        lambda place: look(place),
    ],
    ids=["begin", "end", "stop", "resume", "saw", "remember", "forget", "rollback", "look"],
)
def test_whoever_writes_aliases_or_marks_waits_for_the_lock_of_the_model(shared, replica, monkeypatch, write):
    def now(path, wait=True, whole=durable.locked):
        return whole(path, wait=path.name != ".tiny.lock")

    before = champion(), followed.place("tiny"), followed.looked_s("tiny"), followed.destination("tiny")
    with followed.changing("tiny"):
        monkeypatch.setattr(durable, "locked", now)
        with pytest.raises(BlockingIOError):
            write(shared)
    assert before == (champion(), followed.place("tiny"), followed.looked_s("tiny"), followed.destination("tiny"))


def test_a_single_pull_is_not_hindered_by_a_process_that_begins_to_follow(at, shared, promoted, meanwhile, capsys):
    made = promoted(1)
    share.push(shared)
    at("replica")
    meanwhile(share, "_take", lambda: followed.begin("tiny", shared), after=True)
    assert vigil.main(["models", "sync", shared]) == 0
    assert champion() == made.version and followed.place("tiny") == shared
    assert followed.looked_s("tiny") > 0.0


@pytest.mark.parametrize("now", ["memory://other", "no place"])
def test_a_single_pull_by_a_model_that_follows_changes_nothing_once_it_follows_another_place_or_none(
    shared, replica, meanwhile, capsys, now
):
    do = stop if now == "no place" else lambda: followed.begin("tiny", now)
    meanwhile(share, "_take", do, after=True)
    assert vigil.main(["models", "sync", shared, "--model", "tiny"]) == 2
    assert f"tiny: is not taken from {shared}: meanwhile it follows {now}; its" in capsys.readouterr().err
    assert champion() == replica["tiny"]


def test_the_first_push_of_a_model_beside_a_process_that_follows_leaves_it_the_store_that_promotes(
    at, shared, promoted, meanwhile, monkeypatch, capsys
):
    monkeypatch.delenv("VIGIL_RELEASES", raising=False)
    promoted(1)
    share.push(shared)
    at("mixed")
    assert look(shared) == []
    first, _ = promoted(2, "own"), promoted(3, "own")
    is_own = lambda remote, path, *_: path == "aliases/own.json"  # noqa: E731
    done = meanwhile(Remote, "write", lambda: look(shared), of=is_own, after=True)
    assert vigil.main(["models", "push", shared, "--model", "own"]) == 0 and done
    assert followed.models() == ["tiny"] and followed.destination("own") == shared
    capsys.readouterr()
    assert vigil.main(["rollback", "--model", "own", "--why", "it is bad"]) == 0
    assert capsys.readouterr().out.endswith(f"sent to {shared}\n") and champion("own") == first.version


def test_a_store_that_pushes_what_it_does_not_follow_remembers_where_whatever_begins_meanwhile(
    shared, promoted, meanwhile
):
    promoted(1)
    share.push(shared)
    followed.forget("tiny")
    promoted(2)
    meanwhile(share, "_give", lambda: followed.begin("tiny", shared))
    share.push(shared)
    assert followed.destination("tiny") == shared


def test_a_store_that_follows_one_place_gives_nothing_up_for_another_one(at, shared, replica, promoted, tmp_path):
    other = f"file://{tmp_path}/other"
    at("elsewhere")
    promoted(4)
    share.push(other)
    at("replica")
    with pytest.raises(share.DivergedError, match="and this store has others"):
        share.pull(other, "tiny")
    assert champion() == replica["tiny"]


def test_a_push_whose_last_step_fails_has_named_the_place_that_the_next_change_is_sent_to(
    shared, promoted, monkeypatch, capsys
):
    monkeypatch.delenv("VIGIL_RELEASES", raising=False)
    promoted(1)
    promoted(2)

    def full(remote, path, content):
        raise StackError(f"{remote.name}: cannot be used: no space left")

    with monkeypatch.context() as patched:
        patched.setattr(Remote, "write", full)
        with pytest.raises(StackError, match="no space left"):
            share.push(shared)
    assert vigil.main(["rollback", "--why", "it is bad"]) == 0
    assert capsys.readouterr().out.endswith(f"sent to {shared}\n")


def test_releases_go_only_of_models_that_came_over_in_the_very_look(at, shared, replica, promoted):
    assert following.look(shared, "", lambda _: None, keep=5, compared=set()) == []
    before = kept()
    at("bentoml")
    promoted(4, "pears")
    share.push(shared, "pears")
    at("replica")
    assert following.look(shared, "", lambda _: None, keep=1, compared=set(MODELS)) == []
    gone = before - kept()
    assert len(gone) == 2 and all(tag.startswith("pears:") for tag in gone)
