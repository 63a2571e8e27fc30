"""Recall or mass in each layer: is a selector worse in some of them?"""

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
from indexer_figures.ticks import layer_axis
from indexer_figures.words import count, percent


@dataclass(frozen=True)
class ByLayer:
    """Median and p10–p90 of a measure in each layer, a line for each selector."""

    measure: str
    shape: str = "Lines with p10–p90 bands, layer on the x axis"

    @property
    def title(self) -> str:
        """A few words, drawn above the axes."""
        return f"{MEASURES[self.measure].title} by layer"

    @property
    def question(self) -> str:
        """The question that the figure answers."""
        return f"In which layers does a selector lose {self.measure}?"

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the score table that it reads."""
        return (*COLUMNS, "layer", self.measure)

    def table(self, scores: pd.DataFrame, choice: Choice = DEFAULT) -> pd.DataFrame:
        """A row for each selector and layer; `overall_*` are of the selector's every layer."""
        scope = choose(scores, self.columns, choice)
        layers = summarise(scope.rows, ["budget", "selector", "layer"], self.measure, trivial=True)
        overall = summarise(scope.rows, ["selector"], self.measure, trivial=True)
        overall = overall.rename(columns={"median": "overall_median", "rows": "overall_rows"})
        overall = overall[["selector", "overall_median", "overall_rows"]]
        return scope.label(layers.merge(overall, on="selector"))

    @drawing
    def draw(self, table: pd.DataFrame, looks: Mapping[str, Look] | None = None) -> Figure:
        """The picture of `table`."""
        looks = looks or selector_looks(table["selector"])
        chart = Chart("layer", "layer", MEASURES[self.measure].axis, layer_axis)
        figure, entries = draw_curves(table, looks, chart)
        notes = [rows_note(table, "Median over samples, heads and queries"), trivial_note(table)]
        notes += missing_note(table, self.measure)
        return finish(figure, self.title, subtitle(table), entries, notes)

    def reading(self, table: pd.DataFrame) -> str:
        """The best selector's overall median, and its worst layer."""
        best = leader(table, "overall_median")
        layers = table[(table["selector"] == best["selector"]) & (table["rows"] > 0)]
        worst = layers.loc[layers["median"].idxmin()]
        kept = MEASURES[self.measure].sentence.format(percent(best["overall_median"]))
        words = (
            f"{best['selector']} {kept} at {count(best['budget'], 'key')}, "
            f"median over {count(best['overall_rows'], 'row')}"
        )
        if (chance := random_at(table, "overall_median")) is not None:
            words += f" (random: {percent(chance)})"
        if layers["median"].nunique() > 1:
            words += f"; worst layer {int(worst['layer'])} ({percent(worst['median'])})"
        elif len(layers) > 1:
            words += "; the same in every layer"
        return words + "."
