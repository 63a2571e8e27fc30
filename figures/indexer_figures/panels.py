"""A table that a study made: means with intervals over one column, in panels side by side."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from indexer_figures.drawing import drawing
from indexer_figures.errors import FigureError
from indexer_figures.intervals import mean_intervals
from indexer_figures.outcome import need, samples_note
from indexer_figures.page import NARROW, WIDE, blank, finish, grid, titled
from indexer_figures.points import draw_points, entries
from indexer_figures.scope import DEFAULT, Choice
from indexer_figures.styles import Look, selector_looks
from indexer_figures.ticks import layer_axis, ratio_axis

MOST = 3


@dataclass(frozen=True)
class Panels:
    """Mean of `value` over `x`, a line for each `selector`, a panel for each of `panel`.

    x_label: of every panel; a panel's own name says what its y axis counts.
    ratio:   x is a share of the keys, drawn on a log axis; else a layer.
    zero:    above, below: what it means that a mean lies there, where 0 is a border.
    """

    title: str
    question: str
    x_label: str
    ratio: bool = False
    zero: tuple[str, str] | None = None
    columns: tuple[str, ...] = ("sample", "panel", "selector", "x", "value")

    @property
    def shape(self) -> str:
        """Points with intervals over the x axis."""
        return f"Lines with 95 % intervals, {self.x_label} on the x axis, a panel for each measure"

    def table(self, scores: pd.DataFrame, choice: Choice = DEFAULT) -> pd.DataFrame:
        """A row for each panel, line and x; `low` and `high` are the interval of `mean`."""
        need(scores, self.columns)
        table = mean_intervals(scores, ["panel", "selector", "x"], "value")
        if table.empty:
            raise FigureError("the table holds no number to draw: every value is NaN")
        return table

    @drawing
    def draw(self, table: pd.DataFrame, looks: Mapping[str, Look] | None = None) -> Figure:
        """The picture of `table`."""
        looks = looks or selector_looks(table["selector"])
        panels = sorted(table["panel"].unique())
        columns = min(len(panels), MOST)
        rows = -(-len(panels) // columns)
        width = NARROW if columns == 1 else WIDE
        figure, axes = blank(width, 2.2 if rows == 1 else 1.9 * rows, rows, columns)
        names = set[str]()
        for number, ax in enumerate(titled(figure, axes, panels, width / columns - 0.5)):
            own = table[table["panel"] == panels[number]]
            names |= set(draw_points(ax, own, looks, "x"))
            self._axes(ax, own, width / columns - 0.75)
        notes = [samples_note(table, "Mean over samples")]
        if self.zero:
            notes.append(f"Above 0: {self.zero[0]}; below: {self.zero[1]}.")
        legend = entries([name for name in looks if name in names], looks, dense=False)
        return finish(figure, self.title, self.question, legend, notes)

    def reading(self, table: pd.DataFrame) -> str:
        """Each panel's mean at its smallest and largest x, of the line that comes first."""
        parts = []
        for panel, own in table.groupby("panel"):
            name = next(iter(selector_looks(own["selector"])))
            line = own[own["selector"] == name].sort_values("x")
            ends = [line.iloc[0], line.iloc[-1]] if len(line) > 1 else [line.iloc[0]]
            values = " and ".join(f"{row['mean']:.3g} at {self._at(row['x'])}" for row in ends)
            parts.append(f"{panel}, {name}: {values}")
        return "; ".join(parts) + "."

    def _axes(self, ax: Axes, table: pd.DataFrame, inches: float) -> None:
        if self.ratio:
            ratio_axis(ax, table["x"], inches)
        else:
            layer_axis(ax, sorted(int(value) for value in table["x"].unique()), inches)
        if self.zero:
            ax.axhline(0, color="#b0b0b0", linewidth=1.0, zorder=1.1)
        ends = table[["mean", "low", "high"]].to_numpy()
        low, high = min(0.0, np.nanmin(ends)), max(0.0, np.nanmax(ends))
        pad = 0.06 * (high - low) or 0.05
        ax.set_ylim(low - pad, high + pad)
        ax.yaxis.set_major_locator(MaxNLocator(5))
        grid(ax)
        ax.set_xlabel(self.x_label)

    def _at(self, x: float) -> str:
        return f"{100 * x:.3g} %" if self.ratio else f"layer {int(x)}"
