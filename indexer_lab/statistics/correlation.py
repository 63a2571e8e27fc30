"""Correlation of two columns, others held fixed, with intervals clustered on prompts."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from indexer_lab.errors import InputError
from indexer_lab.statistics.bootstrap import Interval, Numbers, Rows, bootstrap

Method = Literal["pearson", "spearman"]
CONSTANT = 1e-12  # what is left of a column, as a share of it, that counts as nothing


def correlation(x: Numbers, y: Numbers, method: Method, held: Numbers | None = None) -> float:
    """Pearson's r or Spearman's rho of x and y, the linear part of `held` taken out of both.

    x, y: [row]; held: [row, covariate] or None. For Spearman all columns are ranked first, ties by
    their mean rank, so that a covariate counts by any monotone scale.
    returns: in [-1, 1]; nan where a column is constant, or nothing is left of it.
    """
    columns = [x, y, *(held.T if held is not None else ())]
    if method == "spearman":
        columns = [rankdata(column) for column in columns]
    table = np.stack([column - column.mean() for column in columns], axis=1)
    size = np.linalg.norm(table[:, :2], axis=0)
    rest = table[:, :2]
    if held is not None:
        # pinv's cut-off drops covariates that are constant or repeat each other
        rest = rest - table[:, 2:] @ (np.linalg.pinv(table[:, 2:], rcond=1e-10) @ rest)
    left = np.linalg.norm(rest, axis=0)
    if bool((left <= CONSTANT * np.maximum(size, 1e-300)).any()):
        return float("nan")
    return float(np.clip((rest[:, 0] @ rest[:, 1]) / (left[0] * left[1]), -1, 1))


def correlate(
    x: ArrayLike,
    y: ArrayLike,
    clusters: ArrayLike,
    method: Method = "spearman",
    held: ArrayLike | None = None,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """The (partial) correlation of two columns with its clustered bootstrap interval.

    x, y: [row]; clusters: [row], the prompt of each row; held: [row] or [row, covariate].
    Rows with a value that is not finite are left out. In each resample the covariates are fitted
    again. Raises InputError when the lengths differ.
    """
    first, second, groups = np.asarray(x, float), np.asarray(y, float), np.asarray(clusters)
    others = None if held is None else np.asarray(held, float).reshape(len(first), -1)
    if not len(first) == len(second) == len(groups):
        raise InputError(f"columns of {len(first)}, {len(second)} and {len(groups)} rows")
    whole = np.isfinite(first) & np.isfinite(second)
    if others is not None:
        whole &= np.isfinite(others).all(axis=1)
    first, second, groups = first[whole], second[whole], groups[whole]
    others = None if others is None else others[whole]
    fewest = 3 + (0 if others is None else others.shape[1])

    def statistic(rows: Rows) -> float:
        if len(rows) < fewest:
            return float("nan")
        fixed = None if others is None else others[rows]
        return correlation(first[rows], second[rows], method, fixed)

    return bootstrap(statistic, groups, draws, seed, level)
