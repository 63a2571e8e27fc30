"""Where attention mass is lost on the way from the budget to what is deployed, step by step."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from indexer_figures.drawing import drawing
from indexer_figures.errors import FigureError
from indexer_figures.intervals import mean_intervals
from indexer_figures.lettering import Ruler, distinct
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
from indexer_figures.reading import leader
from indexer_figures.scope import COLUMNS, DEFAULT, Choice, Scope, choose
from indexer_figures.styles import Look, is_baseline
from indexer_figures.words import count, percent

ROW = ["sample", "layer", "head", "position"]
CHAIN = ("native", "lightning", "lightning:precision=fp8")
"""Followed in this order where they were scored and no others were asked for."""
_LOSS, _GAIN, _TOTAL = "#0173b2", "#de8f05", "#8c8c8c"


@dataclass(frozen=True)
class Step:
    """One step of the way: what it is called, and whose mass is left after it.

    target: that it was scored against, which says what `exact` is.
    """

    name: str
    selector: str
    target: str

    @property
    def spelled(self) -> str:
        """The selector as a command line says it whatever the target."""
        return f"exact:{self.target}" if self.selector == "exact" else self.selector


@dataclass(frozen=True)
class LossWaterfall:
    """Mean mass that each step loses, from all of it to what the last selector keeps.

    budget: 1 - the mass of each head's own exact top-k (the first target's where per_head was not
    scored). sharing: what one set for all heads loses more, the exact top-k of head_sum, which no
    other shared set exceeds. Then the selectors that were chosen, in their order; each step is the
    mass before it less the mass after it on the same rows, so the steps add up to the whole loss.
    """

    title: str = "Where attention mass is lost"
    question: str = "Is mass lost to the budget, to sharing one set, to the indexer or to rounding?"
    columns: tuple[str, ...] = (*COLUMNS, *ROW, "mass")
    shape: str = "Waterfall of bars, steps on the x axis, attention mass lost on the y axis"

    def table(self, scores: pd.DataFrame, choice: Choice = DEFAULT) -> pd.DataFrame:
        """A row a step: `loss` with its interval over samples, `start` and `end` the mass lost
        before and after it, `mass` what is left."""
        scope, rows = step_rows(scores, choice)
        table = mean_intervals(rows, ["place", "step", "selector"], "loss")
        table = table.rename(columns={"mean": "loss"})
        table["end"] = table["loss"].cumsum()
        table["start"] = table["end"] - table["loss"]
        table["mass"] = 1 - table["end"]
        table["rows"] = len(rows) // len(table)
        table["budget"] = int(scope.rows["budget"].iloc[0])
        return scope.label(table)

    @drawing
    def draw(self, table: pd.DataFrame, looks: Mapping[str, Look] | None = None) -> Figure:
        """The picture of `table`; steps have colours of their own."""
        width = NARROW if len(table) <= 6 else WIDE
        figure, axes = blank(width, 2.1)
        ax = axes[0, 0]
        _bars(ax, table)
        ruler, room = Ruler(figure, 7), (width - 0.7) / (len(table) + 1) - 0.06
        names = distinct(["\n".join(ruler.wrap(str(name), room, 2)) for name in table["step"]])
        ax.set_xticks(range(len(table) + 1), [*names, "total"])
        ax.tick_params(axis="x", length=0)
        ax.set_xlabel("step")
        ax.set_ylabel("attention mass lost (share)")
        grid(ax, "y")
        ways = [
            f"{step}: {selector}"
            for step, name, selector in zip(table["step"], names, table["selector"], strict=True)
            if name != selector
        ]
        over = "Mean over samples, with 95 % intervals of each step"
        notes = [rows_note(table, over, "step"), trivial_note(table), f"{'; '.join(ways)}."]
        return finish(figure, self.title, subtitle(table), [], notes)

    def reading(self, table: pd.DataFrame) -> str:
        """What the last selector loses, and which steps lose most of it."""
        total = float(table["end"].iloc[-1])
        words = f"{table['selector'].iloc[-1]} loses {percent(total)} of the attention mass at "
        words += count(table["budget"].iloc[0], "key")
        parts = [f"{row['step']} {percent(row['loss'])}" for _, row in table.iterrows()]
        return f"{words}: {', '.join(parts)}."


def step_rows(scores: pd.DataFrame, choice: Choice = DEFAULT) -> tuple[Scope, pd.DataFrame]:
    """What the figure shows, row by row: a query row of a step with its `loss`, in steps' order.

    Raises FigureError where two steps were not scored on the same rows.
    """
    whole = replace(choice, selectors=None)
    scope = choose(scores, LossWaterfall.columns, whole, target_order=("per_head", "head_sum"))
    scopes = {scope.target: scope}
    if scope.target == "per_head" and "head_sum" in set(map(str, scores["target"])):
        scopes["head_sum"] = choose(
            scores, LossWaterfall.columns, replace(whole, target="head_sum")
        )
    parts, before = [], None
    for place, step in enumerate(_steps(scopes, choice)):
        mass = _mass(scopes[step.target].rows, step.selector)
        if before is not None and not mass.index.equals(before.index):
            raise FigureError(
                f"{step.selector!r} was not scored on the rows of the step before it: score all "
                "steps in one run"
            )
        loss = (1.0 if before is None else before) - mass
        parts.append(loss.rename("loss").reset_index().assign(
            place=place, step=step.name, selector=step.spelled
        ))  # fmt: skip
        before = mass
    return scope, pd.concat(parts, ignore_index=True)


def _mass(rows: pd.DataFrame, selector: str) -> pd.Series:
    """Mass by query row, in one order."""
    own = rows[rows["selector"] == selector].set_index(["task", *ROW])["mass"]
    return own.sort_index().astype(float)


def _steps(scopes: Mapping[str, Scope], choice: Choice) -> list[Step]:
    first, rows = next(iter(scopes.items()))
    present = set(rows.rows["selector"])
    if "exact" not in present:
        raise FigureError("no row of 'exact': score the capture again, it is always scored")
    for name in choice.selectors or ():
        if name not in present:
            raise FigureError(f"selector {name!r} is not in the scores (there: {sorted(present)})")
    steps = [Step("budget", "exact", first)]
    if "head_sum" in scopes and first != "head_sum":
        steps.append(Step("sharing", "exact", "head_sum"))
    chain = choice.selectors or _chain(rows.rows)
    return steps + [Step(_name(name), name, first) for name in chain if name != "exact"]


def _chain(rows: pd.DataFrame) -> list[str]:
    """The known selectors that were scored; else the one that keeps most mass."""
    present = set(rows["selector"])
    found = [name for name in CHAIN if name in present]
    if {"native", "lightning"} <= set(found):
        found.remove("native")  # the same selection
    ours = rows[~rows["selector"].map(is_baseline)]
    if found or ours.empty:
        return found
    means = ours.groupby("selector", as_index=False)["mass"].mean()
    return [str(leader(means, "mass")["selector"])]


def _name(selector: str) -> str:
    """A word for a step where the selector has one."""
    if selector in ("native", "lightning"):
        return "indexer"
    name, _, settings = selector.partition(":")
    if "backend=triton" in settings:
        return "kernel"
    if name in ("lightning", "quantised") and settings.startswith("precision="):
        return settings.removeprefix("precision=").split(",")[0]
    return {"index_heads": "fewer heads", "faiss": "ANN"}.get(name, selector)


def _bars(ax: Axes, table: pd.DataFrame) -> None:
    total = float(table["end"].iloc[-1])
    colours = [_LOSS if loss >= 0 else _GAIN for loss in table["loss"]]
    places = np.arange(len(table))
    ax.bar(places, table["loss"], bottom=table["start"], width=0.62, color=colours,
           edgecolor=colours, linewidth=0.8, label="steps")  # fmt: skip
    ax.bar([len(table)], [total], width=0.62, color=_TOTAL, label="total")
    for place, end in zip(places, table["end"], strict=True):
        ax.plot([place + 0.31, place + 0.69], [end, end], color="#777777", linewidth=0.6)
    known = table["low"].notna().to_numpy()
    low, high = table["start"] + table["low"], table["start"] + table["high"]
    ax.vlines(places[known], low[known], high[known], color="black", linewidth=0.8)
    highest, lowest = np.nanmax([*table["end"], *high, 1e-6]), np.nanmin([*table["end"], *low, 0])
    ax.set_ylim(lowest * 1.1, highest * 1.14)
    tops = np.fmax(table[["start", "end"]].max(axis=1), high)
    for place, top, loss in zip([*places, len(table)], [*tops, total], [*table["loss"], total],
                                strict=True):  # fmt: skip
        ax.annotate(f"{100 * loss:.2g} %", (place, top), (0, 2), textcoords="offset points",
                    ha="center", va="bottom", fontsize=7)  # fmt: skip
