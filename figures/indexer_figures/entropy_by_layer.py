"""Entropy of exact attention in each layer: where is attention narrow enough for few keys?"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from indexer_figures.drawing import drawing
from indexer_figures.page import (
    NARROW,
    Entry,
    blank,
    finish,
    grid,
    rows_note,
    subtitle,
    trivial_note,
)
from indexer_figures.scope import COLUMNS, DEFAULT, Choice, choose
from indexer_figures.styles import PALETTE, Look
from indexer_figures.summary import summarise
from indexer_figures.ticks import layer_axis
from indexer_figures.words import count

_KEY = ["sample", "layer", "head", "position"]
_COLOUR = PALETTE[0]
_KEY_TICKS = [step * 10**power for power in range(8) for step in (1, 2, 5)]


@dataclass(frozen=True)
class EntropyByLayer:
    """Median and p10–p90 of entropy in each layer, beside that of attention spread evenly."""

    title: str = "Attention entropy by layer"
    question: str = "How many keys does exact attention spread over, layer by layer?"
    columns: tuple[str, ...] = (*COLUMNS, *_KEY, "visible", "entropy")
    shape: str = "Line with p10–p90 band, layer on the x axis, entropy in nats on the y axis"

    def table(self, scores: pd.DataFrame, choice: Choice = DEFAULT) -> pd.DataFrame:
        """A row for each layer; a query row counts once, however many selectors were scored."""
        scope = choose(scores, self.columns, choice)
        queries = scope.rows.drop_duplicates(_KEY)
        table = summarise(queries, ["budget", "layer"], "entropy", trivial=True)
        even = np.log(queries["visible"].astype(float)).groupby(queries["layer"]).median()
        table["even_median"] = table["layer"].map(even)
        return scope.label(table)

    @drawing
    def draw(self, table: pd.DataFrame, looks: Mapping[str, Look] | None = None) -> Figure:
        """The picture of `table`; entropy is no selector's, so looks change nothing."""
        figure, axes = blank(NARROW, 2.1)
        ax = axes[0, 0]
        layers, even = table["layer"], table["even_median"]
        marker = "o" if len(table) <= 16 else ""
        ax.plot(layers, even, color="#5f5f5f", linestyle=(0, (4, 2)), marker=marker, markersize=2,
                label="_even")  # fmt: skip
        ax.plot(layers, table["median"], color=_COLOUR, marker=marker, label="entropy")
        ax.fill_between(layers, table["p10"], table["p90"], color=_COLOUR, alpha=0.2, linewidth=0)
        if len(table) == 1 and table["rows"].iloc[0] > 1:
            ax.vlines(layers, table["p10"], table["p90"], color=_COLOUR, alpha=0.5)
        top = max(table["p90"].max(), even.max(), 0.1) * 1.05
        ax.set_ylim(-0.02 * top, top)
        layer_axis(ax, sorted(layers), NARROW - 1.1)
        _keys_axis(ax, top)
        grid(ax, "y")
        ax.set_xlabel("layer")
        ax.set_ylabel("entropy of attention (nats)")
        notes = [rows_note(table, "Over samples, heads and queries"), trivial_note(table)]
        return finish(figure, self.title, subtitle(table), _entries(), notes)

    def reading(self, table: pd.DataFrame) -> str:
        """The narrowest and the widest layer, in nats and in keys."""
        known = table[table["rows"] > 0]
        low, high = known.loc[known["median"].idxmin()], known.loc[known["median"].idxmax()]
        words = f"Median entropy is {_nats(low['median'])} in layer {int(low['layer'])}"
        if len(known) > 1:
            words += (
                f" (lowest) and {_nats(high['median'])} in layer {int(high['layer'])} (highest)"
            )
        even = np.exp(known["even_median"].median())
        rows = count(known["rows"].sum(), "row")
        return f"{words}, of {even:,.0f} keys seen by the median query; {rows}."


def _nats(entropy: float) -> str:
    return f"{entropy:.2f} nats ({np.exp(entropy):,.1f} effective keys)"


def _keys_axis(ax: Axes, top: float) -> None:
    """The same axis read as e^entropy, labelled where labels keep apart."""
    ticks: list[int] = []
    for keys in _KEY_TICKS:
        last = np.log(ticks[-1]) if ticks else -np.inf
        if np.log(keys) <= top and np.log(keys) - last >= 0.09 * top:
            ticks.append(keys)
    second = ax.secondary_yaxis("right", functions=(_exp, _log))
    second.set_yticks(ticks, [f"{keys:,}" for keys in ticks])
    second.set_ylabel("effective support (keys)")


def _exp(entropy: Any) -> Any:
    return np.exp(entropy)


def _log(keys: Any) -> Any:
    return np.log(np.maximum(keys, 1e-9))


def _entries() -> list[Entry]:
    return [
        (Line2D([], [], color=_COLOUR), "median"),
        (Patch(color=_COLOUR, alpha=0.2, linewidth=0), "p10–p90"),
        (Line2D([], [], color="#5f5f5f", linestyle=(0, (4, 2))), "even over visible keys (median)"),
    ]
