"""Recall, mass and output error by layer, length, needle depth and task, side by side."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from indexer_figures.drawing import drawing
from indexer_figures.intervals import mean_intervals
from indexer_figures.lettering import Ruler
from indexer_figures.page import (
    NARROW,
    WIDE,
    blank,
    finish,
    grid,
    rows_note,
    subtitle,
    trivial_note,
)
from indexer_figures.points import draw_points, entries, share_axis
from indexer_figures.reading import leader
from indexer_figures.scope import COLUMNS, DEFAULT, Choice, choose
from indexer_figures.styles import Look, selector_looks
from indexer_figures.ticks import layer_axis, spread
from indexer_figures.words import count, percent

CONDITIONS = {
    "layer": "layer",
    "length": "tokens of the text",
    "depth": "third of the text with the needle",
    "task": "task",
}
"""Condition -> its axis. One of a single value has no panel; not every table has depths."""
MEASURES = {"recall": "recall", "mass": "attention mass", "output_error": "output error"}
THIRDS = ("first", "middle", "last")


@dataclass(frozen=True)
class ByCondition:
    """Mean fidelity with intervals over samples: a row a measure, a column a condition."""

    title: str = "Fidelity by layer, length, depth and task"
    question: str = "Under which conditions does a selector miss keys, and what does that cost?"
    columns: tuple[str, ...] = (*COLUMNS, "sample", "layer", "length", "recall", "mass")
    shape: str = "Grid of panels, a row a measure, a column a condition, with 95 % intervals"

    def table(self, scores: pd.DataFrame, choice: Choice = DEFAULT) -> pd.DataFrame:
        """A row for each measure, condition, value and selector; output error and depth where the
        scores have them."""
        scope = choose(scores, self.columns, choice)
        rows = scope.rows.assign(task=scope.rows["task"].astype(str))
        known = [name for name in MEASURES if name in rows and rows[name].notna().any()]
        parts = []
        for condition, values in _conditions(rows).items():
            own = rows.assign(place=values)[values.notna()]
            names = _names(condition, own, values)
            sizes = own.groupby(["selector", "place"]).size().rename("rows").reset_index()
            for measure in known:
                table = mean_intervals(own, ["selector", "place"], measure).merge(sizes)
                table["value"] = table["place"].map(names)
                parts.append(table.assign(measure=measure, condition=condition))
        table = pd.concat(parts, ignore_index=True)
        table["budget"] = int(rows["budget"].iloc[0])
        return scope.label(table)

    @drawing
    def draw(self, table: pd.DataFrame, looks: Mapping[str, Look] | None = None) -> Figure:
        """The picture of `table`."""
        looks = looks or selector_looks(table["selector"])
        measures = [name for name in MEASURES if name in set(table["measure"])]
        conditions = [name for name in CONDITIONS if name in set(table["condition"])]
        width = WIDE if len(conditions) > 1 else NARROW
        high = 1.25 * len(measures) + (0.6 if "task" in conditions else 0.25)
        figure, axes = blank(width, high, len(measures), len(conditions), sharey="row")
        inches = (width - 0.6) / len(conditions) - 0.2
        drawn: list[str] = []
        for line, measure in zip(axes, measures, strict=True):
            last = measure == measures[-1]
            for ax, condition in zip(line, conditions, strict=True):
                own = table[(table["measure"] == measure) & (table["condition"] == condition)]
                drawn += draw_points(ax, own, _joined(looks, condition), "place")
                _axis(ax, condition, own, inches)
                ax.tick_params(labelbottom=last)
                ax.set_xlabel(_wrapped(figure, condition, inches) if last else "")
                grid(ax, "y")
            _shares(line[0], table[table["measure"] == measure], measure)
            line[0].set_ylabel(MEASURES[measure])
        notes = [rows_note(table, "Mean over samples"), trivial_note(table)]
        legend = entries([name for name in looks if name in drawn], looks, dense=False)
        return finish(figure, self.title, subtitle(table), legend, notes)

    def reading(self, table: pd.DataFrame) -> str:
        """The best selector's recall under the worst value of each condition."""
        recall = table[table["measure"] == "recall"]
        first = recall[recall["condition"] == recall["condition"].iloc[0]]
        best = leader(first.groupby("selector", as_index=False)["mean"].mean(), "mean")
        words = (
            f"At {count(table['budget'].iloc[0], 'key')} {best['selector']} finds "
            f"{percent(best['mean'])} of the exact keys"
        )
        own = recall[recall["selector"] == best["selector"]]
        for condition in [name for name in CONDITIONS if name in set(own["condition"])]:
            worst = own[own["condition"] == condition].nsmallest(1, "mean").iloc[0]
            words += f"; fewest by {condition}: {worst['value']} ({percent(worst['mean'])})"
        return words + "."


