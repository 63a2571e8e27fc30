"""HTML as a parser sees it."""

from html.parser import HTMLParser

VOID = {"meta", "link", "img", "br", "hr", "input"}


class Tree(HTMLParser):
    """Every tag with its attributes, in order; `text` by the tag that holds it."""

    def __init__(self, source):
        super().__init__(convert_charrefs=True)
        self.tags, self.open, self.text, self.broken = [], [], {}, []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if not self.open or self.open[-1] != tag:
            self.broken.append((tag, self.getpos()))
        else:
            self.open.pop()

    def handle_data(self, data):
        if self.open and data.strip():
            self.text.setdefault(self.open[-1], []).append(" ".join(data.split()))

    def all(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]
