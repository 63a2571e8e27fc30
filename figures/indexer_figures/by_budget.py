"""Recall or mass against the budget: how many keys are enough?"""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd
from matplotlib.figure import Figure

from indexer_figures.curves import Chart, draw_curves
from indexer_figures.drawing import drawing
from indexer_figures.measures import MEASURES
from indexer_figures.page import finish, missing_note, rows_note, subtitle, trivial_note
from indexer_figures.reading import leader, random_at
from indexer_figures.scope import COLUMNS, DEFAULT, Choice, choose
from indexer_figures.styles import Look, selector_looks
from indexer_figures.summary import summarise
from indexer_figures.ticks import budget_axis
from indexer_figures.words import count, percent


@dataclass(frozen=True)
class ByBudget:
    """Median and p10–p90 of a measure at each budget, a line for each selector."""

    measure: str
    shape: str = "Lines with p10–p90 bands, budget in keys on a base-2 logarithmic x axis"

    @property
    def title(self) -> str:
        """A few words, drawn above the axes."""
        return f"{MEASURES[self.measure].title} against budget"

    @property
    def question(self) -> str:
        """The question that the figure answers."""
        return f"How does {self.measure} grow with the keys allowed per query?"

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the score table that it reads."""
        return (*COLUMNS, self.measure)

    def table(self, scores: pd.DataFrame, choice: Choice = DEFAULT) -> pd.DataFrame:
        """A row for each selector and budget; the share of trivial rows is the budget's own."""
        scope = choose(scores, self.columns, choice, one_budget=False)
        table = summarise(scope.rows, ["selector", "budget"], self.measure, trivial=True)
        table["trivial_share"] = table["budget"].map(scope.share_at_budget)
        return scope.label(table)

    @drawing
    def draw(self, table: pd.DataFrame, looks: Mapping[str, Look] | None = None) -> Figure:
        """The picture of `table`."""
        looks = looks or selector_looks(table["selector"])
        axis = MEASURES[self.measure].axis
        chart = Chart("budget", "budget (keys per query)", axis, budget_axis)
        figure, entries = draw_curves(table, looks, chart)
        over = "Median over samples, layers, heads and queries"
        notes = [rows_note(table, over), trivial_note(table)]
        notes += missing_note(table, self.measure)
        return finish(figure, self.title, subtitle(table), entries, notes)

    def reading(self, table: pd.DataFrame) -> str:
        """What the best selector reaches with the smallest and the largest budget."""
        largest = table[table["budget"] == table.loc[table["rows"] > 0, "budget"].max()]
        best = leader(largest, "median")
        own = table[(table["selector"] == best["selector"]) & (table["rows"] > 0)]
        first = own.loc[own["budget"].idxmin()]
        words = f"At {count(best['budget'], 'key')} {best['selector']} "
        words += MEASURES[self.measure].sentence.format(percent(best["median"]))
        words += f", median over {count(best['rows'], 'row')}"
        if (chance := random_at(largest, "median")) is not None:
            words += f" (random: {percent(chance)})"
        if len(own) > 1:
            words += f"; at {count(first['budget'], 'key')}, {percent(first['median'])}"
        return words + "."
