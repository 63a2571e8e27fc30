"""The report in a real browser, at a phone's, a tablet's and a desk's width, light and dark."""

import pytest

from .browser import chromium, page

pytestmark = pytest.mark.skipif(
    chromium() is None, reason="needs Chromium (Debian: apt-get install chromium, or set $CHROMIUM)"
)
VIEWS = [(width, scheme) for width in (360, 800, 1280) for scheme in ("light", "dark")]

# Every piece of visible text as the boxes of its lines, cut to what its scrolling frame shows.
BOXES = """(() => {
  const boxes = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walk.nextNode(); node; node = walk.nextNode()) {
    const holder = node.parentElement;
    if (!node.data.trim() || holder.closest("script, style, .unseen, .skip")) continue;
    if (!holder.checkVisibility()) continue;
    const frame = holder.closest(".scroll")?.getBoundingClientRect();
    const range = document.createRange();
    range.selectNodeContents(node);
    for (const line of range.getClientRects()) {
      const left = Math.max(line.left, frame ? frame.left : 0);
      const right = Math.min(line.right, frame ? frame.right : Infinity);
      const top = Math.max(line.top, frame ? frame.top : -Infinity);
      const bottom = Math.min(line.bottom, frame ? frame.bottom : Infinity);
      if (right - left > 1 && bottom - top > 1)
        boxes.push({left, right, top, bottom, text: node.data.trim().slice(0, 40),
                    pinned: !!holder.closest("thead")});
    }
  }
  return boxes;
})()"""

OVERLAPS = f"""(() => {{
  const boxes = {BOXES}.sort((a, b) => a.top - b.top);
  const found = [];
  for (let i = 0; i < boxes.length; i++)
    for (let j = i + 1; j < boxes.length && boxes[j].top < boxes[i].bottom; j++) {{
      const a = boxes[i], b = boxes[j];
      const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      // Lines of one paragraph touch by their leading; letters do not.
      if (across > 2 && down > 0.3 * Math.min(a.bottom - a.top, b.bottom - b.top))
        found.push([a.text, b.text, across, down]);
    }}
  return found;
}})()"""

OUTSIDE = f"{BOXES}.filter((box) => box.right > innerWidth + 1 || box.left < -1)"

# WCAG's contrast of every text against the nearest opaque ground behind it.
CONTRAST = """(() => {
  const numbers = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => {
    const [r, g, b] = numbers(colour).map((value) => value / 255)
      .map((value) => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = getComputedStyle(at).backgroundColor;
      const parts = numbers(colour);
      if (parts.length < 4 || parts[3] === 1) return colour;
    }
    return "rgb(255, 255, 255)";
  };
  const weak = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walk.nextNode(); node; node = walk.nextNode()) {
    const holder = node.parentElement;
    if (!node.data.trim() || holder.closest("script, style") || !holder.checkVisibility()) continue;
    const [a, b] = [light(getComputedStyle(holder).color), light(ground(holder))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) weak.push([node.data.trim().slice(0, 40), contrast]);
  }
  return weak;
})()"""

COLUMN = """(name) => {
  const table = document.querySelector("#tables table");
  const at = [...table.tHead.rows[0].cells].findIndex((h) => h.textContent === name);
  return [...table.tBodies[0].rows].map((row) => row.cells[at].textContent);
}"""


@pytest.fixture(scope="module")
def tab():
    with page(chromium()) as opened:
        yield opened


@pytest.fixture
def opened(tab, written):
    """Opens the report as a view asks."""

    def open_as(width, scheme="light", media=""):
        tab.size(width)
        tab.scheme(scheme, media)
        tab.open(written.as_uri())
        return tab

    return open_as


@pytest.mark.parametrize(("width", "scheme"), VIEWS)
def test_it_opens_quietly_and_fits(opened, width, scheme):
    tab = opened(width, scheme)
    asked = [event["request"]["url"] for event in tab.told("Network.requestWillBeSent")]
    assert len([url for url in asked if not url.startswith("data:")]) == 1, asked  # itself
    complaints = tab.told("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")
    assert complaints == []
    assert tab.run("[...document.images].every((i) => i.complete && i.naturalWidth > 300)")
    assert tab.run("document.title").startswith("Which keys were missed")  # no name changed it
    tab.run("document.querySelectorAll('details').forEach((each) => { each.open = true; })")
    assert tab.run("document.documentElement.scrollWidth") <= width
    assert tab.run(OUTSIDE) == []
    assert tab.run(OVERLAPS) == []
    assert tab.run(CONTRAST) == []


