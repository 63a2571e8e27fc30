"""What each selector loses against a sound one, measure by measure: who sees which fault?"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from indexer_figures.drawing import drawing
from indexer_figures.errors import FigureError
from indexer_figures.lettering import Ruler
from indexer_figures.outcome import need
from indexer_figures.page import WIDE, Entry, blank, finish, grid
from indexer_figures.scope import DEFAULT, Choice
from indexer_figures.styles import Look, selector_looks
from indexer_figures.words import count, span

LABEL = 1.45  # inches for the selectors' names
LINEAR = 1e-3  # nats: below it a logarithmic axis runs evenly through 0
LOGARITHMIC = ("kl",)
WORDS = {"output_error": "output error", "kl": "KL to dense (log)", "score": "right answers"}


@dataclass(frozen=True)
class LossByMeasure:
    """Paired differences to a sound selector, a panel for each measure, a row for each selector."""

    title: str = "What each measure sees of a fault"
    question: str = "Which measure sees which fault of an indexer?"
    columns: tuple[str, ...] = (
        *("selector", "reference", "measure", "unit", "loss", "low", "high", "prompts", "budget"),
        "task",
    )
    shape: str = "Points with 95 % intervals, loss on the x axis, a panel a measure, a row a fault"

    def table(self, scores: pd.DataFrame, choice: Choice = DEFAULT) -> pd.DataFrame:
        """A row for each selector and measure, the selectors by what they lose on the first."""
        need(scores, self.columns)
        rows = scores[list(self.columns)].assign(seen=scores["low"] > 0)
        if choice.selectors is not None:
            rows = rows[rows["selector"].isin(choice.selectors)]
        if rows["loss"].isna().all():
            raise FigureError("no loss is known: no prompt was measured under both selectors")
        measures = list(dict.fromkeys(scores["measure"]))
        first = rows[rows["measure"] == _first(measures)].set_index("selector")["loss"]
        place = {name: number for number, name in enumerate(sorted(measures))}
        rows = rows.assign(_loss=rows["selector"].map(first), _at=rows["measure"].map(place))
        ordered = rows.sort_values(["_loss", "selector", "_at"], ascending=[False, True, True])
        return ordered.drop(columns=["_loss", "_at"]).reset_index(drop=True)

    @drawing
    def draw(self, table: pd.DataFrame, looks: Mapping[str, Look] | None = None) -> Figure:
        """The picture of `table`."""
        names = list(dict.fromkeys(table["selector"]))
        measures = _ordered(table["measure"])
        looks = looks or selector_looks(names)
        height = 0.3 * len(names) + 0.45
        figure, axes = blank(WIDE, height, 1, len(measures), sharey=True)
        ruler = Ruler(figure, 7)
        for ax, measure in zip(axes[0], measures, strict=True):
            _panel(ax, table[table["measure"] == measure], names, looks, measure in LOGARITHMIC)
            width = (WIDE - LABEL) / len(measures) - 0.12
            title = ruler.wrap(WORDS.get(measure, measure), width, 2)
            ax.set_title("\n".join(title), loc="left", pad=3, parse_math=False)
            unit = str(table.loc[table["measure"] == measure, "unit"].iloc[0])
            ax.set_xlabel("\n".join(ruler.wrap(unit, width, 2)), parse_math=False)
        labels = ["\n".join(ruler.wrap(name, LABEL, 2)) for name in names]
        axes[0, 0].set_yticks(range(len(names)), labels, parse_math=False)
        axes[0, 0].set_ylim(len(names) - 0.5, -0.5)
        prompts = table["prompts"]
        note = (
            f"Mean paired difference to {table['reference'].iloc[0]}, right of 0 is worse; "
            f"{span(prompts.min(), prompts.max())} prompts per point."
        )
        return finish(figure, self.title, _about(table), _legend(), [note])

    def reading(self, table: pd.DataFrame) -> str:
        """How many faults each measure sees."""
        faults = table["selector"].nunique()
        seen = table.groupby("measure", sort=False)["seen"].sum()
        parts = [f"{measure} {int(seen[measure])}" for measure in _ordered(table["measure"])]
        return f"Of {count(faults, 'fault')}, seen by: {', '.join(parts)}."


ORDER = ("recall", "mass", "output_error", "kl", "score")


def _first(measures: list[str]) -> str:
    return next((name for name in ORDER if name in measures), sorted(measures)[0])


def _ordered(column: pd.Series) -> list[str]:
    """The measures, from what is picked to what comes of it."""
    names = set(map(str, column))
    return [name for name in ORDER if name in names] + sorted(names - set(ORDER))


def _panel(
    ax: Axes, rows: pd.DataFrame, names: list[str], looks: Mapping[str, Look], logarithmic: bool
) -> None:
    ax.axvline(0, color="#777777", linewidth=0.8, zorder=1)
    for row in rows.itertuples():
        at, colour = names.index(row.selector), looks[row.selector].colour
        if np.isfinite([row.low, row.high]).all():
            ax.hlines(at, row.low, row.high, color=colour, alpha=0.55, linewidth=0.9, zorder=2)
        face = colour if row.seen else "white"
        ax.plot(row.loss, at, marker="o", color=colour, markerfacecolor=face, zorder=3)
    known = rows[["loss", "low", "high"]].to_numpy(float)
    reach = float(np.nanmax(np.abs(known[np.isfinite(known)]), initial=0.0)) or 1.0
    low = float(np.nanmin(known[np.isfinite(known)], initial=0.0))
    if logarithmic:
        _symmetric_log(ax, low, reach)
    else:
        ax.set_xlim(min(low, -0.08 * reach) - 0.06 * reach, 1.12 * reach)
        ax.xaxis.set_major_locator(MaxNLocator(2, steps=[1, 2, 5, 10]))
    grid(ax, "x")
    ax.tick_params(axis="y", length=0)


def _symmetric_log(ax: Axes, low: float, reach: float) -> None:
    ax.set_xscale("symlog", linthresh=LINEAR, linscale=0.4)
    top = max(int(np.ceil(np.log10(max(reach, 10 * LINEAR)))), -1)
    ax.set_xlim(min(2 * low, -LINEAR), 10.0**top * 1.5)
    powers = [power for power in (top - 2, top) if power >= -2]
    ax.set_xticks([0, *(10.0**p for p in powers)], ["0", *(f"{10.0**p:g}" for p in powers)])
    ax.set_xticks([], minor=True)


def _about(table: pd.DataFrame) -> str:
    budgets = sorted({int(value) for value in table["budget"]})
    parts = [f"budget {count(budgets[0], 'key')}"] if len(budgets) == 1 else []
    return " · ".join([*parts, str(table["task"].iloc[0])])


def _legend() -> list[Entry]:
    grey: dict[str, Any] = {"color": "#777777", "linestyle": "none", "marker": "o"}
    return [
        (Line2D([], [], **grey), "interval above 0: seen"),
        (Line2D([], [], markerfacecolor="white", **grey), "not seen"),
    ]
