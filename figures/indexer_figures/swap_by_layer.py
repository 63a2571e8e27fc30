"""What selecting in a single layer costs: which layers can do with few keys?"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from indexer_figures.drawing import drawing
from indexer_figures.errors import FigureError
from indexer_figures.intervals import mean_intervals
from indexer_figures.outcome import (
    ALL_LAYERS,
    COLUMNS,
    about,
    label,
    need,
    one_budget,
    outcome_rows,
    samples_note,
)
from indexer_figures.page import NARROW, blank, finish, grid
from indexer_figures.points import draw_points, entries
from indexer_figures.scope import DEFAULT, Choice
from indexer_figures.styles import Look, selector_looks
from indexer_figures.ticks import layer_axis

FLOOR = 1e-7  # nats; below it lies rounding


@dataclass(frozen=True)
class SwapByLayer:
    """Mean KL to the dense model when one layer selects and all others are dense."""

    title: str = "KL to dense by swapped layer"
    question: str = "What does selecting in one layer alone cost?"
    columns: tuple[str, ...] = (*COLUMNS, "score", "agreement", "kl", "delta_nll")
    shape: str = "Points with 95 % intervals, swapped layer on the x axis, KL on a log y axis"

    def table(self, scores: pd.DataFrame, choice: Choice = DEFAULT) -> pd.DataFrame:
        """A row for each selector and layer; `plotted` puts what is under FLOOR on it."""
        need(scores, self.columns)
        forced = scores[scores["kl"].notna()]
        if forced.empty:
            raise FigureError("no row has a KL: run quality in mode replay")
        rows = outcome_rows(forced, self.columns, choice, ("replay",))
        rows = rows[rows["layer"] != ALL_LAYERS]
        if rows.empty:
            raise FigureError("no layer was swapped: run quality with --swap-layers")
        rows = one_budget(rows, choice)
        by = ["selector", "budget", "layer"]
        finite = rows.assign(kl=rows["kl"].replace(np.inf, np.nan))
        table = mean_intervals(finite, by, "kl")
        table["delta_nll"] = mean_intervals(finite, by, "delta_nll")["mean"]
        return label(table, rows)

    @drawing
    def draw(self, table: pd.DataFrame, looks: Mapping[str, Look] | None = None) -> Figure:
        """The picture of `table`."""
        looks = looks or selector_looks(table["selector"])
        figure, axes = blank(NARROW, 2.3)
        ax = axes[0, 0]
        plotted = table.assign(**{n: table[n].clip(lower=FLOOR) for n in ("mean", "low", "high")})
        names = draw_points(ax, plotted, looks, "layer")
        ax.set_yscale("log")
        low, high = plotted["mean"].min(), max(plotted["mean"].max(), plotted["high"].max())
        low, high = np.floor(np.log10(low)), np.ceil(np.log10(high) + 1e-9)
        ax.set_ylim(10 ** (low - 0.15), 10 ** (max(high, low + 1) + 0.15))
        step = int(max(1, -(-(high - low) // 6)))
        ticks = [10.0**power for power in range(int(low), int(max(high, low + 1)) + 1, step)]
        ax.set_yticks(ticks, [f"{tick:g}" if tick >= 1e-3 else f"{tick:.0e}" for tick in ticks])
        ax.set_yticks([], minor=True)
        layer_axis(ax, sorted(table["layer"].unique()), NARROW - 0.75)
        grid(ax, "y")
        ax.set_xlabel("the only layer that selects")
        ax.set_ylabel("KL to dense (nats per token)")
        notes = [samples_note(table, "Mean over samples")]
        if (table["mean"] < FLOOR).any():
            notes.append(f"Under {FLOOR:.0e} nats: drawn there.")
        legend = entries(names, looks, dense=False)
        return finish(figure, self.title, about(table), legend, notes)

    def reading(self, table: pd.DataFrame) -> str:
        """For the first selector that is no baseline: the dearest and the cheapest layer."""
        name = selector_looks(table["selector"])
        own = table[table["selector"] == next(iter(name))]
        dear, cheap = own.loc[own["mean"].idxmax()], own.loc[own["mean"].idxmin()]
        words = f"{dear['selector']}: {dear['mean']:.2g} nats per token in layer {dear['layer']}"
        if len(own) > 1:
            words += f" (most) and {cheap['mean']:.2g} in layer {cheap['layer']} (least)"
        return f"{words}, over {int(dear['samples'])} samples."
