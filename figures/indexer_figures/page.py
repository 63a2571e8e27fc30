"""A page: title and subtitle above the axes, legend and notes below, none of it ever clipped."""

from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend

from indexer_figures.lettering import Ruler, distinct
from indexer_figures.words import count, percent, span

NARROW = 3.4  # inches: one column of a paper
WIDE = 7.0  # inches: the text width
DPI = 200
_EDGE = 0.06  # inches of white around everything
_GREY = "#4d4d4d"

Entry = tuple[Artist, str]


def blank(
    width: float, height: float, rows: int = 1, columns: int = 1, **options: Any
) -> tuple[Figure, Any]:
    """A figure of its own canvas, outside pyplot's state, and its axes as a 2-d array.

    width, height: inches that the axes get; `finish` adds room for the words around them.
    """
    figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, **options)
    for ax in axes.flat:
        ax.spines[["top", "right"]].set_visible(False)
    return figure, axes


def titled(figure: Figure, axes: Any, names: Sequence[str], inches: float) -> Iterator[Axes]:
    """The axes of each name, its title set within `inches`; axes that are left over are hidden."""
    ruler = Ruler(figure, 7)
    for ax in axes.flat[len(names) :]:
        ax.set_visible(False)
    for name, ax in zip(names, axes.flat, strict=False):
        title = "\n".join(ruler.wrap(name, inches, 2))
        ax.set_title(title, loc="left", pad=3, parse_math=False)
        yield ax


def finish(
    figure: Figure, title: str, subtitle: str, entries: Sequence[Entry], notes: Sequence[str]
) -> Figure:
    """Put the words around the axes; the figure grows taller by what they need."""
    width, plot_height = figure.get_size_inches()
    room = width - 2 * _EDGE
    bold, plain = Ruler(figure, 8, "bold"), Ruler(figure, 7)
    heading, under = bold.wrap(title, room), plain.wrap(subtitle, room)
    small = [line for note in notes for line in plain.wrap(note, room)]
    legend = _legend(figure, entries, room) if entries else None
    legend_height = _height(legend) + 0.03 if legend else 0.0
    header = len(heading) * bold.line_height + len(under) * plain.line_height + 0.05
    footer = len(small) * plain.line_height + legend_height + 0.03
    height = plot_height + header + footer + 2 * _EDGE
    figure.set_size_inches(width, height)
    top = 1 - _EDGE / height
    left = _EDGE / width
    _write(figure, left, top, heading, fontsize=8, fontweight="bold")
    _write(figure, left, top - len(heading) * bold.line_height / height, under, color=_GREY)
    _write(figure, left, (_EDGE + len(small) * plain.line_height) / height, small, color=_GREY)
    if legend:
        bottom = (_EDGE + len(small) * plain.line_height + 0.03) / height
        legend.set_bbox_to_anchor((left, bottom), transform=figure.transFigure)
    engine = figure.get_layout_engine()
    if engine is not None:
        box = (left, (footer + _EDGE) / height, room / width, plot_height / height)
        engine.set(rect=box, w_pad=0.02, h_pad=0.03, wspace=0.04, hspace=0.02)  # type: ignore[call-arg]
    return figure


def subtitle(table: pd.DataFrame) -> str:
    """What the table is about: target, level, budget (if it is one), tasks."""
    first = table.iloc[0]
    parts = [f"target {first['target']}", f"{first['level']} level"]
    if "budget" in table and table["budget"].nunique() == 1:
        parts.append(f"budget {count(first['budget'], 'key')}")
    parts.append(str(first["task"]))
    return " · ".join(parts)


def trivial_note(table: pd.DataFrame) -> str:
    """How many of the rows saw no more keys than the budget, and what became of them."""
    low, high = table["trivial_share"].min(), table["trivial_share"].max()
    share = percent(low) if low == high else f"{percent(low)} to {percent(high)} (by budget)"
    if bool(table["trivial_kept"].iloc[0]):
        return f"Includes trivial rows (visible keys ≤ budget): {share}."
    return f"Trivial rows (visible keys ≤ budget) left out: {share}."


def rows_note(table: pd.DataFrame, what: str, mark: str = "point") -> str:
    """How many query rows stand behind each mark."""
    rows = table["rows"][table["rows"] > 0]
    noun = "query row" if rows.max() == 1 else "query rows"
    return f"{what}; {span(rows.min(), rows.max())} {noun} per {mark}."


def missing_note(table: pd.DataFrame, measure: str) -> list[str]:
    """Names the selectors that have no value of the measure anywhere."""
    most = table.groupby("selector", observed=True)["rows"].max()
    absent = [str(name) for name in most.index[most == 0]]
    return [f"No {measure} for {', '.join(absent)}."] if absent else []


def _write(figure: Figure, x: float, y: float, lines: Sequence[str], **options: Any) -> None:
    settings = {"fontsize": 7, "va": "top", "ha": "left", "linespacing": 1.15, **options}
    if lines:
        figure.text(x, y, "\n".join(lines), parse_math=False, **settings)


def _legend(figure: Figure, entries: Sequence[Entry], room: float) -> Legend:
    """The legend with the most columns that fits in `room` inches."""
    ruler = Ruler(figure, 7)
    labels = distinct(["\n".join(ruler.wrap(label, room - 0.45, 2)) for _, label in entries])
    for columns in range(min(len(entries), 6), 0, -1):
        legend = _build_legend(figure, [handle for handle, _ in entries], labels, columns)
        if columns == 1 or _width(legend) <= room:
            break
        legend.remove()
    return legend


def _build_legend(
    figure: Figure, handles: Sequence[Artist], labels: Sequence[str], columns: int
) -> Legend:
    # A label that starts with "_" would be dropped: hand over a stand-in, then write the label.
    legend = figure.legend(
        handles, ["x"] * len(handles), ncols=columns, loc="lower left", frameon=False,
        borderpad=0, borderaxespad=0, handlelength=2.2, handletextpad=0.5, columnspacing=1.2,
        labelspacing=0.35, bbox_to_anchor=(0, 0),
    )  # fmt: skip
    legend.set_in_layout(False)
    for text, label in zip(legend.get_texts(), labels, strict=True):
        text.set_parse_math(False)
        text.set_text(label)
    return legend


def _width(legend: Legend) -> float:
    return float(_box(legend).width) / DPI


def _height(legend: Legend) -> float:
    return float(_box(legend).height) / DPI


def _box(legend: Legend) -> Any:
    figure = legend.get_figure(root=True)
    return legend.get_window_extent(figure.canvas.get_renderer())  # type: ignore


def grid(ax: Axes, axis: Any = "both") -> None:
    """Faint lines behind the data."""
    ax.grid(True, axis=axis, zorder=0)
    ax.set_axisbelow(True)
