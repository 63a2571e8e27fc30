"""Means with their intervals, joined by a line for each selector."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from indexer_figures.curves import handle
from indexer_figures.page import Entry
from indexer_figures.styles import Look

_DENSE = "#b0b0b0"


def draw_points(ax: Axes, table: pd.DataFrame, looks: Mapping[str, Look], x: str) -> list[str]:
    """Every selector of the table over column `x`; returns their names in the order of the legend.

    table: selector, x, mean, low, high.
    """
    drawn = set(table["selector"])
    names = [name for name in looks if name in drawn]
    for name in reversed(names):
        look, rows = looks[name], table[table["selector"] == name].sort_values(x)
        depth = 2.0 + 0.01 * look.index if not look.baseline else 1.5
        at = rows[x].to_numpy(float)
        known = np.isfinite(rows["low"].to_numpy(float))
        ax.vlines(
            at[known], rows["low"][known], rows["high"][known], color=look.colour, alpha=0.55,
            linewidth=0.8, zorder=depth - 0.4,
        )  # fmt: skip
        ax.plot(
            at, rows["mean"], color=look.colour, linestyle=look.line, marker=look.marker,
            label=name, zorder=depth, markerfacecolor="none", clip_on=False,
        )  # fmt: skip
    return names


def entries(names: list[str], looks: Mapping[str, Look], *, dense: bool) -> list[Entry]:
    """The legend of `draw_points`, and of the line of dense attention if there is one."""
    found: list[Entry] = [(handle(looks[name]), name) for name in names]
    bar = Line2D([], [], color="#777777", linewidth=0.8, marker="|", linestyle="none", markersize=7)
    found.append((bar, "95 % interval"))
    if dense:
        found.append((Line2D([], [], color=_DENSE, linewidth=1.6), "dense attention"))
    return found


def dense_line(ax: Axes, level: float) -> None:
    """Where dense attention lies."""
    ax.axhline(level, color=_DENSE, linewidth=1.6, zorder=1.1, label="_dense")


def share_axis(ax: Axes) -> None:
    """The y axis of a share, with room for marks at both ends."""
    ax.set_ylim(-0.04, 1.04)
    ax.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
