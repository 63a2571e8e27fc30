"""Quality against the share of keys that a query may read, task by task."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from indexer_figures.drawing import drawing
from indexer_figures.errors import FigureError
from indexer_figures.intervals import mean_intervals
from indexer_figures.outcome import (
    ALL_LAYERS,
    COLUMNS,
    DENSE,
    about,
    label,
    outcome_rows,
    samples_note,
)
from indexer_figures.page import NARROW, WIDE, blank, finish, grid, titled
from indexer_figures.points import dense_line, draw_points, entries, share_axis
from indexer_figures.reading import leader
from indexer_figures.scope import DEFAULT, Choice
from indexer_figures.styles import Look, selector_looks
from indexer_figures.ticks import ratio_axis
from indexer_figures.words import percent


@dataclass(frozen=True)
class QualityByRatio:
    """Mean quality over budget / tokens, a panel for each task, a line for each selector."""

    title: str = "Quality against budget ratio"
    question: str = "What share of the keys does each task need?"
    columns: tuple[str, ...] = (*COLUMNS, "score", "agreement")
    shape: str = "Lines with 95 % intervals, budget over tokens on a logarithmic x axis, by task"

    def table(self, scores: pd.DataFrame, choice: Choice = DEFAULT) -> pd.DataFrame:
        """A row for each task, selector and budget; `ratio` is the mean over its samples."""
        rows = outcome_rows(scores, self.columns, choice)
        rows = rows[rows["layer"] == ALL_LAYERS]
        dense = rows[rows["selector"] == DENSE].groupby("task")["quality"].mean()
        rows = rows[rows["selector"] != DENSE]
        if rows.empty:
            raise FigureError("only the dense model ran here: run quality with a selector")
        by = ["task", "selector", "budget"]
        rows = rows.assign(ratio=rows["budget"] / rows["length"])
        table = mean_intervals(rows, by, "quality")
        table["ratio"] = mean_intervals(rows, by, "ratio")["mean"]
        table["dense"] = table["task"].map(dense)
        return label(table, rows)

    @drawing
    def draw(self, table: pd.DataFrame, looks: Mapping[str, Look] | None = None) -> Figure:
        """The picture of `table`."""
        looks = looks or selector_looks(table["selector"])
        tasks = sorted(table["task"].unique())
        columns = 2 if len(tasks) == 4 else min(len(tasks), 3)
        rows = -(-len(tasks) // columns)
        width = NARROW if columns == 1 else WIDE
        figure, axes = blank(width, 2.1 if rows == 1 else 1.7 * rows, rows, columns, sharey=True)
        names = list[str]()
        for number, ax in enumerate(titled(figure, axes, tasks, width / columns - 0.5)):
            own = table[table["task"] == tasks[number]]
            dense_line(ax, own["dense"].iloc[0])
            names += [n for n in draw_points(ax, own, looks, "ratio") if n not in names]
            ratio_axis(ax, own["ratio"], width / columns - 0.7)
            share_axis(ax)
            grid(ax)
            ax.set_xlabel("budget over tokens of the prompt")
            if number % columns == 0:
                ax.set_ylabel(_split(f"{table['outcome'].iloc[0]} (share)"))
        notes = [samples_note(table, "Mean over samples")]
        shown = [name for name in looks if name in names]
        legend = entries(shown, looks, dense=True)
        return finish(figure, self.title, about(table, task=False), legend, notes)

    def reading(self, table: pd.DataFrame) -> str:
        """The best selector at the smallest budget, task by task, for the three first tasks."""
        parts = []
        for task, own in list(table.groupby("task"))[:3]:
            best = leader(own[own["budget"] == own["budget"].min()], "mean")
            parts.append(
                f"{task}: {best['selector']} {percent(best['mean'])} with {percent(best['ratio'])} "
                f"of the keys (dense {percent(best['dense'])})"
            )
        return "; ".join(parts) + "."


def _split(words: str) -> str:
    return words.replace(" or ", "\nor ")
