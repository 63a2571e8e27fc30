"""Recall of exact keys by how far away they lie: sinks, neighbours, or the far ones?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from indexer_figures.drawing import drawing
from indexer_figures.lettering import Ruler, distinct
from indexer_figures.page import (
    WIDE,
    Entry,
    blank,
    finish,
    grid,
    missing_note,
    rows_note,
    subtitle,
    trivial_note,
)
from indexer_figures.reading import leader
from indexer_figures.scope import COLUMNS, DEFAULT, Choice, choose
from indexer_figures.styles import Look, selector_looks
from indexer_figures.summary import summarise
from indexer_figures.words import count, percent

DISTANCES = {
    "sink": "sink (positions 0–3)",
    "local": "local (under 64 back)",
    "far": "far (the rest)",
}
_COLUMNS = tuple(f"recall_{name}" for name in DISTANCES)


@dataclass(frozen=True)
class ByDistance:
    """Median, p10–p90 and mean recall of sink, local and far keys for each selector."""

    title: str = "Recall by distance of the exact keys"
    question: str = "Does a selector miss sinks, neighbours or far keys?"
    columns: tuple[str, ...] = (*COLUMNS, *_COLUMNS)
    shape: str = "Dots with p10–p90 intervals, recall on the x axis, a panel for each distance"

    def table(self, scores: pd.DataFrame, choice: Choice = DEFAULT) -> pd.DataFrame:
        """A row for each selector and distance; rows whose exact set has no key there are out."""
        scope = choose(scores, self.columns, choice, any_of=_COLUMNS)
        by = ["budget", "selector"]
        parts = []
        for name, column in zip(DISTANCES, _COLUMNS, strict=True):
            part = summarise(scope.rows, by, column, trivial=True)
            part.insert(2, "distance", name)
            parts.append(part)
        return scope.label(pd.concat(parts, ignore_index=True))

    @drawing
    def draw(self, table: pd.DataFrame, looks: Mapping[str, Look] | None = None) -> Figure:
        """The picture of `table`."""
        looks = looks or selector_looks(table["selector"])
        names = [name for name in looks if name in set(table["selector"])]
        figure, axes = blank(WIDE, 1.0, 1, len(DISTANCES), sharey=True)
        ruler = Ruler(figure, 7)
        labels = distinct(["\n".join(ruler.wrap(name, 1.9, 3)) for name in names])
        heights = [max(0.17, 0.13 * (label.count("\n") + 1) + 0.05) for label in labels]
        ends = pd.Series(heights).cumsum()
        places = [end - height / 2 for end, height in zip(ends, heights, strict=True)]
        figure.set_size_inches(WIDE, ends.iloc[-1] + 0.6)
        for ax, (distance, words) in zip(axes.flat, DISTANCES.items(), strict=True):
            rows = table[(table["distance"] == distance) & (table["rows"] > 0)]
            _panel(ax, rows.set_index("selector"), names, places, looks)
            ax.set_title(words, loc="left", pad=3)
            ax.set_xlabel("recall (share of exact keys there)")
        axes[0, 0].set_yticks(places, labels)
        axes[0, 0].set_ylim(ends.iloc[-1] + 0.02, -0.02)
        notes = [rows_note(table, "Over samples, layers, heads and queries"), trivial_note(table)]
        notes.append("Local: fewer than 64 tokens before the query, sink left out.")
        notes += missing_note(table, "recall by distance")
        return finish(figure, self.title, subtitle(table), _entries(), notes)

    def reading(self, table: pd.DataFrame) -> str:
        """The best selector's mean recall at each distance, worst first."""
        known = table[table["rows"] > 0]
        overall = known.groupby("selector", as_index=False).agg(mean=("mean", "mean"))
        name = leader(overall, "mean")["selector"]
        own = known[known["selector"] == name].sort_values("mean", kind="stable")
        parts = [
            f"{at} {percent(mean)}" for at, mean in zip(own["distance"], own["mean"], strict=True)
        ]
        rows = count(own["rows"].max(), "row")
        return (
            f"{name} finds these shares of the exact keys: {', '.join(parts)} "
            f"(means over up to {rows}, budget {count(own['budget'].iloc[0], 'key')})."
        )


def _panel(
    ax: Axes,
    rows: pd.DataFrame,
    names: Sequence[str],
    places: Sequence[float],
    looks: Mapping[str, Look],
) -> None:
    for name, place in zip(names, places, strict=True):
        if name not in rows.index:
            ax.text(0.5, place, "no such keys", ha="center", va="center", color="#8c8c8c")
            continue
        row, look = rows.loc[name], looks[name]
        ax.hlines(place, row["p10"], row["p90"], color=look.colour, alpha=0.45, linewidth=1.6)
        ax.plot([row["mean"]], [place], color=look.colour, marker="|", markersize=7,
                linestyle="none", label="_mean", clip_on=False)  # fmt: skip
        ax.plot([row["median"]], [place], color=look.colour, marker="o", markersize=4,
                linestyle="none", label=name, clip_on=False, zorder=3)  # fmt: skip
    ax.set_xlim(-0.02, 1.02)
    ax.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "0.25", "0.5", "0.75", "1"])
    ax.tick_params(axis="y", length=0)
    grid(ax, "x")


def _entries() -> list[Entry]:
    dot = Line2D([], [], color="#5f5f5f", marker="o", markersize=4, linestyle="none")
    tick = Line2D([], [], color="#5f5f5f", marker="|", markersize=7, linestyle="none")
    line = Line2D([], [], color="#5f5f5f", alpha=0.45, linewidth=1.6)
    return [(dot, "median"), (tick, "mean"), (line, "p10–p90")]
