"""Which rows of a score table a figure shows: checked, chosen, trivial ones set aside."""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches

import numpy as np
import pandas as pd

from indexer_figures.errors import FigureError

TARGET_ORDER = ("head_sum", "per_head", "kv_group", "head_max", "best_shared")
LEVEL_ORDER = ("token", "unit")
COLUMNS = ("task", "target", "level", "selector", "budget", "trivial")
SCOPE_COLUMNS = ("target", "level", "task", "trivial_share", "trivial_kept")


@dataclass(frozen=True)
class Choice:
    """What to show where the scores hold several; None takes the documented default.

    target: head_sum if scored, else the first of TARGET_ORDER (heat map: per_head first).
    level: token if scored, else unit.
    budget: the largest one that leaves rows with more visible keys than the budget.
    task: all of them pooled.
    selectors: all of them (heat map: all but the baselines).
    trivial: keep the rows that see no more keys than the budget.
    mode: quality figures only: decode if it ran, else replay.
    """

    target: str | None = None
    level: str | None = None
    budget: int | None = None
    task: str | None = None
    selectors: tuple[str, ...] | None = None
    trivial: bool = False
    mode: str | None = None


DEFAULT = Choice()


@dataclass(frozen=True)
class Scope:
    """The rows chosen for one figure, and the words that name them."""

    rows: pd.DataFrame
    target: str
    level: str
    task: str
    trivial_share: float
    trivial_kept: bool
    share_at_budget: pd.Series

    def label(self, table: pd.DataFrame) -> pd.DataFrame:
        """Add the scope to a plotted table, so that the table alone says what it shows."""
        named = table.copy()
        for column in SCOPE_COLUMNS:
            if column not in named:
                named[column] = getattr(self, column)
        return named.reset_index(drop=True)


def choose(
    scores: pd.DataFrame,
    columns: Sequence[str],
    choice: Choice,
    *,
    one_budget: bool = True,
    target_order: Sequence[str] = TARGET_ORDER,
    any_of: Sequence[str] = (),
) -> Scope:
    """The non-trivial rows of one target, level and (if asked) budget, with `columns` in them.

    any_of: columns of which one may hold nothing but NaN as long as another doesn't.

    Raises FigureError when the table is empty, a column is missing or holds nothing, a chosen
    value isn't there, or every row is trivial.
    """
    _check_columns(scores, columns)
    rows = scores
    target = _pick(rows, "target", choice.target, target_order)
    rows = rows[rows["target"] == target]
    level = _pick(rows, "level", choice.level, LEVEL_ORDER)
    rows = rows[rows["level"] == level]
    if choice.task is not None:
        _check_present("task", choice.task, sorted(map(str, rows["task"].unique())))
        rows = rows[rows["task"].astype(str) == choice.task]
    if choice.selectors is not None:
        present = sorted(map(str, rows["selector"].unique()))
        for name in choice.selectors:
            _check_present("selector", name, present)
        rows = rows[rows["selector"].astype(str).isin(choice.selectors)]
    rows = _budget_rows(rows, choice, one_budget)
    is_trivial = rows["trivial"].to_numpy(bool)
    kept = rows if choice.trivial else rows[~is_trivial]
    kept = kept.assign(selector=kept["selector"].astype(str)).reset_index(drop=True)
    tasks = sorted(map(str, kept["task"].unique()))
    task = f"task {tasks[0]}" if len(tasks) == 1 else f"{len(tasks)} tasks pooled"
    where = f"target {target}, level {level}"
    _check_values(kept, [name for name in columns if name not in any_of], where)
    if any_of and not kept[list(any_of)].notna().to_numpy().any():
        _check_values(kept, any_of, where)
    shares = rows["trivial"].astype(float).groupby(rows["budget"]).mean()
    return Scope(kept, target, level, task, float(is_trivial.mean()), choice.trivial, shares)


def _check_columns(scores: pd.DataFrame, columns: Sequence[str]) -> None:
    missing = [name for name in columns if name not in scores.columns]
    if missing:
        raise FigureError(
            f"the score table has no column {_listed(missing)} (it has {_listed(scores.columns)}); "
            "score the capture again, or add the column"
        )
    if scores.empty:
        raise FigureError("the score table is empty: score at least one query row first")


def _pick(rows: pd.DataFrame, column: str, wanted: str | None, order: Sequence[str]) -> str:
    present = sorted(map(str, rows[column].unique()))
    if wanted is not None:
        _check_present(column, wanted, present)
        return wanted
    return next((name for name in order if name in present), present[0])


def _budget_rows(rows: pd.DataFrame, choice: Choice, one_budget: bool) -> pd.DataFrame:
    if rows.empty:
        raise FigureError("no rows are left after choosing: loosen the target, task or selectors")
    budgets = sorted(int(budget) for budget in rows["budget"].unique())
    if choice.budget is not None and one_budget:
        if choice.budget not in budgets:
            raise FigureError(
                f"budget {choice.budget} was not scored; there are {_listed(budgets)}"
            )
        budgets = [choice.budget]
    at = rows[rows["budget"].isin(budgets)]
    counted = at if choice.trivial else at[~at["trivial"].to_numpy(bool)]
    if counted.empty:
        raise FigureError(
            f"all {len(at):,} rows are trivial at budget {_listed(budgets)}: no query sees more "
            "keys than the budget; use a smaller budget or longer samples, or ask for trivial rows"
        )
    if one_budget:
        return at[at["budget"] == counted["budget"].max()]
    return at


def _check_present(what: str, wanted: str, present: Sequence[str]) -> None:
    if wanted in present:
        return
    near = get_close_matches(wanted, present, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise FigureError(f"{what} {wanted!r} is not in the scores (there: {_listed(present)}){hint}")


def _check_values(rows: pd.DataFrame, columns: Sequence[str], where: str) -> None:
    for name in columns:
        if not rows[name].notna().any():
            raise FigureError(
                f"column {name!r} holds nothing but NaN in the {len(rows):,} rows chosen "
                f"({where}); score with what this measure needs, or leave this figure out"
            )
        if name in ("recall", "mass", "entropy") and np.isinf(rows[name].to_numpy(float)).any():
            raise FigureError(f"column {name!r} holds infinite values: these scores are broken")


def _listed(names: Sequence[object] | pd.Index) -> str:
    words = [repr(name) if isinstance(name, str) else str(name) for name in names]
    return ", ".join(words[:12]) + (f" and {len(words) - 12} more" if len(words) > 12 else "")