def _conditions(rows: pd.DataFrame) -> dict[str, pd.Series]:
    """Condition -> where each row stands on its axis, NaN for none; those with several values."""
    tasks = {task: place for place, task in enumerate(sorted(rows["task"].unique()))}
    found = {
        "layer": rows["layer"].astype(float),
        "length": rows["length"].map(_alike(rows["length"])).astype(float),
        "task": rows["task"].map(tasks).astype(float),
    }
    if "depth" in rows:
        found["depth"] = np.floor(rows["depth"].astype(float) * 3).clip(0, 2)
    several = {name: found[name] for name in CONDITIONS
               if name in found and found[name].nunique() > 1}  # fmt: skip
    return several or {"layer": found["layer"]}


def _alike(lengths: pd.Series) -> dict[float, float]:
    """A length -> the middle of those within a tenth of it: no text has quite its length."""
    groups: list[list[float]] = []
    for length in sorted(lengths.unique()):
        if groups and length <= 1.1 * groups[-1][0]:
            groups[-1].append(length)
        else:
            groups.append([length])
    return {length: float(np.median(group)) for group in groups for length in group}


def _names(condition: str, rows: pd.DataFrame, places: pd.Series) -> dict[float, str]:
    """A place on the axis -> what it is called."""
    if condition == "task":
        return dict(zip(places[rows.index], rows["task"], strict=True))
    if condition == "depth":
        return {float(place): name for place, name in enumerate(THIRDS)}
    return {place: f"{int(place):,}" for place in places.dropna().unique()}


def _joined(looks: Mapping[str, Look], condition: str) -> dict[str, Look]:
    """The looks, without a line from task to task."""
    if condition != "task":
        return dict(looks)
    return {name: replace(look, line="none") for name, look in looks.items()}


def _axis(ax: Axes, condition: str, own: pd.DataFrame, inches: float) -> None:
    places = sorted(own["place"].unique())
    if condition == "layer":
        layer_axis(ax, [int(place) for place in places], inches)
        return
    names = own.drop_duplicates("place").set_index("place")["value"]
    low, high = places[0], places[-1]
    span = (high - low) or 1.0
    ax.set_xlim(low - 0.15 * span, high + 0.15 * span)
    if condition == "length":
        whole = [int(place) for place in places]
        chosen = spread(whole, [(p - low) / span / 1.3 for p in places], inches)
        ax.set_xticks([places[i] for i in chosen], [str(names[places[i]]) for i in chosen])
    elif condition == "depth":
        ax.set_xticks(places, [str(names[place]) for place in places])
    else:
        _tasks(ax, places, [str(names[place]) for place in places], inches)


def _tasks(ax: Axes, places: Sequence[float], names: Sequence[str], inches: float) -> None:
    """Names upright, as many as there is room for."""
    ruler = Ruler(ax.figure, 7)  # type: ignore[arg-type]
    order = list(range(len(places)))
    chosen = spread(order, [(i + 0.5) / len(order) for i in order], inches, upright=True)
    short = ["".join(ruler.wrap(names[i], 0.85, 1)) for i in chosen]
    ax.set_xticks([places[i] for i in chosen], short, rotation=90)


def _wrapped(figure: Figure, condition: str, inches: float) -> str:
    return "\n".join(Ruler(figure, 7).wrap(CONDITIONS[condition], inches, 2))


def _shares(ax: Axes, own: pd.DataFrame, measure: str) -> None:
    """The y axis of a row of panels; an error has no upper end of its own."""
    if measure != "output_error":
        share_axis(ax)
        return
    top = float(np.nanmax([own["mean"].max(), own["high"].max(), 1e-6]))
    ax.set_ylim(-0.04 * top, 1.06 * top)
