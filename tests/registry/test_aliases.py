import json
import shutil

import pytest
from tiny_release import TABLE

from registry import aliases, followed, gate, store
from registry.errors import AliasError, ReleaseError


def test_the_first_promotion_makes_a_champion_with_its_history(publish):
    made = publish()
    change = aliases.promote(made.tag, "first")
    state = aliases.read("tiny")
    assert state.champion == aliases.Pin(made.version, made.digest)
    assert state.previous is None and state.history == (change,)
    assert (change.action, change.why, change.from_version, change.to_version) == (
        "promote",
        "first",
        None,
        made.version,
    )
    assert change.accuracy == 1.0 and change.who


def test_rollback_walks_back_along_the_champions_and_then_refuses(publish):
    one, two, three = (publish(seed=seed) for seed in (1, 2, 3))
    for made in (one, two, three):
        aliases.promote(made.tag, "next", force=True)
    assert aliases.rollback("tiny", "bad").to_version == two.version
    assert aliases.rollback("tiny", "bad too").to_version == one.version
    with pytest.raises(AliasError, match=f"nothing to roll back to; {one.version} follows no other champion"):
        aliases.rollback("tiny", "again")
    assert [change.action for change in aliases.read("tiny").history] == ["promote"] * 3 + ["rollback"] * 2


def test_rollback_of_a_model_that_was_never_promoted_is_refused():
    with pytest.raises(AliasError, match="nothing to roll back to"):
        aliases.rollback("tiny", "why not")


def test_an_unknown_tag_cannot_be_promoted():
    with pytest.raises(ReleaseError, match="not in the store"):
        aliases.promote("tiny:20260101-000000-00000000", "hm")


def test_the_champion_cannot_be_promoted_again(publish):
    tag = publish().tag
    aliases.promote(tag, "first")
    with pytest.raises(AliasError, match="is the champion already"):
        aliases.promote(tag, "again")


def test_a_worse_release_is_refused_with_its_numbers_and_force_is_recorded(publish):
    good, worse = publish(seed=0), publish(seed=7, truth=0, created="2026-11-24T12:00:00Z")
    aliases.promote(good.tag, "first")
    with pytest.raises(AliasError, match=r"300 common held-out rows .* differs by -0\.\d+ .* Override: --force"):
        aliases.promote(worse.tag, "newer")
    assert aliases.read("tiny").champion.version == good.version
    change = aliases.promote(worse.tag, "newer", force=True)
    assert len(change.forced) == 1 and "common held-out rows" in change.forced[0]
    assert aliases.read("tiny").previous.version == good.version


def test_an_equal_release_is_promoted_without_force(publish):
    good, equal = publish(seed=0), publish(seed=0, created="2026-11-24T12:00:00Z")
    aliases.promote(good.tag, "first")
    assert aliases.promote(equal.tag, "retrained").forced == ()


@pytest.mark.parametrize(
    ("changed", "objection"),
    [
        ({"parity": {}}, "no parity certificate"),
        ({"parity": {"max_difference": 1e-3, "limit": 1e-4}}, "no parity certificate within its limit"),
        ({"parity": {"max_difference": float(2**70), "limit": 1e-4}}, "no parity certificate within its limit"),
        ({"gate": {"margin": 0.02, "confidence": 0.95, "beats_baselines": False}}, "does not beat the baselines"),
    ],
)
def test_a_release_without_its_proofs_is_refused(publish, changed, objection):
    with pytest.raises(AliasError, match=objection):
        aliases.promote(publish(**changed).tag, "first")


def test_a_release_with_too_few_common_rows_cannot_be_judged(publish, monkeypatch):
    one, other = publish(seed=1), publish(seed=2)
    monkeypatch.setattr(gate, "FEWEST_COMMON_ROWS", 301)
    assert gate.objections(other, one) == ["only 300 held-out rows in common with the champion, 301 are needed"]


def test_the_refusal_is_told_beforehand_in_the_words_of_promote(publish):
    good, worse = publish(seed=0), publish(seed=7, truth=0, created="2026-11-24T12:00:00Z")
    assert aliases.refusal(good.tag) == ("", False)
    aliases.promote(good.tag, "first")
    with pytest.raises(AliasError) as said:
        aliases.promote(worse.tag, "newer")
    assert str(said.value) == f"{worse.tag}: not promoted: {aliases.refusal(worse.tag)[0]}"
    followed.begin("tiny", "file:///elsewhere")
    why, judged = aliases.refusal(worse.tag)
    assert "file:///elsewhere" in why and not judged


def test_what_was_rolled_back_from_is_not_promoted_again_until_somebody_overrules_that(publish):
    one, two = (publish(seed=0, created=f"2026-11-24T12:00:0{second}Z") for second in (1, 2))
    aliases.promote(one.tag, "first")
    assert aliases.promote(two.tag, "retrained").forced == ()
    back = aliases.rollback("tiny", "it answers nonsense")
    words = rf"not promoted: it was rolled back from at 2\d+-.* by {back.who}: it answers nonsense\. .*--force"
    with pytest.raises(AliasError, match=words):
        aliases.promote(two.tag, "try again")
    (said,) = aliases.promote(two.tag, "the rollback was a mistake", force=True).forced
    assert "it answers nonsense" in said
    three = publish(seed=0, created="2026-11-24T12:00:03Z")
    assert aliases.promote(three.tag, "next").forced == aliases.promote(two.tag, "was overruled").forced == ()


