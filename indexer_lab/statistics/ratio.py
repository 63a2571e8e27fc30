"""One mean over another, their prompts resampled together."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from indexer_lab.errors import InputError
from indexer_lab.statistics.bootstrap import Interval, Rows, bootstrap


def ratio(
    above: ArrayLike,
    below: ArrayLike,
    clusters: ArrayLike,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """mean(above) / mean(below) with its bootstrap interval.

    above, below: [row], paired. clusters: [row], the prompt of each row.
    A resample whose lower mean is not positive does not determine the ratio.
    Raises InputError when the lengths differ.
    """
    top, bottom, groups = np.asarray(above, float), np.asarray(below, float), np.asarray(clusters)
    if not len(top) == len(bottom) == len(groups):
        raise InputError(f"columns of {len(top)}, {len(bottom)} and {len(groups)} rows")

    def statistic(rows: Rows) -> float:
        under = bottom[rows].mean() if len(rows) else 0.0
        return float(top[rows].mean() / under) if under > 0 else float("nan")

    return bootstrap(statistic, groups, draws, seed, level)
