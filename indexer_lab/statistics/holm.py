"""Many questions, one error rate."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from indexer_lab.statistics.bootstrap import Numbers


def holm(p: ArrayLike) -> Numbers:
    """Holm's step-down adjusted p-values: reject where they are at most the family-wise rate.

    p: [question]; nan marks a question without an answer, which stays nan and does not count.
    returns: float64 [question], in [0, 1], in the order given.
    Source: Holm (1979), A simple sequentially rejective multiple test procedure.
    """
    given = np.asarray(p, float)
    adjusted = np.full(given.shape, np.nan)
    asked = np.flatnonzero(~np.isnan(given))
    order = asked[np.argsort(given[asked], kind="stable")]
    steps = given[order] * np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(steps), 1) if len(order) else []
    return adjusted