def test_the_checks_see_what_is_wrong(opened):
    """The three measurements above, on a page that was spoilt."""
    tab = opened(800)
    tab.run("document.querySelector('h1').style.marginBottom = '-3rem'")
    assert tab.run(OVERLAPS) != []
    tab.run("document.querySelector('h1').style.marginLeft = '50rem'")
    assert tab.run(OUTSIDE) != []
    tab.run("document.querySelector('.gist').style.color = '#999'")
    assert [text for text, _ in tab.run(CONTRAST)] == [tab.run(
        "document.querySelector('.gist').textContent.trim().slice(0, 40)")]  # fmt: skip


def test_light_and_dark_differ_and_figures_stay_on_paper(opened):
    ground = "getComputedStyle(document.body).backgroundColor"
    paper = "getComputedStyle(document.querySelector('.paper')).backgroundColor"
    light, dark = (opened(800, scheme).run(ground) for scheme in ("light", "dark"))
    assert light == "rgb(255, 255, 255)"
    assert dark != light
    assert opened(800, "dark").run(paper) == "rgb(255, 255, 255)"


def test_a_table_sorts_by_mouse_and_by_keyboard(opened):
    tab = opened(1280)
    head = "[...document.querySelectorAll('#tables th')].find((h) => h.textContent === 'mass mean')"
    values = f"({COLUMN})('mass mean')"
    before = tab.run(values)
    tab.run(f"{head}.querySelector('button').click()")
    rising = [float(value) for value in tab.run(values)]
    assert rising == sorted(rising)
    assert sorted(rising) != [float(value) for value in before]
    assert tab.run(f"{head}.getAttribute('aria-sort')") == "ascending"
    assert "smallest first" in tab.run("document.getElementById('said').textContent")
    tab.run(f"{head}.querySelector('button').focus()")
    tab.press("Enter", "Enter", 13, "\r")
    falling = [float(value) for value in tab.run(values)]
    assert falling == sorted(falling, reverse=True)
    assert tab.run(f"{head}.getAttribute('aria-sort')") == "descending"
    others = f"[...{head}.parentNode.cells].filter((h) => h.getAttribute('aria-sort') !== 'none')"
    assert tab.run(f"{others}.length") == 1
    assert sorted(tab.run(values)) == sorted(before)  # no row lost


def test_words_sort_as_words_and_missing_numbers_stay_last(opened):
    tab = opened(1280)
    tab.run("document.querySelector('#tables th button').click()")
    names = tab.run(f"({COLUMN})('target')")
    assert names == sorted(names)
    at = """[...document.querySelectorAll('#waterfall th')]
      .find((h) => h.textContent.includes('precision=fp4')).querySelector('button')"""
    column = """[...document.querySelectorAll('#waterfall tbody tr')].map((row) =>
      [...row.cells][[...document.querySelectorAll('#waterfall th')]
        .findIndex((h) => h.textContent.includes('precision=fp4'))].textContent)"""
    for _ in range(2):
        tab.run(f"{at}.click()")
        shown = tab.run(column)
        assert shown[-2:] == ["–", "–"]
        assert "–" not in shown[:-2]


def test_the_keyboard_reaches_the_verdicts_first(opened):
    tab = opened(800)
    tab.press("Tab", "Tab", 9)
    assert tab.run("document.activeElement.className") == "skip"
    left = tab.run("document.activeElement.getBoundingClientRect().left")
    assert 0 <= left < 100  # in sight once it has the focus
    tab.press("Enter", "Enter", 13, "\r")
    assert tab.run("location.hash") == "#verdicts"


def test_paper_shows_whole_tables_without_frames(opened):
    tab = opened(1050, "dark", "print")  # the width of A4 on its side, at 96 dots an inch
    assert tab.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert tab.run("getComputedStyle(document.querySelector('nav')).display") == "none"
    cut = "[...document.querySelectorAll('.scroll')].filter((e) => e.scrollWidth > 1050).length"
    assert tab.run(cut) == 0
    assert tab.run(CONTRAST) == []
