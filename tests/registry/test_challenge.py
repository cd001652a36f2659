import json

import pytest
from tiny_release import HOMES, TABLE

from registry import aliases, collect, listing
from registry.errors import AliasError, ReleaseError
from registry.gate import Live
from registry.release import InputSpec

MAE = {"mae": {"value": 1.5, "lower": 1.0, "upper": 2.0}}


@pytest.fixture
def pair(publish):
    """Return a champion and another release of its model."""
    champion, other = publish(seed=1), publish(seed=2)
    aliases.promote(champion.tag, "first")
    return champion, other


def test_a_challenge_stands_beside_the_champion_and_is_in_the_history(pair):
    champion, other = pair
    change = aliases.challenge(other.tag, 0.25, "promising")
    state = aliases.read("tiny")
    assert state.champion.version == champion.version
    assert state.challenger == aliases.Challenge(aliases.Pin(other.version, other.digest), 0.25, change.time_s)
    assert state.history[-1] == change
    assert (change.action, change.from_version, change.to_version) == ("challenge", champion.version, other.version)
    assert (change.why, change.share, change.ended) == ("promising", 0.25, None) and change.who


def test_a_challenge_is_ended_and_the_champion_stays(pair):
    champion, other = pair
    aliases.challenge(other.tag, 1.0, "promising")
    change = aliases.end_challenge("tiny", "too slow")
    state = aliases.read("tiny")
    assert (state.champion.version, state.challenger, state.history[-1]) == (champion.version, None, change)
    assert (change.action, change.from_version, change.to_version) == ("end", champion.version, other.version)
    with pytest.raises(AliasError, match="no challenge is under way"):
        aliases.end_challenge("tiny", "again")


def test_another_share_keeps_what_was_learnt_and_another_release_starts_anew(pair, publish):
    _, other = pair
    third = publish(seed=3)
    first = aliases.challenge(other.tag, 0.1, "promising")
    assert aliases.challenge(other.tag, 0.5, "faster").ended is None
    assert (aliases.read("tiny").challenger.share, aliases.read("tiny").challenger.since_s) == (0.5, first.time_s)
    change = aliases.challenge(third.tag, 0.5, "better still")
    assert change.ended == other.version
    assert aliases.read("tiny").challenger.since_s == change.time_s


@pytest.mark.parametrize("promoted", [1, 2], ids=["the challenger", "a third release"])
def test_a_promotion_ends_the_challenge(pair, publish, promoted):
    other, third = pair[1], publish(seed=3)
    aliases.challenge(other.tag, 0.1, "promising")
    change = aliases.promote((None, other, third)[promoted].tag, "next", force=True)
    assert change.ended == other.version and aliases.read("tiny").challenger is None


def test_a_rollback_ends_the_challenge(pair, publish):
    champion, other = pair
    third = publish(seed=3)
    aliases.promote(third.tag, "second", force=True)
    aliases.challenge(other.tag, 0.1, "promising")
    change = aliases.rollback("tiny", "bad")
    assert (change.to_version, change.ended) == (champion.version, other.version)
    assert aliases.read("tiny").challenger is None


def test_a_challenge_does_not_move_the_time_at_which_the_champion_changed(pair):
    before = aliases.read("tiny").changed_s
    aliases.challenge(pair[1].tag, 0.1, "promising")
    assert aliases.read("tiny").changed_s == before > 0
    aliases.end_challenge("tiny", "enough")
    assert aliases.read("tiny").changed_s == before


def test_without_a_champion_there_is_nothing_to_challenge(publish):
    tag = publish().tag
    with pytest.raises(AliasError, match=f"tiny has no champion; make it one: vigil promote {tag}"):
        aliases.challenge(tag, 0.1, "first")


def test_the_champion_cannot_challenge_itself(pair):
    with pytest.raises(AliasError, match="it is the champion"):
        aliases.challenge(pair[0].tag, 0.1, "hm")


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"classes": tuple("123456789X")}, r"its classes are not those .*: without 0; new X"),
        ({"spec": InputSpec("uint8", (4, 16))}, r"its rows are uint8 \(4, 16\), those .* uint8 \(8, 8\)"),
        ({"spec": TABLE}, r"its rows are float32 \(3,\)"),
        ({"spec": TABLE, "classes": (), "metrics": MAE}, "it is a regression and the champion .* a classification"),
        ({"gate": {}}, "its manifest states no rules of promotion"),
    ],
)
def test_what_no_rows_can_compare_is_refused_with_the_reason(pair, publish, changed, reason):
    with pytest.raises(AliasError, match=f"cannot challenge: {reason}"):
        aliases.challenge(publish(seed=3, **changed).tag, 0.1, "hm")
    assert aliases.read("tiny").challenger is None


def test_other_columns_are_refused_and_another_fill_is_not(publish):
    aliases.promote(publish("homes", spec=HOMES, classes=(), metrics=MAE).tag, "first")
    swapped = InputSpec("float32", (3,), ("city", "area", "heating"), HOMES.categories, HOMES.fills)
    fills = InputSpec("float32", (3,), HOMES.columns, HOMES.categories, {"area": 90.0, "heating": 1.0})
    with pytest.raises(AliasError, match="its columns or their values are not those"):
        aliases.challenge(publish("homes", 1, spec=swapped, classes=(), metrics=MAE).tag, 0.1, "hm")
    tag = publish("homes", 1, spec=fills, classes=(), metrics=MAE).tag
    assert aliases.challenge(tag, 0.1, "retrained").to_version == tag.split(":")[1]


