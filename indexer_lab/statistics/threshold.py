"""The precision below which quality falls under a share of dense, with an interval."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import isotonic_regression

from indexer_lab.errors import InputError
from indexer_lab.statistics.bootstrap import Interval, Numbers, Rows, bootstrap

FEWEST_LEVELS = 3


@dataclass(frozen=True)
class Step:
    """Mean quality that never falls as x grows: distinct x and the fitted value at each."""

    x: Numbers
    fit: Numbers


def monotone(x: Numbers, y: Numbers) -> Step:
    """The isotonic least-squares fit of y on x, equal x pooled to their mean first."""
    levels, code = np.unique(x, return_inverse=True)
    count = np.bincount(code)
    means = np.bincount(code, weights=y) / count
    return Step(levels, isotonic_regression(means, weights=count).x)


def crossing(curve: Step, goal: float) -> float:
    """The least x at which the fit reaches the goal, on a straight line between the levels.

    returns: -inf where it is reached at the smallest x already, +inf where it never is.
    """
    reached = np.flatnonzero(curve.fit >= goal - 1e-12)
    if not len(reached):
        return float("inf")
    at = int(reached[0])
    if at == 0:
        return float("-inf")
    low, high = curve.fit[at - 1], curve.fit[at]
    share = min(1.0, (goal - low) / (high - low))
    return float(curve.x[at - 1] + share * (curve.x[at] - curve.x[at - 1]))


def threshold(
    x: ArrayLike,
    quality: ArrayLike,
    dense: ArrayLike,
    clusters: ArrayLike,
    share: float = 0.95,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """The x below which mean quality falls under `share` of dense quality.

    x:       [row], precision or recall; quality: [row], higher is better.
    dense:   [row], the same prompt's quality under dense attention.
    The curve is the isotonic fit, which assumes no shape but that quality never falls with x; a
    logistic curve would have to assume its upper end, which is what is asked. The goal is `share`
    of the mean dense quality of the very rows drawn, so that a hard sample counts on both sides.
    An end of the interval that is infinite lies beyond the x that was measured; `p` has no meaning
    here and is nan. Raises InputError when the lengths differ.
    """
    at, got = np.asarray(x, float), np.asarray(quality, float)
    whole, groups = np.asarray(dense, float), np.asarray(clusters)
    if not len(at) == len(got) == len(whole) == len(groups):
        raise InputError(f"columns of {len(at)}, {len(got)}, {len(whole)} and {len(groups)} rows")
    kept = np.isfinite(at) & np.isfinite(got) & np.isfinite(whole)
    at, got, whole, groups = at[kept], got[kept], whole[kept], groups[kept]

    def without(reason: str) -> Interval:
        nan = float("nan")
        return Interval(nan, nan, nan, nan, len(np.unique(groups)), level, reason)

    if len(np.unique(at)) < FEWEST_LEVELS:
        return without(f"{len(np.unique(at))} distinct x; a curve needs {FEWEST_LEVELS}")
    if whole.mean() <= 0:
        return without("dense quality is 0, so that no share of it can be lost")

    def statistic(rows: Rows) -> float:
        goal = share * whole[rows].mean()
        return crossing(monotone(at[rows], got[rows]), float(goal))

    found = bootstrap(statistic, groups, draws, seed, level)
    reason = found.reason or _beyond(found.estimate, share)
    low, high, clusters_ = found.low, found.high, found.clusters
    return Interval(found.estimate, low, high, float("nan"), clusters_, level, reason)


def _beyond(estimate: float, share: float) -> str:
    if estimate == float("-inf"):
        return f"quality stays at {share:.0%} of dense or more down to the smallest x measured"
    if estimate == float("inf"):
        return f"quality never reaches {share:.0%} of dense"
    return ""
