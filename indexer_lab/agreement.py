"""How far apart two backends' score tables may lie, and how far they do.

Kernels and torch add the same products in another order. Logits then differ by rounding, measures
by what follows from it, and two keys whose values differ by rounding alone may change places: a
support or its boundary moves by a key in the rows where such a pair lies at the cut.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from indexer_lab.errors import InputError
from indexer_lab.measures import FACTS, MEASURES

ROW = ["sample", "target", "selector", "budget", "layer", "head", "position"]
EQUAL = ["task", "level", "length", "visible", "sets", "trivial", "bytes_read", "multiply_adds"]

ALLOWED: dict[str, tuple[float, float]] = {
    "mass": (1e-4, 0),
    "mass_ratio": (1e-4, 0),
    "boundary_gap": (1e-4, 1e-3),
    "effective_support": (0, 1e-3),
    "keys_90": (1, 1e-3),
    "keys_95": (1, 1e-3),
    "keys_99": (1, 1e-3),
    "top1": (0, 0),
}
"""Column -> the difference allowed, absolute and relative; (1e-3, 1e-3) for a column not here."""
BY_KEYS = ("recall", "jaccard")
"""Columns that count keys of the budget: there, two keys of it are allowed."""
SPARE = 0.01
"""Share of rows that may lie beyond that: those where a swapped key decides a small count."""


def compare(left: pd.DataFrame, right: pd.DataFrame) -> pd.DataFrame:
    """One row per measure: the largest difference of two score tables, and the share of rows beyond
    what is allowed; `agrees` where that share is at most SPARE.

    A number beside a NaN is beyond; equal infinities are no difference. Raises InputError unless
    both tables hold the same rows with the same columns of EQUAL.
    """
    left, right = (table.set_index(ROW).sort_index() for table in (left, right))
    if not left.index.equals(right.index) or not left[EQUAL].equals(right[EQUAL]):
        raise InputError(
            f"score tables of {len(left)} and {len(right)} rows do not answer the same questions; "
            "score one capture twice with the same selectors, budgets and targets"
        )
    return pd.DataFrame([_column(name, left, right) for name in (*MEASURES, *FACTS)])


def _column(name: str, left: pd.DataFrame, right: pd.DataFrame) -> dict[str, object]:
    first, second = (table[name].to_numpy(np.float64) for table in (left, right))
    with np.errstate(invalid="ignore"):  # inf - inf
        gap = np.abs(first - second)
    same = (first == second) | (np.isnan(first) & np.isnan(second))
    within = same | (gap <= _allowed(name, left, first))
    over = float(1 - within.mean())
    finite = gap[np.isfinite(gap)]
    largest = float(finite.max()) if len(finite) else 0.0
    return {"measure": name, "largest": largest, "over": over, "agrees": over <= SPARE}


def _allowed(name: str, table: pd.DataFrame, values: np.ndarray) -> np.ndarray:
    """float64 [row]: the difference that this column may have."""
    if name in BY_KEYS:
        budget = table.index.get_level_values("budget").to_numpy()
        return 2 / np.minimum(budget, table["visible"].to_numpy()) + 1e-6
    absolute, relative = ALLOWED.get(name, (1e-3, 1e-3))
    return absolute + relative * np.abs(values)
