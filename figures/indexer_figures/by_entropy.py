"""Recall against the entropy of exact attention: is wide attention harder to select from?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from indexer_figures.curves import Chart, XAxis, draw_curves
from indexer_figures.drawing import drawing
from indexer_figures.errors import FigureError
from indexer_figures.measures import MEASURES
from indexer_figures.page import finish, missing_note, rows_note, subtitle, trivial_note
from indexer_figures.reading import leader
from indexer_figures.scope import COLUMNS, DEFAULT, Choice, choose
from indexer_figures.styles import Look, selector_looks
from indexer_figures.summary import summarise
from indexer_figures.words import count, percent

_BINS = 10
_ROWS_PER_BIN = 5  # fewer bins for few rows: a median of two rows says nothing


@dataclass(frozen=True)
class ByEntropy:
    """Median and p10–p90 recall in bins of entropy, with how many query rows each bin holds.

    `exact` is left out: its recall is 1 whatever the entropy.
    """

    title: str = "Recall against attention entropy"
    question: str = "Do selectors miss more keys where attention is spread out?"
    columns: tuple[str, ...] = (*COLUMNS, "recall", "entropy")
    shape: str = "Lines with p10–p90 bands over bins of entropy in nats, bars with rows per bin"

    def table(self, scores: pd.DataFrame, choice: Choice = DEFAULT) -> pd.DataFrame:
        """A row for each bin and selector; `entropy` is the bin's middle."""
        scope = choose(scores, self.columns, choice)
        exact = scope.rows["selector"].str.split(":", n=1).str[0] == "exact"
        rows = scope.rows[~exact & scope.rows["entropy"].notna()]
        if rows["recall"].notna().sum() == 0:
            raise FigureError(
                "only 'exact' has recall and entropy here, and its recall is 1 by definition: "
                "score another selector"
            )
        edges = _edges(rows)
        inner = np.searchsorted(edges, rows["entropy"].to_numpy(float), side="right") - 1
        rows = rows.assign(bin=np.clip(inner, 0, len(edges) - 2))
        table = summarise(rows, ["budget", "bin", "selector"], "recall", trivial=True)
        table["entropy_low"] = edges[table["bin"]]
        table["entropy_high"] = edges[table["bin"] + 1]
        table["entropy"] = (table["entropy_low"] + table["entropy_high"]) / 2
        queries = rows.groupby(["bin", "selector"]).size().groupby("bin").max()
        table["bin_rows"] = table["bin"].map(queries)
        return scope.label(table)

    @drawing
    def draw(self, table: pd.DataFrame, looks: Mapping[str, Look] | None = None) -> Figure:
        """The picture of `table`."""
        looks = looks or selector_looks(table["selector"])
        label = "entropy of exact attention (nats)"
        chart = Chart("entropy", label, MEASURES["recall"].axis, _entropy_axis(table), counts=True)
        figure, entries = draw_curves(table, looks, chart)
        notes = [rows_note(table, "Median of each bin of entropy"), trivial_note(table)]
        notes += missing_note(table, "recall")
        return finish(figure, self.title, subtitle(table), entries, notes)

    def reading(self, table: pd.DataFrame) -> str:
        """The best selector's median recall in its lowest and its highest bin."""
        known = table[table["rows"] > 0]
        weighted = known.assign(total=known["mean"] * known["rows"])
        overall = weighted.groupby("selector", as_index=False)[["total", "rows"]].sum()
        overall["mean"] = overall["total"] / overall["rows"]
        name = leader(overall, "mean")["selector"]
        own = known[known["selector"] == name].sort_values("bin")
        words = f"{name}: median recall {_bin(own.iloc[0])}"
        if len(own) > 1:
            words += f" and {_bin(own.iloc[-1])}"
        return words + "."


def _bin(row: pd.Series) -> str:
    low, high = row["entropy_low"], row["entropy_high"]
    return f"{percent(row['median'])} at {low:.2f}–{high:.2f} nats ({count(row['rows'], 'row')})"


def _edges(rows: pd.DataFrame) -> NDArray[np.float64]:
    """Edges of equal-width bins over the entropies seen."""
    low, high = float(rows["entropy"].min()), float(rows["entropy"].max())
    if high - low < 1e-9:
        return np.array([low - 0.05, high + 0.05])
    most = int(rows.groupby("selector").size().max())
    return np.linspace(low, high, int(np.clip(most // _ROWS_PER_BIN, 1, _BINS)) + 1)


def _entropy_axis(table: pd.DataFrame) -> XAxis:
    low, high = table["entropy_low"].min(), table["entropy_high"].max()
    pad = 0.03 * (high - low)

    def dress(ax: Axes, values: Sequence[float], inches: float) -> None:
        ax.set_xlim(low - pad, high + pad)
        ax.xaxis.set_major_locator(MaxNLocator(max(2, int(inches / 0.45))))

    return dress
