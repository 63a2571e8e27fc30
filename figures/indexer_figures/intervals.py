"""A mean over samples and how far it would move with other samples."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

DRAWS = 2000


def mean_intervals(rows: pd.DataFrame, by: Sequence[str], value: str) -> pd.DataFrame:
    """Mean of one column in each group with its 95 % percentile bootstrap interval over samples.

    rows:    `sample`, `by` and `value`; several rows of one sample are averaged first. NaN is left
             out.
    returns: `by`, samples, mean, low, high, sorted by group. One sample has no interval: NaN.
    """
    known = rows[rows[value].notna()]
    each = known.groupby([*by, "sample"], observed=True)[value].mean().reset_index()
    found = []
    for key, part in each.groupby(list(by), observed=True, sort=True):
        values = np.sort(part[value].to_numpy(float))  # sums round the same in whatever row order
        low = high = np.nan
        if len(values) > 1:
            draw = np.random.default_rng(0).integers(len(values), size=(DRAWS, len(values)))
            low, high = np.quantile(values[draw].mean(1), (0.025, 0.975))
        found.append((*key, len(values), values.mean(), low, high))
    return pd.DataFrame(found, columns=[*by, "samples", "mean", "low", "high"])