def test_a_reason_is_demanded(publish):
    with pytest.raises(AliasError, match="says nothing"):
        aliases.promote(publish().tag, "  ")


def test_a_broken_champion_is_an_objection_that_force_overrules(publish):
    broken, fresh = publish(seed=1), publish(seed=2)
    aliases.promote(broken.tag, "first")
    (broken.path / "model.onnx").write_bytes(b"gone")
    with pytest.raises(AliasError, match="cannot be compared with the champion"):
        aliases.promote(fresh.tag, "the champion is broken")
    aliases.promote(fresh.tag, "the champion is broken", force=True)
    with pytest.raises(ReleaseError, match=r"model\.onnx is not the file"):
        aliases.rollback("tiny", "to the broken one")
    assert aliases.read("tiny").champion.version == fresh.version


def test_rollback_refuses_another_release_under_the_promoted_name(publish):
    one, two = publish(seed=1), publish(seed=2)
    aliases.promote(one.tag, "first")
    aliases.promote(two.tag, "second", force=True)
    said = json.loads(aliases.path("tiny").read_bytes())
    said["line"][0]["digest"] = "0" * 64
    aliases.path("tiny").write_text(json.dumps(said))
    with pytest.raises(AliasError, match="its digest differs"):
        aliases.rollback("tiny", "back")


@pytest.mark.parametrize(
    "damage", [lambda b: b"{", lambda b: b"", lambda b: b[:-40], lambda b: b.replace(b"2026", b"20x6")]
)
def test_an_unreadable_alias_file_is_named_with_the_copy_that_restores_it(publish, damage):
    made = publish()
    aliases.promote(made.tag, "first")
    place, before = aliases.path("tiny"), aliases.read("tiny")
    place.write_bytes(damage(place.read_bytes()))
    with pytest.raises(
        AliasError, match=rf"tiny\.json: cannot be read: .*{made.version} is the champion; .*: cp "
    ) as told:
        aliases.read("tiny")
    with pytest.raises(AliasError, match="cannot be read"):
        aliases.promote(publish(seed=1).tag, "second", force=True)  # nothing is overwritten on a guess
    shutil.copy(*str(told.value).rsplit(": cp ", 1)[1].split())
    assert aliases.read("tiny") == before


def test_without_a_whole_copy_a_backup_is_asked_for(publish):
    aliases.promote(publish().tag, "first")
    for place in (aliases.path("tiny"), aliases.copy_of("tiny")):
        place.write_text("{")
    with pytest.raises(AliasError, match="restore it from a backup"):
        aliases.read("tiny")


def test_an_alias_file_written_before_regressions_existed_is_read(publish):
    change = aliases.promote(publish().tag, "first")
    said = json.loads(aliases.path("tiny").read_bytes())
    del said["history"][0]["mae"]
    aliases.path("tiny").write_text(json.dumps(said))
    assert aliases.read("tiny").history == (change,)


def test_the_history_of_a_regression_keeps_its_error(publish):
    made = publish(spec=TABLE, classes=(), metrics={"mae": {"value": 1.5, "lower": 1.0, "upper": 2.0}})
    change = aliases.promote(made.tag, "first")
    assert (change.mae, change.accuracy) == (1.5, None) == (aliases.read("tiny").history[0].mae, None)


def test_a_disk_that_takes_no_more_keeps_the_aliases_as_they_were(publish, small_files):
    tags = [publish(seed=seed).tag for seed in (1, 2)]
    for _ in range(2):
        for tag in tags:
            aliases.promote(tag, "next", force=True)
    before = aliases.path("tiny").read_bytes()
    assert len(before) > 1500
    with small_files(), pytest.raises(AliasError, match=r"tiny\.json: cannot be written: File too large"):
        aliases.promote(tags[0], "once more", force=True)
    assert aliases.path("tiny").read_bytes() == before
    assert list(aliases.path("tiny").parent.glob("*.tmp")) == []


def test_the_only_model_is_found_and_several_are_listed(publish):
    with pytest.raises(AliasError, match="no model has a champion"):
        aliases.only_model()
    aliases.promote(publish("one").tag, "first")
    assert aliases.only_model() == "one"
    aliases.promote(publish("two").tag, "first")
    with pytest.raises(AliasError, match="2 models have a champion or follow a place: one, two"):
        aliases.only_model()


def test_a_deleted_champion_does_not_stop_the_listing(publish):
    made = publish()
    aliases.promote(made.tag, "first")
    shutil.rmtree(made.path)
    assert store.releases() == []
    assert aliases.read("tiny").champion.version == made.version
