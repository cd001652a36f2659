from html.parser import HTMLParser

from markdown_it import MarkdownIt

from training.pages import document
from training.pages.document import Code, Notice, Picture, Section, Table, Text

TABLE = Table(("name", "a|b"), (("<x>", "1\n2"), ("&", "3")))
SECTIONS = [Section("One & two", (Text("5 < 6"), TABLE, Code("a <b>\nc"), Picture("<svg></svg>", "Loss.", TABLE)))]


class Reader(HTMLParser):
    def __init__(self):
        super().__init__()
        self.open, self.tags, self.texts = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag != "meta":  # the one tag here that has no end
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, text):
        self.texts.append(text)


def read(page):
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    return reader


def test_the_page_is_balanced_and_shows_every_text_as_it_was_written():
    reader = read(document.html("Card <1>", SECTIONS))
    for text in ("Card <1>", "One & two", "5 < 6", "<x>", "a|b", "&", "a <b>\nc", "Loss."):
        assert text in reader.texts
    assert reader.tags.count("svg") == 1
    assert "script" not in reader.tags
    assert "b" not in reader.tags


def test_the_markdown_has_a_table_with_the_same_cells_also_in_place_of_a_picture():
    rendered = MarkdownIt("commonmark").enable("table").render(document.markdown("Card <1>", SECTIONS))
    reader = read(rendered)
    assert reader.tags.count("table") == 2
    assert reader.tags.count("tr") == 6
    assert {"Card <1>", "5 < 6", "a|b", "<x>", "1 2", "3", "Loss.", "a <b>\nc\n"} <= set(reader.texts)


def test_a_notice_says_its_level_and_every_line_on_the_page_and_as_a_quotation():
    sections = [Section("First", (Notice("warn", "2 < 3", ("why", "cure")),))]
    reader = read(document.html("Report", sections))
    assert {"warn", "2 < 3", "why", "cure"} <= set(reader.texts)
    quoted = read(MarkdownIt("commonmark").render(document.markdown("Report", sections)))
    assert quoted.tags.count("blockquote") == 1 and {"warn: 2 < 3", "why", "cure"} <= set(quoted.texts)


def test_a_folded_table_shows_its_title_and_holds_its_cells():
    reader = read(document.html("Report", [Section("First", (Table(("a",), (("1",),), "The numbers"),))]))
    assert reader.tags.count("details") == reader.tags.count("summary") == 1
    assert {"The numbers", "a", "1"} <= set(reader.texts)
