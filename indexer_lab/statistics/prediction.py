"""Which column predicts quality best: a cross-validated fit of each, on the same folds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from indexer_lab.errors import InputError
from indexer_lab.statistics.bootstrap import Interval, Numbers, Rows, bootstrap
from indexer_lab.statistics.holm import holm
from indexer_lab.statistics.threshold import monotone

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Prediction:
    """How well one column predicts prompts that its fit has not seen.

    r2:     1 - squared error over that of the other folds' mean; 0 or less means no use.
    behind: the best column's r2 minus this one's, on the same rows; its p-value is Holm-adjusted
            over the columns that are compared. For the best itself it is 0, p nan.
    """

    name: str
    r2: Interval
    behind: Interval


def compare_predictors(
    columns: Mapping[str, ArrayLike],
    y: ArrayLike,
    clusters: ArrayLike,
    folds: int = 5,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> list[Prediction]:
    """Every column's cross-validated fit of y, best first.

    columns: name -> [row]; y: [row], the quality; clusters: [row], the prompt of each row.
    Prompts are dealt to the folds whole, so that no row is predicted from its own prompt. A fit is
    isotonic, rising or falling as the training rows correlate: any monotone scale serves alike.
    Intervals resample prompts over the out-of-fold errors. Rows that are not finite in every
    column are left out of all, so that the columns answer for the same rows.
    Raises InputError for unequal lengths, fewer than 2 folds, or fewer prompts than folds.
    """
    names = list(columns)
    table = {name: np.asarray(columns[name], float) for name in names}
    goal, groups = np.asarray(y, float), np.asarray(clusters)
    if any(len(column) != len(goal) for column in (*table.values(), groups)):
        raise InputError("the columns, the quality and the clusters differ in length")
    kept = np.isfinite(goal)
    for column in table.values():
        kept &= np.isfinite(column)
    goal, groups = goal[kept], groups[kept]
    part = deal(groups, folds, seed)
    blank = _errors(None, goal, part)
    errors = {name: _errors(table[name][kept], goal, part) for name in names}

    def r2(rows: Rows, error: Numbers) -> float:
        base = blank[rows].sum()
        return float(1 - error[rows].sum() / base) if base > 0 else float("nan")

    def interval(error: Numbers) -> Interval:
        return bootstrap(lambda rows: r2(rows, error), groups, draws, seed, level)

    def gap(error: Numbers, best: Numbers) -> Interval:
        def lead(rows: Rows) -> float:
            return r2(rows, best) - r2(rows, error)

        return bootstrap(lead, groups, draws, seed, level)

    names.sort(key=lambda name: float(errors[name].sum()))
    first = errors[names[0]]
    gaps = [gap(errors[name], first) for name in names]
    adjusted = holm([np.nan, *(each.p for each in gaps[1:])])
    return [
        Prediction(name, interval(errors[name]), _with_p(each, float(p)))
        for name, each, p in zip(names, gaps, adjusted, strict=True)
    ]


def deal(clusters: ArrayLike, folds: int, seed: int) -> Rows:
    """int64 [row]: the fold of each row, whole clusters at random, as even as can be."""
    names, code = np.unique(np.asarray(clusters), return_inverse=True)
    if folds < 2 or len(names) < folds:
        raise InputError(f"{folds} folds of {len(names)} prompts: expected 2 folds or more, and at "
                         "least one prompt for each")  # fmt: skip
    order = np.random.default_rng(seed).permutation(len(names))
    fold = np.empty(len(names), np.int64)
    fold[order] = np.arange(len(names)) % folds
    return fold[code]


def _errors(x: Numbers | None, y: Numbers, part: Rows) -> Numbers:
    """[row]: squared error of each row's prediction from the other folds; their mean without x."""
    errors = np.empty(len(y))
    for fold in np.unique(part):
        held, seen = part == fold, part != fold
        guess = np.full(held.sum(), y[seen].mean()) if x is None else _fit(x, y, seen, held)
        errors[held] = (y[held] - guess) ** 2
    return errors


def _fit(x: Numbers, y: Numbers, seen: Mask, held: Mask) -> Numbers:
    """[held row]: the isotonic fit of the seen rows, on straight lines between its levels."""
    trend = float(((x[seen] - x[seen].mean()) * y[seen]).sum())
    sign = -1.0 if trend < 0 else 1.0
    curve = monotone(sign * x[seen], y[seen])
    return np.interp(sign * x[held], curve.x, curve.fit)


def _with_p(found: Interval, p: float) -> Interval:
    low, high, count = found.low, found.high, found.clusters
    return Interval(found.estimate, low, high, p, count, found.level, found.reason)
