"""One look for a selector in every figure of a run: colour, line and marker."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import seaborn as sns

BASELINES = ("exact", "random", "sink_recent")

# Nine hues that stay at least 13 CIE Lab units apart for full, deuteranope and protanope vision,
# and at least 2:1 against white; the order puts the most different ones first.
PALETTE = (
    "#0173b2", "#de8f05", "#882255", "#117733", "#cc78bc",
    "#56b4e9", "#332288", "#ca9161", "#661100",
)  # fmt: skip
# Gaps are wide enough to show a line that runs underneath.
_LINES = ("-", (0, (4, 2.5)), (0, (1.5, 1.5)), (0, (5, 2, 1.5, 2)), (0, (8, 3)))
# As many markers as colours would repeat the same pair on every lap; ten make ninety pairs.
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p")
# A baseline's own colour, line and marker; one with settings, like exact:best_shared, takes the
# next of _VARIANTS so that it cannot be mistaken for the plain one.
_BASELINE_LOOKS: dict[str, tuple[str, Any, str]] = {
    "exact": ("#000000", (0, (4, 2)), "*"),
    "random": ("#8c8c8c", (0, (4, 2)), "x"),
    "sink_recent": ("#5f5f5f", (0, (1, 1.5)), "+"),
}
_VARIANTS: tuple[tuple[Any, str], ...] = (
    ((0, (1, 1)), "d"),
    ((0, (6, 1.5, 1, 1.5)), "h"),
    ((0, (2, 1)), "8"),
)

RC: dict[str, Any] = {
    **sns.axes_style("ticks"),
    "font.family": ["DejaVu Sans"],
    "font.size": 7,
    "axes.labelsize": 7,
    "axes.titlesize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.major.pad": 2,
    "ytick.major.pad": 2,
    "axes.labelpad": 2,
    "grid.linewidth": 0.4,
    "grid.color": "#e6e6e6",
    "lines.linewidth": 1.1,
    "lines.markersize": 3.2,
    "lines.markeredgewidth": 0.8,
    "hatch.linewidth": 0.4,
    "path.simplify": True,
    "svg.fonttype": "none",
    "svg.hashsalt": "indexer_figures",
    "text.usetex": False,
    "text.parse_math": False,
    "axes.formatter.use_mathtext": False,
}


@dataclass(frozen=True)
class Look:
    """How one selector is drawn; `index` keeps markers of crossing lines apart."""

    colour: str
    line: Any
    marker: str
    index: int
    baseline: bool


def is_baseline(label: str) -> bool:
    """Whether a selector's label names exact, random or sink_recent, whatever its settings."""
    return label.split(":", 1)[0] in BASELINES


def selector_looks(labels: Iterable[str]) -> dict[str, Look]:
    """A look for each selector, by sorted label: the same set of labels gives the same looks.

    Baselines come last, in black and greys, broken lines; the others never look like them.
    """
    names = sorted({str(label) for label in labels})
    looks = {}
    for index, name in enumerate(name for name in names if not is_baseline(name)):
        colour = PALETTE[index % len(PALETTE)]
        line = _LINES[index % len(_LINES)]
        looks[name] = Look(colour, line, _MARKERS[index % len(_MARKERS)], index, False)
    varied = 0
    for index, name in enumerate(sorted(filter(is_baseline, names), key=_baseline_order)):
        colour, line, marker = _BASELINE_LOOKS[name.split(":", 1)[0]]
        if name not in _BASELINE_LOOKS:
            line, marker = _VARIANTS[varied % len(_VARIANTS)]
            varied += 1
        looks[name] = Look(colour, line, marker, index, True)
    return looks


def _baseline_order(name: str) -> tuple[int, str]:
    return BASELINES.index(name.split(":", 1)[0]), name
