"""The page at /, in this process: on models that are not ready, and on names that are no HTML."""

import asyncio
import threading

import pytest
from tiny_release import TABLE

from registry import aliases, example
from registry.release import HELDOUT, InputSpec, Release
from serving.http import Call, Head
from serving.later import Later
from serving.server import Server
from serving.settings import Address, Settings

ODD = InputSpec("float32", (3,), ("<b>age</b>", 'a"b', "c & d"))


def shown(**settings):
    """Return the page of a service."""

    async def ask():
        server = Server(Settings(record=False, threads=1, **settings))
        await server.start()
        reply = await server.start_page(Call(Head("GET", "/", b"", {}), b""), {})
        await server.stop()
        return reply.body.decode()

    return asyncio.run(ask())


def test_names_and_purpose_are_shown_as_they_are(publish):
    aliases.promote(publish(spec=ODD, classes=("<i>", "x"), purpose="<script>alert(1)</script>").tag, "first")
    page = shown()
    assert "&lt;b&gt;age&lt;/b&gt;, a&quot;b, c &amp; d" in page and "&lt;i&gt;, x" in page
    assert "<script" not in page and "<b>" not in page and "<i>" not in page


def test_the_held_out_rows_are_read_when_the_page_is_first_asked_for_once_and_beside_the_event_loop(
    publish, monkeypatch
):
    aliases.promote(publish(spec=TABLE).tag, "first")
    read, threads = Release.read, []

    def seen(release, file):
        if file == HELDOUT:
            threads.append(threading.current_thread())
        return read(release, file)

    async def ask():
        server = Server(Settings(record=False, threads=1))
        await server.start()
        monkeypatch.setattr(Release, "read", seen)
        call = Call(Head("GET", "/", b"", {}), b"")
        replies = await asyncio.gather(*(server.start_page(call, {}) for _ in range(5)))
        await server.stop()
        return [reply.body.decode() for reply in replies]

    pages = asyncio.run(ask())
    assert all('"age": ' in page for page in pages) and len(threads) == 1
    assert threads[0] is not threading.main_thread()


def test_loading_a_release_does_not_read_its_held_out_rows_for_the_page(publish, monkeypatch):
    aliases.promote(publish(spec=TABLE).tag, "first")
    monkeypatch.setattr(example, "of", lambda _: pytest.fail("it was made before anybody asked"))

    async def begin():
        server = Server(Settings(record=False, threads=1))
        await server.start()
        await server.stop()
        return [host.ready for host in server.hosts.all]

    assert asyncio.run(begin()) == [True]


def test_what_could_not_be_made_is_tried_again_and_who_goes_away_takes_it_from_nobody():
    tries, gate = [], threading.Event()

    def make():
        tries.append(1)
        if len(tries) == 1:
            raise MemoryError
        assert gate.wait(10)
        return "made"

    async def ask():
        later = Later(make)
        with pytest.raises(MemoryError):
            await later.get()
        gone, here = (asyncio.ensure_future(later.get()) for _ in range(2))
        await asyncio.sleep(0)
        gone.cancel()
        gate.set()
        return await here, await later.get()

    assert asyncio.run(ask()) == ("made", "made") and len(tries) == 2


def test_a_model_that_is_not_ready_is_named_with_the_reason(publish):
    aliases.promote(publish("one", spec=TABLE).tag, "first")
    page = shown(models=("one", "other"))
    assert "<h2>one</h2><table>" in page
    assert "<h2>other</h2><p>Not ready: other: has no champion" in page


def test_many_classes_are_counted(publish):
    aliases.promote(publish(classes=tuple(f"c{k:02d}" for k in range(20))).tag, "first")
    assert "c10, c11 and 8 more" in shown()


def test_where_metrics_have_an_address_of_their_own_it_does_not_lead_to_them(publish):
    aliases.promote(publish().tag, "first")
    assert 'href="metrics"' in shown()
    assert 'href="metrics"' not in shown(admin_address=Address("127.0.0.1", 9400))
