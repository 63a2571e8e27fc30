"""Looks, ticks and words."""

import itertools

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from pandas import DataFrame

from indexer_figures.axes_logit import squeeze
from indexer_figures.lettering import Ruler, distinct
from indexer_figures.page import blank
from indexer_figures.styles import PALETTE, selector_looks
from indexer_figures.ticks import spread
from indexer_figures.words import percent, printable, quantity

# Machado, Oliveira and Fernandes 2009, severity 1, for linear RGB.
VISIONS = {
    "full": np.eye(3),
    "deuteranope": np.array(
        [
            [0.367322, 0.860646, -0.227968],
            [0.280085, 0.672501, 0.047413],
            [-0.01182, 0.04294, 0.968881],
        ]
    ),
    "protanope": np.array(
        [
            [0.152286, 1.052583, -0.204868],
            [0.114503, 0.786281, 0.099216],
            [-0.003882, -0.048116, 1.051998],
        ]
    ),
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(colour: str) -> np.ndarray:
    rgb = np.array(to_rgb(colour))
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(rgb: np.ndarray) -> np.ndarray:
    xyz = TO_XYZ @ rgb / np.array([0.9505, 1, 1.089])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("vision", list(VISIONS))
def test_colours_stay_apart_for_the_colour_blind(vision: str) -> None:
    seen = [lab(np.clip(VISIONS[vision] @ linear(colour), 0, 1)) for colour in PALETTE]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) >= 13


def test_colours_show_on_white() -> None:
    for colour in PALETTE:
        assert 1.05 / (float(TO_XYZ[1] @ linear(colour)) + 0.05) >= 2


def test_looks_differ_for_forty_selectors_and_ignore_order() -> None:
    names = [f"s{index}" for index in range(40)] + ["exact", "random", "sink_recent"]
    looks = selector_looks(names)
    assert len({(look.colour, str(look.line), look.marker) for look in looks.values()}) == 43
    assert looks == selector_looks(reversed(names))
    assert list(looks)[-3:] == ["exact", "random", "sink_recent"]


@pytest.mark.parametrize(
    ("share", "text"),
    [(0.0, "0 %"), (1.0, "100 %"), (0.931, "93.1 %"), (0.99996, "99.996 %"), (0.00001, "0.001 %"),
     (float("nan"), "unknown")],
)  # fmt: skip
def test_percent_never_rounds_to_all_or_nothing(share: float, text: str) -> None:
    assert percent(share) == text


def test_quantities_and_control_characters() -> None:
    assert [quantity(n, "B") for n in (0, 999.9, 1e3, 12_345)] == ["0 B", "1 kB", "1 kB", "12.3 kB"]
    assert printable("a\tb\x1b") == "a\\tb\\x1b"


def test_squeeze_moves_only_what_has_no_logit() -> None:
    table = squeeze(DataFrame({"mean": [0.0, 0.25, 1.0, np.nan]}), 10)
    assert table["mean"].tolist()[:3] == [0.05, 0.25, 0.95]
    assert np.isnan(table["mean"].iloc[3])


@pytest.mark.parametrize(
    "values", [range(64), range(3), (0, 3, 10, 11, 12, 60), (7,), (1000, 1001)]
)
@pytest.mark.parametrize("inches", [0.3, 2.5])
def test_labelled_ticks_keep_apart(values: range | tuple[int, ...], inches: float) -> None:
    low, width = values[0], max(values[-1] - values[0], 1)
    places = [(value - low) / width for value in values]
    chosen = spread(values, places, inches)
    assert chosen
    room = [0.06 * len(f"{values[i]:,}") for i in chosen]
    for a, b in itertools.pairwise(range(len(chosen))):
        gap = (places[chosen[b]] - places[chosen[a]]) * inches
        assert gap >= (room[a] + room[b]) / 2


def test_wrapped_lines_fit_and_lose_nothing() -> None:
    ruler = Ruler(blank(3, 2)[0])
    text = "faiss:OPQ16_64,IVF256,PQ16:nprobe=64 " * 4
    lines = ruler.wrap(text, 1.5, max_lines=20)
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert all(ruler.width(line) <= 1.5 for line in lines)
    short = ruler.wrap(text, 1.5, max_lines=2)
    assert len(short) == 2
    assert "…" in "".join(short)


def test_shortened_labels_stay_distinct() -> None:
    assert distinct(["a…z", "b", "a…z"]) == ["a…z", "b", "a…z (2)"]


def test_a_baseline_with_settings_does_not_look_like_the_plain_one() -> None:
    looks = selector_looks(["exact", "exact:best_shared", "exact:head_sum", "random", "random:3"])
    drawn = {(look.colour, look.line, look.marker) for look in looks.values()}
    assert len(drawn) == len(looks) == 5
    assert all(look.baseline for look in looks.values())
