"""Quality against the entropy of a sample's attention: does narrow attention bear few keys?"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from indexer_figures.drawing import drawing
from indexer_figures.errors import FigureError
from indexer_figures.intervals import mean_intervals
from indexer_figures.outcome import (
    ALL_LAYERS,
    COLUMNS,
    DENSE,
    about,
    label,
    one_budget,
    outcome_rows,
    samples_note,
)
from indexer_figures.page import NARROW, blank, finish, grid
from indexer_figures.points import draw_points, entries, share_axis
from indexer_figures.scope import DEFAULT, Choice
from indexer_figures.styles import Look, selector_looks

_BINS = 5
_PER_BIN = 4  # samples; a mean of fewer says little


@dataclass(frozen=True)
class QualityByEntropy:
    """Mean quality in bins of a sample's own entropy, at one budget, a line for each selector."""

    title: str = "Quality against attention entropy"
    question: str = "Do samples with narrow attention bear small budgets better?"
    columns: tuple[str, ...] = (*COLUMNS, "score", "agreement", "entropy")
    shape: str = "Lines with 95 % intervals over bins of entropy in nats, equally many samples each"

    def table(self, scores: pd.DataFrame, choice: Choice = DEFAULT) -> pd.DataFrame:
        """A row for each selector and bin; `entropy` is the mean of the bin's samples."""
        rows = outcome_rows(scores, self.columns, choice)
        rows = rows[(rows["layer"] == ALL_LAYERS) & rows["entropy"].notna()]
        if rows.empty:
            raise FigureError("no sample has an entropy: run quality without --entropy none")
        rows = one_budget(rows, choice)
        rows = rows[rows["selector"] != DENSE]
        own = rows.groupby("sample")["entropy"].first().sort_index().sort_values(kind="stable")
        bins = int(np.clip(len(own) // _PER_BIN, 1, _BINS))
        place = pd.Series(np.arange(len(own)) * bins // len(own), index=own.index)
        rows = rows.assign(bin=rows["sample"].map(place))
        table = mean_intervals(rows, ["selector", "budget", "bin"], "quality")
        table["entropy"] = table["bin"].map(own.groupby(place).mean())
        return label(table, rows)

    @drawing
    def draw(self, table: pd.DataFrame, looks: Mapping[str, Look] | None = None) -> Figure:
        """The picture of `table`."""
        looks = looks or selector_looks(table["selector"])
        figure, axes = blank(NARROW, 2.2)
        ax = axes[0, 0]
        names = draw_points(ax, table, looks, "entropy")
        low, high = table["entropy"].min(), table["entropy"].max()
        pad = max(0.05 * (high - low), 0.02)
        ax.set_xlim(low - pad, high + pad)
        ax.xaxis.set_major_locator(MaxNLocator(5))
        share_axis(ax)
        grid(ax)
        ax.set_xlabel("entropy of dense attention in decode (nats, sample mean)")
        ax.set_ylabel(f"{table['outcome'].iloc[0]} (share)".replace(" or ", "\nor "))
        notes = [samples_note(table, "Mean over the samples of a bin")]
        return finish(figure, self.title, about(table), entries(names, looks, dense=False), notes)

    def reading(self, table: pd.DataFrame) -> str:
        """The first selector's quality in its lowest and its highest bin."""
        own = table[table["selector"] == next(iter(selector_looks(table["selector"])))]
        parts = [
            f"{row['mean']:.2f} at {row['entropy']:.2f} nats ({int(row['samples'])} samples)"
            for row in (own.iloc[0], own.iloc[-1])
        ]
        words = " and ".join(dict.fromkeys(parts))
        return f"{own['selector'].iloc[0]}: {table['outcome'].iloc[0]} {words}."
