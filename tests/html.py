"""Reading a page as a browser would, as far as tests need it."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """What a page shows and asks for, and whether what it opens is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.words = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.sources += [value or "" for name, value in attributes if name in ("src", "srcset", "poster", "data")]
        if tag not in ("meta", "img", "br", "link", "path", "hr", "input"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data
