"""Recall or mass against what a selector reads or multiplies: what does fidelity cost?"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from indexer_figures.axes_cost import cost_axis, place_costs
from indexer_figures.axes_logit import logit_axis, squeeze
from indexer_figures.curves import handle
from indexer_figures.drawing import drawing
from indexer_figures.errors import FigureError
from indexer_figures.measures import MEASURES
from indexer_figures.page import (
    NARROW,
    WIDE,
    Entry,
    blank,
    finish,
    grid,
    rows_note,
    subtitle,
    trivial_note,
)
from indexer_figures.points import share_axis
from indexer_figures.scope import COLUMNS, DEFAULT, Choice, choose
from indexer_figures.styles import Look, is_baseline, selector_looks
from indexer_figures.summary import summarise
from indexer_figures.words import count, percent, quantity

_SPREAD = ("mean", "p10", "p90")


@dataclass(frozen=True)
class Cost:
    """A cost column in words."""

    title: str
    axis: str
    unit: str


COSTS = {
    "bytes_read": Cost("bytes read", "bytes read per query and layer", "B"),
    "multiply_adds": Cost("multiply-adds", "multiply-adds per query and layer", "MAC"),
}


@dataclass(frozen=True)
class ByCost:
    """Mean recall or mass (p10–p90 as a thin line) over mean cost, with the Pareto line."""

    cost: str
    measure: str = "recall"

    @property
    def shape(self) -> str:
        """What is drawn on which axis."""
        scale = "logit" if self.logit else "linear"
        return f"Scatter plot, cost on a logarithmic x axis, {self.measure} on a {scale} y axis"

    @property
    def logit(self) -> bool:
        """Whether the ends of the y axis are stretched: recall can be 0.999 in every row, mass
        depends on the row whatever the selector does."""
        return self.measure == "recall"

    @property
    def title(self) -> str:
        """A few words, drawn above the axes."""
        return f"{MEASURES[self.measure].title} against {COSTS[self.cost].title}"

    @property
    def question(self) -> str:
        """The question that the figure answers."""
        return f"Which selectors give the most {self.measure} for their {COSTS[self.cost].title}?"

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the score table that it reads."""
        return (*COLUMNS, self.measure, self.cost)

    def table(self, scores: pd.DataFrame, choice: Choice = DEFAULT) -> pd.DataFrame:
        """A row for each selector; `plotted_*` are the numbers after the axes' ends took effect.

        Recall 1 (and 0) lies at infinity on a logit axis: `plotted_*` puts it at the axis' end.
        Cost 0 has no logarithm: it goes left of the smallest cost. NaN cost: not plotted.
        """
        scope = choose(scores, self.columns, choice)
        table = summarise(scope.rows, ["budget", "selector"], self.measure, trivial=True)
        costs = scope.rows[self.cost].astype(float).replace([np.inf, -np.inf], np.nan).sort_values()
        table["cost"] = table["selector"].map(costs.groupby(scope.rows["selector"]).mean())
        table.loc[table["cost"] < 0, "cost"] = np.nan
        if not (table["cost"].notna() & (table["rows"] > 0)).any():
            raise FigureError(
                f"no selector states a finite {self.cost!r}: a selector's cost model gives it"
            )
        table["plotted_cost"] = place_costs(table["cost"])
        shares = table[list(_SPREAD)]
        shares = squeeze(shares, int(table["rows"].max())) if self.logit else shares
        for name, share in shares.items():
            table[f"plotted_{name}"] = share
        table["pareto"] = _pareto(table)
        return scope.label(table)

    @drawing
    def draw(self, table: pd.DataFrame, looks: Mapping[str, Look] | None = None) -> Figure:
        """The picture of `table`."""
        looks = looks or selector_looks(table["selector"])
        shown = table[table["plotted_cost"].notna() & (table["rows"] > 0)].set_index("selector")
        names = [name for name in looks if name in shown.index]
        width = NARROW if len(names) <= 7 else WIDE
        figure, axes = blank(width, 2.3)
        ax = axes[0, 0]
        _pareto_line(ax, shown)
        for name in reversed(names):
            _point(ax, shown.loc[name], name, looks[name])
        if self.logit:
            logit_axis(ax, table, _SPREAD)
        else:
            share_axis(ax)
        cost_axis(ax, table, COSTS[self.cost].unit, width - 0.75)
        grid(ax)
        ax.set_xlabel(COSTS[self.cost].axis)
        ax.set_ylabel(f"mean {MEASURES[self.measure].axis}")
        entries: list[Entry] = [(handle(looks[name], line=False), name) for name in names]
        entries.append((Line2D([], [], color="#999999", linewidth=0.9), "best for its cost"))
        notes = [rows_note(table, "Mean, with a thin line from p10 to p90"), trivial_note(table)]
        if absent := sorted(set(table["selector"]) - set(names)):
            notes.append(f"No {COSTS[self.cost].title} stated for {', '.join(absent)}.")
        return finish(figure, self.title, subtitle(table), entries, notes)

    def reading(self, table: pd.DataFrame) -> str:
        """The cheapest selector close to the best one."""
        known = table[table["cost"].notna() & (table["rows"] > 0)]
        ours = known[~known["selector"].map(is_baseline)]
        pool = ours if len(ours) else known
        best = pool.sort_values(["mean", "cost"], ascending=[False, True]).iloc[0]
        unit = COSTS[self.cost].unit
        words = (
            f"{best['selector']} has the highest mean {self.measure}, {percent(best['mean'])} "
            f"(p10 {percent(best['p10'])}), at {quantity(best['cost'], unit)} per query and layer"
        )
        near = pool[(pool["mean"] >= best["mean"] - 0.01) & (pool["cost"] < best["cost"])]
        if len(near):
            cheap = near.loc[near["cost"].idxmin()]
            words += (
                f"; {cheap['selector']} comes within one point ({percent(cheap['mean'])}) "
                f"for {quantity(cheap['cost'], unit)}"
            )
        return f"{words}; budget {count(best['budget'], 'key')}."


def _pareto(table: pd.DataFrame) -> list[bool]:
    """Whether no other selector is at least as good on both axes and better on one."""
    known = table["cost"].notna() & (table["rows"] > 0)
    flags = []
    for own, cost, share in zip(known, table["cost"], table["mean"], strict=True):
        as_good = known & (table["cost"] <= cost) & (table["mean"] >= share)
        better = as_good & ((table["cost"] < cost) | (table["mean"] > share))
        flags.append(bool(own and not better.any()))
    return flags


def _pareto_line(ax: Axes, shown: pd.DataFrame) -> None:
    front = shown[shown["pareto"].astype(bool)].sort_values(["plotted_cost", "plotted_mean"])
    ax.plot(
        front["plotted_cost"], front["plotted_mean"], drawstyle="steps-post", color="#999999",
        linewidth=0.9, zorder=1.2, label="_pareto",
    )  # fmt: skip


def _point(ax: Axes, row: pd.Series, name: str, look: Look) -> None:
    cost = row["plotted_cost"]
    ax.vlines(cost, row["plotted_p10"], row["plotted_p90"], color=look.colour, alpha=0.45,
              linewidth=0.8, zorder=1.5)  # fmt: skip
    ax.plot([cost], [row["plotted_mean"]], color=look.colour, marker=look.marker, markersize=4.5,
            linestyle="none", label=name, zorder=2 + 0.01 * look.index, clip_on=False)  # fmt: skip
