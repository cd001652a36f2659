"""The page at /, in this process: on models that are not ready, and on names that are no HTML."""

import asyncio

from tiny_release import TABLE

from registry import aliases
from registry.release import InputSpec
from serving.http import Call, Head
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
