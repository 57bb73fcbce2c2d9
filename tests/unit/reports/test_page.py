from html.parser import HTMLParser

from pipeline.reports.page import Html, emphasis, facts, page, paragraph, picture, section, table

VOID = {"meta", "img", "br", "line", "circle", "polyline"}


class Reader(HTMLParser):
    """Collects the text, and fails where tags are not closed in order."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.tags = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def read(html):
    reader = Reader()
    reader.feed(html)
    assert reader.open == []
    return reader


def test_a_page_is_whole_and_well_formed():
    body = section("Cases", paragraph("one"), table(["a", "b"], [["1", "2"]]), facts([("3", "cases")]))
    reader = read(page("title", "subtitle", [body]))
    assert {"html", "head", "body", "table", "h2"} <= set(reader.tags)
    assert "script" not in reader.tags


def test_text_is_shown_and_never_obeyed():
    evil = '<script>alert("x")</script>'
    blocks = [
        section(evil, paragraph(evil), emphasis(evil, "bad")),
        table([evil, "b", "c"], [[evil, "1", "2"]]),
        facts([(evil, evil)]),
        picture(b"png", evil),
    ]
    reader = read(page(evil, evil, blocks))
    assert "script" not in reader.tags
    assert "".join(reader.text).count(evil) == 11


def test_markup_is_taken_as_it_is():
    assert "<b>bold</b>" in paragraph(Html("<b>bold</b>"))


def test_pictures_are_inside_the_page():
    assert 'src="data:image/png;base64,cG5n"' in picture(b"png", "caption")