@pytest.mark.parametrize("share", [0.0, -0.1, 1.01, float("nan")])
def test_a_share_that_is_none_is_refused(pair, share):
    with pytest.raises(AliasError, match=r"--share .*: accepted is a share above 0 and up to 1"):
        aliases.challenge(pair[1].tag, share, "hm")


def test_an_altered_release_cannot_challenge(pair):
    (pair[1].path / "card.md").write_text("nicer")
    with pytest.raises(ReleaseError, match=r"card\.md is not the file"):
        aliases.challenge(pair[1].tag, 0.1, "hm")


def test_a_challenge_needs_a_reason(pair):
    with pytest.raises(AliasError, match="says nothing"):
        aliases.challenge(pair[1].tag, 0.1, " ")
    aliases.challenge(pair[1].tag, 0.1, "promising")
    with pytest.raises(AliasError, match="says nothing"):
        aliases.end_challenge("tiny", "")


def test_files_from_before_challenges_are_read(pair):
    champion, other = pair
    said = json.loads(aliases.path("tiny").read_bytes())
    for change in said["history"]:
        del change["share"], change["ended"]
    aliases.path("tiny").write_text(json.dumps(said))
    assert aliases.read("tiny").challenger is None and aliases.read("tiny").champion.version == champion.version
    said["challenger"] = {"version": other.version, "digest": other.digest}
    aliases.path("tiny").write_text(json.dumps(said))
    pin = aliases.Pin(other.version, other.digest)
    assert aliases.read("tiny").challenger == aliases.Challenge(pin, aliases.OLD_SHARE, 0.0)


@pytest.mark.parametrize("share", [0, 2, "0.1", None])
def test_a_file_with_an_impossible_share_is_unreadable_and_not_guessed(pair, share):
    aliases.challenge(pair[1].tag, 0.1, "promising")
    said = json.loads(aliases.path("tiny").read_bytes())
    said["challenger"]["share"] = share
    aliases.path("tiny").write_text(json.dumps(said))
    with pytest.raises(AliasError, match=r"tiny\.json: cannot be read"):
        aliases.read("tiny")


def test_a_disk_that_takes_no_more_leaves_no_half_challenge(pair, small_files):
    champion, other = pair
    for _ in range(3):
        aliases.promote(other.tag, "next", force=True)
        aliases.promote(champion.tag, "next", force=True)
    before = aliases.path("tiny").read_bytes()
    with small_files(), pytest.raises(AliasError, match=r"tiny\.json: cannot be written: File too large"):
        aliases.challenge(other.tag, 0.1, "promising")
    assert aliases.path("tiny").read_bytes() == before


def test_a_challenger_is_listed_and_never_collected(publish):
    tags = [publish(seed=day, created=f"2026-11-{day:02d}T11:00:00Z").tag for day in range(1, 5)]
    aliases.promote(tags[3], "first")
    aliases.challenge(tags[0], 0.1, "old but good")
    assert listing.held(aliases.read("tiny"))[tags[0].split(":")[1]] == "challenger"
    reasons = {v.listing.tag: v.reason for v in collect.collect(collect.Rule(keep=1), lambda plan: None)}
    assert [reasons[tag] for tag in tags] == ["challenger", "", "", "champion"]


def test_a_refused_promotion_names_the_challenge_that_could_judge_the_release(publish):
    champion, worse, third = publish(seed=1), publish(seed=7, truth=1), publish(seed=8, truth=1)
    aliases.promote(champion.tag, "first")

    def refusal(tag):
        with pytest.raises(AliasError) as caught:
            aliases.promote(tag, "next")
        return str(caught.value).partition("common held-out rows")[2]

    assert f'. Let labels of the traffic judge it: vigil challenge {worse.tag} --why "...". Over' in refusal(worse.tag)
    aliases.challenge(worse.tag, 0.1, "promising")
    assert ". It challenges the champion now, what labels tell of it: vigil verdict tiny. Over" in refusal(worse.tag)
    assert f'vigil challenge {third.tag} --why "...", which ends that of {worse.version}. Over' in refusal(third.tag)


def test_no_challenge_is_named_where_none_can_be(pair, publish):
    other = publish(seed=3, classes=tuple("123456789X"))
    unproved = publish(seed=4, truth=1, parity={})
    for tag in (other.tag, unproved.tag):
        with pytest.raises(AliasError, match="not promoted") as caught:
            aliases.promote(tag, "next")
        assert "vigil challenge" not in str(caught.value)
    (pair[0].path / "card.md").write_text("nicer")
    with pytest.raises(AliasError, match="cannot be compared with the champion") as caught:
        aliases.promote(publish(seed=5).tag, "next")
    assert "vigil challenge" not in str(caught.value)


@pytest.mark.parametrize(
    ("metric", "loss", "upper", "said"),
    [
        ("accuracy", -0.075, -0.03, "accuracy is 0.0750 higher than that of A; with 95% confidence at least 0.0300 "
         "higher (0.0200 lower is allowed)"),
        ("mae", 0.005, 0.015, "mean error is 0.50% larger than that of A; with 95% confidence at most 1.50% larger "
         "(2.00% larger is allowed)"),
    ],
)  # fmt: skip
def test_what_the_labels_said_is_told_without_a_minus(metric, loss, upper, said):
    live = Live("A", "B", 0.0, 800, metric, loss, -0.1, upper, 0.02, 0.95)
    assert listing.of_traffic(live) == f"on 800 labelled rows of the traffic its {said}"
