"""Quality against the precision of the selection: how exact must a top-k be?"""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from indexer_figures.drawing import drawing
from indexer_figures.intervals import mean_intervals
from indexer_figures.outcome import about, need, one_budget, samples_note
from indexer_figures.page import NARROW, blank, finish, grid
from indexer_figures.points import dense_line, draw_points, entries, share_axis
from indexer_figures.scope import DEFAULT, Choice
from indexer_figures.styles import Look, is_baseline, selector_looks
from indexer_figures.words import percent

OUTCOMES = {"replay": "agreement with dense"}


@dataclass(frozen=True)
class QualityByPrecision:
    """Mean quality over mean precision, a point for each selector, at one budget.

    Selectors that differ in their settings alone, as the dial does, are joined by a line.
    """

    title: str = "Quality against precision"
    question: str = "How exact must a selection be before quality falls?"
    columns: tuple[str, ...] = (
        "sample", "selector", "budget", "recall", "quality", "dense", "target", "mode",
    )  # fmt: skip
    shape: str = "Points with 95 % intervals, precision on the x axis, quality on the y axis"

    def table(self, scores: pd.DataFrame, choice: Choice = DEFAULT) -> pd.DataFrame:
        """A row for each selector; `low` and `high` are the interval of `mean` quality."""
        need(scores, self.columns)
        rows = one_budget(scores, choice)
        if choice.selectors is not None:
            rows = rows[rows["selector"].isin(choice.selectors)]
        table = mean_intervals(rows, ["selector", "budget"], "quality")
        precision = mean_intervals(rows, ["selector", "budget"], "recall")
        table[["precision", "precision_low", "precision_high"]] = precision[["mean", "low", "high"]]
        table["dense"] = mean_intervals(rows.assign(all=0), ["all"], "dense")["mean"].iloc[0]
        first = rows.iloc[0]
        table["mode"], table["target"] = first["mode"], first["target"]
        table["outcome"] = OUTCOMES.get(str(first["mode"]), "right answers")
        table["series"] = [_series(name) for name in table["selector"]]
        return table

    @drawing
    def draw(self, table: pd.DataFrame, looks: Mapping[str, Look] | None = None) -> Figure:
        """The picture of `table`; its lines have looks of their own."""
        looks = selector_looks(table["series"])  # one for all settings of the dial's precision
        figure, axes = blank(NARROW, 2.3)
        ax = axes[0, 0]
        dense_line(ax, table["dense"].iloc[0])
        names = draw_points(ax, table.assign(selector=table["series"]), looks, "precision")
        for row in table.to_dict("records"):
            ax.hlines(row["mean"], row["precision_low"], row["precision_high"], linewidth=0.8,
                      color=looks[row["series"]].colour, alpha=0.55, zorder=1.6)  # fmt: skip
        ax.set_xlim(-0.04, 1.04)
        share_axis(ax)
        grid(ax)
        ax.set_xlabel("precision (share of exact keys)")
        ax.set_ylabel(f"{table['outcome'].iloc[0]} (share)")
        subtitle = f"target {table['target'].iloc[0]} · " + about(table, task=False)
        notes = [samples_note(table, "Mean over samples")]
        return finish(figure, self.title, subtitle, entries(names, looks, dense=True), notes)

    def reading(self, table: pd.DataFrame) -> str:
        """The least precise selector that keeps 95 % of dense quality."""
        dense = table["dense"].iloc[0]
        ours = table[~table["selector"].map(is_baseline)]
        kept = ours[ours["mean"] >= 0.95 * dense]
        words = f"Dense: {percent(dense)} {table['outcome'].iloc[0]}"
        if kept.empty:
            return f"{words}; no selector keeps 95 % of that at this budget."
        least = kept.loc[kept["precision"].idxmin()]
        return (
            f"{words}; {least['selector']} keeps {percent(least['mean'])} at a precision of "
            f"{percent(least['precision'])}, the lowest that keeps 95 % of dense, over "
            f"{int(least['samples'])} samples."
        )


def _series(selector: str) -> str:
    """What joins selectors by a line: a dial's other settings, whatever its precision."""
    name, _, settings = selector.partition(":")
    if name != "dial":
        return selector
    others = [part for part in settings.split(",") if "=" in part and "precision=" not in part]
    return ":".join([name, *([",".join(others)] if others else [])])
