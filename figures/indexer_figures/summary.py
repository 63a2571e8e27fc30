"""One helper for every aggregate, so that a mean is never reported alone."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

STATISTICS = ("rows", "mean", "median", "p10", "p90", "p1", "min")
_QUANTILES = {0.01: "p1", 0.1: "p10", 0.5: "median", 0.9: "p90"}


def summarise(
    rows: pd.DataFrame, by: Sequence[str], value: str, *, trivial: bool = False
) -> pd.DataFrame:
    """Mean, median, p10, p90, p1 and min of one column in each group, and how many rows made them.

    NaN values are left out; a group with nothing but NaN stays, with `rows` 0 and NaN statistics.
    Trivial rows are left out unless asked for. Groups come sorted.

    >>> frame = pd.DataFrame({"layer": [0, 0], "recall": [0.5, 1.0]})
    >>> summarise(frame, ["layer"], "recall")["median"].tolist()
    [0.75]
    """
    if not trivial and "trivial" in rows:
        rows = rows[~rows["trivial"].astype(bool)]
    # In order of value a sum rounds the same whatever order the rows came in.
    rows = rows.sort_values(value)
    groups = rows.assign(**{value: rows[value].astype(float)}).groupby(
        list(by), observed=True, sort=True
    )[value]
    # Interpolating between a number and infinity gives NaN; an observed value never does.
    rule = "lower" if np.isinf(rows[value].to_numpy(float)).any() else "linear"
    quantiles = groups.quantile(list(_QUANTILES), interpolation=rule).unstack()
    table = pd.DataFrame({"rows": groups.count(), "mean": groups.mean(), "min": groups.min()})
    for quantile, name in _QUANTILES.items():
        table[name] = quantiles[quantile] if len(quantiles) else np.nan
    return table[list(STATISTICS)].reset_index()
