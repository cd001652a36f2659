"""The challenger follows the aliases, with real releases; the live release is not asked."""

import asyncio
import json

import pytest
from odd_release import hungry, release_with
from prometheus_client import CollectorRegistry

from monitoring.metrics import ServingMetrics
from registry import aliases
from serving import challenger
from serving.challenger import Challenger
from serving.settings import Settings


@pytest.fixture
def metrics():
    return ServingMetrics(CollectorRegistry())


@pytest.fixture
def pair(publish):
    champion, other = publish(seed=1), publish(seed=2)
    aliases.promote(champion.tag, "first")
    return champion, other


@pytest.fixture
def following(metrics):
    """Return a function that runs a coroutine with a Challenger and a function that follows the alias once."""

    def run(story, live):
        async def tell():
            made = Challenger(Settings(), metrics)

            async def follow():
                made.follow(aliases.read("tiny"), live, lambda: True)
                if made._loading is not None:
                    await made._loading
                return made.shadow

            try:
                await story(made, follow)
            finally:
                await made.stop()

        asyncio.run(tell())

    return run


def failures(metrics, reason):
    return metrics.registry.get_sample_value(
        "vigil_model_load_failures_total", {"model": "tiny", "reason": reason}
    )  # fmt: skip


def test_a_challenge_is_loaded_its_share_follows_and_its_end_drops_it(pair, following, metrics):
    champion, other = pair

    def shown():
        samples = [one for family in metrics.registry.collect() for one in family.samples]
        return [
            one.labels["version"] for one in samples
            if one.name == "vigil_model_info" and one.labels["stage"] == "challenger" and one.value == 1
        ]  # fmt: skip

    async def story(made, follow):
        assert await follow() is None
        aliases.challenge(other.tag, 0.25, "promising")
        shadow = await follow()
        assert (shadow.release.tag, shadow.champion, shadow.share) == (other.tag, champion.version, 0.25)
        assert shown() == [other.version]
        aliases.challenge(other.tag, 0.5, "more")
        assert await follow() is shadow and shadow.share == 0.5
        aliases.end_challenge("tiny", "enough")
        assert await follow() is None and shadow.share == 0.0
        assert await asyncio.to_thread(shadow.join, 20) and shown() == []

    following(story, champion.version)


def test_another_challenger_takes_the_place_of_the_first(pair, publish, following):
    champion, other = pair
    third = publish(seed=3)

    async def story(made, follow):
        aliases.challenge(other.tag, 0.25, "promising")
        first = await follow()
        aliases.challenge(third.tag, 0.25, "better")
        second = await follow()
        assert (second.release.tag, first.share) == (third.tag, 0.0)

    following(story, champion.version)


def test_while_another_release_is_live_than_the_champion_there_is_no_challenger(pair, publish, following):
    aliases.challenge(pair[1].tag, 0.25, "promising")

    async def story(made, follow):
        assert await follow() is None

    following(story, publish(seed=3).version)


def test_a_challenger_that_was_altered_is_counted_and_not_tried_again_at_once(pair, following, metrics, monkeypatch):
    champion, other = pair
    aliases.challenge(other.tag, 0.25, "promising")
    content = (other.path / "card.md").read_bytes()
    (other.path / "card.md").write_text("nicer")

    async def story(made, follow):
        assert await follow() is None and await follow() is None
        assert failures(metrics, "verify") == 1
        (other.path / "card.md").write_bytes(content)
        monkeypatch.setattr(made, "_refused_s", 0.0)  # the time it waits has passed
        assert (await follow()).release.tag == other.tag

    following(story, champion.version)


def test_another_release_under_the_name_of_the_challenger_is_refused(pair, following, metrics):
    champion, other = pair
    aliases.challenge(other.tag, 0.25, "promising")
    said = json.loads(aliases.path("tiny").read_bytes())
    said["challenger"]["pin"]["digest"] = "0" * 64
    aliases.path("tiny").write_text(json.dumps(said))

    async def story(made, follow):
        assert await follow() is None

    following(story, champion.version)
    assert failures(metrics, "verify") == 1


def test_trouble_that_nobody_expected_stays_the_challengers(pair, following, metrics, monkeypatch):
    def no_memory(*_):
        raise MemoryError

    monkeypatch.setattr(challenger, "Engine", no_memory)
    aliases.challenge(pair[1].tag, 0.25, "promising")

    async def story(made, follow):
        assert await follow() is None

    following(story, pair[0].version)
    assert failures(metrics, "load") == 1


def test_what_ends_while_it_is_loaded_never_runs(pair, following):
    aliases.challenge(pair[1].tag, 0.25, "promising")

    async def story(made, follow):
        made.follow(aliases.read("tiny"), pair[0].version, lambda: True)
        loading = made._loading
        aliases.end_challenge("tiny", "enough")
        made.follow(aliases.read("tiny"), pair[0].version, lambda: True)
        await loading
        assert made.shadow is None

    following(story, pair[0].version)


def test_a_challenger_that_takes_more_memory_than_it_may_is_refused_in_a_process_of_its_own(
    pair, tmp_path, metrics, following
):
    champion, _ = pair
    hungry_one = release_with(tmp_path, hungry(8 * 2**30))

    async def story(made, follow):
        aliases.challenge(hungry_one.tag, 0.25, "promising")
        assert await follow() is None
        assert failures(metrics, "load") == 1

    following(story, champion.version)
