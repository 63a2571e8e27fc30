"""The mean of a bounded column with an interval that a column of one value cannot fool."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from indexer_lab.errors import InputError
from indexer_lab.statistics.bootstrap import Interval, Rows, bootstrap


def mean(
    values: ArrayLike,
    clusters: ArrayLike,
    lowest: float = 0.0,
    highest: float = 1.0,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """Mean of values that lie between `lowest` and `highest`, clusters resampled.

    values: [row]; nan is left out. clusters: [row], the prompt of each row.
    Where all values are alike a bootstrap knows no spread and would give a point. Then the interval
    is what that many clusters leave open: with n alike, the share of others is below
    1 - tail^(1/n), and each of them at most as far off as the bounds allow. For right answers that
    is Clopper and Pearson's interval.
    Raises InputError when the lengths differ or a value is out of bounds.
    """
    column, groups = np.asarray(values, float), np.asarray(clusters)
    if len(column) != len(groups):
        raise InputError(f"columns of {len(column)} and {len(groups)} rows")
    known = ~np.isnan(column)
    column, groups = column[known], groups[known]
    if len(column) and not lowest <= column.min() <= column.max() <= highest:
        raise InputError(f"values from {column.min()} to {column.max()}: expected {lowest} to "
                         f"{highest}")  # fmt: skip

    def statistic(rows: Rows) -> float:
        return float(column[rows].mean()) if len(rows) else float("nan")

    found = bootstrap(statistic, groups, draws, seed, level)
    if found.reason or column.min() != column.max():
        return found
    others = 1 - ((1 - level) / 2) ** (1 / found.clusters)
    at = float(column[0])
    return replace(
        found, low=at - others * (at - lowest), high=at + others * (highest - at), p=float("nan")
    )
