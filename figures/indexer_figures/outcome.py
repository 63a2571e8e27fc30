"""Which rows of a quality table a figure shows, and what quality means in them."""

from collections.abc import Sequence
from difflib import get_close_matches

import numpy as np
import pandas as pd

from indexer_figures.errors import FigureError
from indexer_figures.scope import Choice
from indexer_figures.words import count, span

ALL_LAYERS = -1
DENSE = "dense"
ORDER = ("decode", "replay", "prefill+decode")
COLUMNS = ("sample", "task", "mode", "selector", "budget", "layer", "length")


def outcome_rows(
    table: pd.DataFrame, columns: Sequence[str], choice: Choice, order: Sequence[str] = ORDER
) -> pd.DataFrame:
    """The rows of one mode with `quality` and what it is, `outcome`; dense among them.

    `quality` is the share of right answers where there is one to give, else the agreement with the
    dense model's choices. Raises FigureError where a column or a chosen value is missing.
    """
    need(table, columns)
    present = sorted(map(str, table["mode"].unique()))
    mode = choice.mode or next((name for name in order if name in present), present[0])
    _among("mode", mode, present)
    rows = table[table["mode"] == mode]
    if choice.task is not None:
        _among("task", choice.task, sorted(map(str, rows["task"].unique())))
        rows = rows[rows["task"] == choice.task]
    if choice.selectors is not None:
        for name in choice.selectors:
            _among("selector", name, sorted(map(str, rows["selector"].unique())))
        rows = rows[rows["selector"].isin((*choice.selectors, DENSE))]
    scored = rows["score"].notna()
    names = np.where(scored, "right answers", "agreement with dense")
    kinds = sorted(set(names[(scored | rows["agreement"].notna()).to_numpy()]), reverse=True)
    if not kinds:
        raise FigureError(f"mode {mode!r} has neither scores nor agreement; ask for another mode")
    rows = rows.assign(quality=rows["score"].fillna(rows["agreement"]), outcome=" or ".join(kinds))
    return rows.reset_index(drop=True)


def need(table: pd.DataFrame, columns: Sequence[str]) -> None:
    """Raises FigureError for an empty table and for a column that is missing."""
    missing = [name for name in columns if name not in table.columns]
    if missing:
        raise FigureError(f"the table has no column {missing[0]!r}; make it again")
    if table.empty:
        raise FigureError("the table is empty: run quality on at least one sample first")


def one_budget(rows: pd.DataFrame, choice: Choice) -> pd.DataFrame:
    """The rows at the chosen budget, or at the smallest, where selectors differ most; dense too."""
    budgets = sorted(int(value) for value in rows.loc[rows["selector"] != DENSE, "budget"].unique())
    if not budgets:
        raise FigureError("only the dense model ran here: run quality with a selector")
    budget = budgets[0] if choice.budget is None else choice.budget
    if budget not in budgets:
        listed = ", ".join(map(str, budgets))
        raise FigureError(f"budget {budget} was not run; there are {listed}")
    return rows[(rows["budget"] == budget) | (rows["selector"] == DENSE)]


def label(table: pd.DataFrame, rows: pd.DataFrame) -> pd.DataFrame:
    """The plotted table with what it is about."""
    tasks = sorted(map(str, rows["task"].unique()))
    named = table.copy()
    named["mode"] = rows["mode"].iloc[0]
    if "outcome" in rows:
        named["outcome"] = rows["outcome"].iloc[0]
    if "task" not in named:
        named["task"] = f"task {tasks[0]}" if len(tasks) == 1 else f"{len(tasks)} tasks pooled"
    return named.reset_index(drop=True)


def about(table: pd.DataFrame, *, task: bool = True) -> str:
    """The subtitle: mode, budget if it is one, tasks."""
    first = table.iloc[0]
    parts = [f"mode {first['mode']}"]
    budgets = table.loc[table["budget"] > 0, "budget"].unique() if "budget" in table else []
    if len(budgets) == 1:
        parts.append(f"budget {count(budgets[0], 'key')}")
    if task:
        parts.append(str(first["task"]))
    return " · ".join(parts)


def samples_note(table: pd.DataFrame, what: str) -> str:
    """How many samples stand behind each mark."""
    samples = table["samples"]
    noun = "sample" if samples.max() == 1 else "samples"
    return f"{what}; {span(samples.min(), samples.max())} {noun} per point."


def _among(what: str, wanted: str, present: Sequence[str]) -> None:
    if wanted not in present:
        near = get_close_matches(wanted, present, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise FigureError(f"{what} {wanted!r} was not run (there: {', '.join(present)}){hint}")
