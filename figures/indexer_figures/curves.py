"""Lines with p10–p90 bands: all in one panel while few, a panel for each selector when many."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from indexer_figures.lettering import Ruler
from indexer_figures.page import NARROW, WIDE, Entry, blank, grid
from indexer_figures.styles import Look

OVERLAY = 4  # more selectors than this (baselines aside) would bury their bands in each other
_COLUMNS = 3

XAxis = Callable[[Axes, Sequence[Any], float], None]


@dataclass(frozen=True)
class Chart:
    """What curves need besides their table: the columns' names, in the reader's words."""

    x: str
    x_label: str
    y_label: str
    x_axis: XAxis
    counts: bool = False


def draw_curves(
    table: pd.DataFrame, looks: Mapping[str, Look], chart: Chart
) -> tuple[Figure, list[Entry]]:
    """Median and p10–p90 of each selector over `chart.x`; returns the figure and its legend.

    table: columns selector, chart.x, median, p10, p90, rows; NaN leaves a gap.
    """
    drawn = set(table["selector"][table["rows"] > 0])
    names = [name for name in looks if name in drawn]
    focus = [name for name in names if not looks[name].baseline]
    if len(focus) <= OVERLAY:
        return _overlay(table, looks, chart, names)
    return _small_multiples(table, looks, chart, focus, [n for n in names if n not in focus])


def _overlay(
    table: pd.DataFrame, looks: Mapping[str, Look], chart: Chart, names: Sequence[str]
) -> tuple[Figure, list[Entry]]:
    ratios = {"height_ratios": [3, 1]} if chart.counts else {}
    figure, axes = blank(
        NARROW, 2.9 if chart.counts else 2.1, 1 + chart.counts, sharex="col", gridspec_kw=ratios
    )
    main, bottom = axes[0, 0], axes[-1, 0]
    # Bands of the baselines would turn the panel grey; alone they are all there is to show.
    banded = [name for name in names if not looks[name].baseline] or names
    for name in reversed(names):
        rows = table[table["selector"] == name]
        _curve(main, rows, chart, name, looks[name], band=name in banded)
    _dress(main, table, chart)
    if chart.counts:
        _count_bars(bottom, table, chart)
    main.set_ylabel(chart.y_label)
    chart.x_axis(bottom, sorted(table[chart.x].unique()), NARROW - 0.75)
    bottom.set_xlabel(chart.x_label)
    figure.align_ylabels()
    return figure, [(handle(looks[name]), name) for name in names] + [_band_entry("#777777")]


def _small_multiples(
    table: pd.DataFrame,
    looks: Mapping[str, Look],
    chart: Chart,
    focus: Sequence[str],
    baselines: Sequence[str],
) -> tuple[Figure, list[Entry]]:
    panels = len(focus) + chart.counts
    rows = -(-panels // _COLUMNS)
    figure, axes = blank(WIDE, 1.55 * rows + 0.15, rows, _COLUMNS, sharex=True)
    ruler = Ruler(figure, 7)
    xs = sorted(table[chart.x].unique())
    for ax, name in zip(axes.flat, focus, strict=False):
        for other in baselines:
            _curve(ax, table[table["selector"] == other], chart, other, looks[other], band=False)
        _curve(ax, table[table["selector"] == name], chart, name, looks[name], band=True)
        _dress(ax, table, chart)
        title = "\n".join(ruler.wrap(name, WIDE / _COLUMNS - 0.5, 2))
        ax.set_title(title, loc="left", pad=3, parse_math=False)
    if chart.counts:
        _count_bars(axes.flat[len(focus)], table, chart)
    for ax in axes.flat[panels:]:
        ax.set_visible(False)
    for index, ax in enumerate(axes.flat[:panels]):
        chart.x_axis(ax, xs, WIDE / _COLUMNS - 0.6)
        ax.tick_params(labelbottom=index + _COLUMNS >= panels)
        if index + _COLUMNS >= panels:
            ax.set_xlabel(chart.x_label)
    for index, ax in enumerate(axes.flat[: len(focus)]):
        ax.tick_params(labelleft=index % _COLUMNS == 0)
        if index % _COLUMNS == 0:
            ax.set_ylabel(chart.y_label)
    return figure, [(handle(looks[name]), name) for name in baselines] + [_band_entry("#777777")]


def _curve(
    ax: Axes, rows: pd.DataFrame, chart: Chart, name: str, look: Look, *, band: bool
) -> None:
    rows = rows.sort_values(chart.x)
    x = rows[chart.x].to_numpy(float)
    low, high = rows["p10"].to_numpy(float), rows["p90"].to_numpy(float)
    depth = 2.0 + 0.01 * look.index if not look.baseline else 1.5
    ax.plot(
        x, rows["median"], color=look.colour, linestyle=look.line, marker=look.marker,
        label=name, zorder=depth, markevery=_marked(len(x), look.index),
        markerfacecolor="none", clip_on=False,  # hollow: shows a marker underneath
    )  # fmt: skip
    if not band:
        return
    ax.fill_between(x, low, high, color=look.colour, alpha=0.13, linewidth=0, zorder=depth - 1)
    alone = _alone(np.isfinite(low)) & (rows["rows"].to_numpy() > 1)
    ax.vlines(x[alone], low[alone], high[alone], color=look.colour, alpha=0.5, zorder=depth - 1)


def _alone(known: np.ndarray[Any, np.dtype[np.bool_]]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Points with no neighbour to span a band with."""
    padded = np.concatenate([[False], known, [False]])
    return known & ~padded[:-2] & ~padded[2:]


def _marked(points: int, index: int) -> Any:
    """Every point while few; else about eight, shifted so that lines don't mark the same ones."""
    if points <= 16:
        return None
    step = points // 8
    return (index * 3 % step, step)


def _dress(ax: Axes, table: pd.DataFrame, chart: Chart) -> None:
    low = float(table["p10"].min())
    bottom = 0.0 if low < 0.5 else np.floor(low * 10 - 1e-9) / 10
    ax.set_ylim(bottom - 0.02 * (1 - bottom), 1 + 0.02 * (1 - bottom))
    grid(ax, "y")


def _count_bars(ax: Axes, table: pd.DataFrame, chart: Chart) -> None:
    bins = table.groupby("bin").first()
    high, low = bins["entropy_high"].to_numpy(), bins["entropy_low"].to_numpy()
    ax.bar(low, bins["bin_rows"], width=high - low, align="edge", color="#c8c8c8",
           edgecolor="white", linewidth=0.4)  # fmt: skip
    ax.set_ylabel("query rows")
    ax.locator_params(axis="y", nbins=3, integer=True)


def _band_entry(colour: str) -> Entry:
    return Patch(color=colour, alpha=0.25, linewidth=0), "p10–p90"


def handle(look: Look, *, line: bool = True) -> Artist:
    """The sample of a selector's look that stands in a legend."""
    return Line2D(
        [], [], color=look.colour, linestyle=look.line if line else "none", marker=look.marker,
        markerfacecolor="none" if line else look.colour,
    )  # fmt: skip
