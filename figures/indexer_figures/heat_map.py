"""Recall in each layer and head: are a few heads to blame?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from indexer_figures.drawing import drawing
from indexer_figures.lettering import Ruler
from indexer_figures.page import (
    NARROW,
    WIDE,
    blank,
    finish,
    missing_note,
    rows_note,
    subtitle,
    trivial_note,
)
from indexer_figures.reading import leader
from indexer_figures.scope import COLUMNS, DEFAULT, Choice, choose
from indexer_figures.styles import Look, is_baseline, selector_looks
from indexer_figures.summary import summarise
from indexer_figures.ticks import spread
from indexer_figures.words import count, percent

_TARGETS = ("per_head", "kv_group", "head_sum", "head_max", "best_shared")
_UNKNOWN = "#ffffff"  # a cell without rows: white with a hatch, a colour that no value has


@dataclass(frozen=True)
class HeatMap:
    """Mean recall of each layer × head, a panel for each selector (baselines only if asked)."""

    title: str = "Mean recall by layer and head"
    question: str = "Which heads of which layers does a selector serve badly?"
    columns: tuple[str, ...] = (*COLUMNS, "layer", "head", "recall")
    shape: str = "Heat map, head on the x axis, layer on the y axis, mean recall as colour"

    def table(self, scores: pd.DataFrame, choice: Choice = DEFAULT) -> pd.DataFrame:
        """A row for each selector, layer and head; the colour is `mean`."""
        scope = choose(scores, self.columns, choice, target_order=_TARGETS)
        rows = scope.rows
        ours = ~rows["selector"].map(is_baseline)
        if choice.selectors is None and ours.any():
            rows = rows[ours]
        by = ["budget", "selector", "layer", "head"]
        return scope.label(summarise(rows, by, "recall", trivial=True))

    @drawing
    def draw(self, table: pd.DataFrame, looks: Mapping[str, Look] | None = None) -> Figure:
        """The picture of `table`."""
        looks = looks or selector_looks(table["selector"])
        names = [name for name in looks if name in set(table["selector"][table["rows"] > 0])]
        layers, heads = sorted(table["layer"].unique()), sorted(table["head"].unique())
        columns = min(len(names), 3)
        rows = -(-len(names) // columns)
        width = NARROW if columns == 1 else WIDE
        tall = float(np.clip(0.16 * len(layers), 1.1, 2.6 if rows == 1 else 1.8))
        figure, axes = blank(width, rows * (tall + 0.45), rows, columns)
        low = _floor(table["mean"])
        for index, (ax, name) in enumerate(zip(axes.flat, names, strict=False)):
            cells = table[table["selector"] == name].pivot(
                index="layer", columns="head", values="mean"
            )
            cells = cells.reindex(index=layers, columns=heads)
            _panel(ax, cells, low, (width - 0.9) / columns - 0.35, tall)
            title = Ruler(figure, 7).wrap(name, (width - 0.6) / columns - 0.35, 2)
            ax.set_title("\n".join(title), loc="left", pad=3, parse_math=False)
            ax.set_xlabel("head" if index + columns >= len(names) else "")
            ax.set_ylabel("layer" if index % columns == 0 else "")
        for ax in axes.flat[len(names) :]:
            ax.set_visible(False)
        bar = figure.colorbar(
            axes[0, 0].collections[0], ax=axes.ravel().tolist(), aspect=25, pad=0.02
        )
        bar.set_label("mean recall (share)")
        bar.outline.set_visible(False)
        what = "Mean share of the exact keys found, over samples and queries"
        notes = [rows_note(table, what, "cell"), trivial_note(table)]
        if len(table) < len(names) * len(layers) * len(heads) or (table["rows"] == 0).any():
            notes.append("Hatched: no rows.")
        notes += missing_note(table, "recall")
        return finish(figure, self.title, subtitle(table), [], notes)

    def reading(self, table: pd.DataFrame) -> str:
        """The worst layer and head of the selector that is best overall."""
        known = table[table["rows"] > 0]
        overall = known.groupby("selector", as_index=False).agg(mean=("mean", "mean"))
        name = leader(overall, "mean")["selector"]
        cells = known[known["selector"] == name]
        worst = cells.loc[cells["mean"].idxmin()]
        return (
            f"{name} is worst in layer {int(worst['layer'])}, head {int(worst['head'])}: mean "
            f"recall {percent(worst['mean'])} over {count(worst['rows'], 'row')} at "
            f"{count(worst['budget'], 'key')}; half of its {count(len(cells), 'cell')} "
            f"(layer × head) reach {percent(cells['mean'].median())}."
        )


def _floor(values: pd.Series) -> float:
    """The colour scale's lower end: a round number under every value, so that nothing saturates."""
    return max(0.0, float(np.floor(values.min() * 10 - 1e-9) / 10))


def _panel(ax: Axes, cells: pd.DataFrame, low: float, wide: float, tall: float) -> None:
    roomy = wide / cells.shape[1] >= 0.3 and tall / cells.shape[0] >= 0.15
    ax.set_facecolor(_UNKNOWN)
    ax.patch.set_hatch("//////")
    ax.patch.set_edgecolor("#bbbbbb")
    sns.heatmap(
        cells, ax=ax, vmin=low, vmax=1.0, cmap="cividis", cbar=False, xticklabels=False,
        yticklabels=False, annot=roomy, fmt=".2f", annot_kws={"fontsize": 7}, rasterized=True,
    )  # fmt: skip
    for text in ax.texts:  # cividis turns light half-way
        text.set_color("white" if float(text.get_text()) < (1 + low) / 2 else "black")
    ax.tick_params(rotation=0, length=2.0)
    _ticks(ax, list(cells.columns), wide, "x")
    _ticks(ax, list(cells.index), tall, "y")


def _ticks(ax: Axes, values: Sequence[int], inches: float, axis: str) -> None:
    places = [(index + 0.5) / len(values) for index in range(len(values))]
    chosen = spread(values, places, inches, upright=axis == "y")
    setter = ax.set_xticks if axis == "x" else ax.set_yticks
    setter([index + 0.5 for index in chosen], [str(values[index]) for index in chosen])
