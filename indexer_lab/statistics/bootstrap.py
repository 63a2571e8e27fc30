"""Bootstrap intervals that resample whole clusters, so that rows of one prompt stay together."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from indexer_lab.errors import InputError

Numbers = NDArray[np.float64]
Rows = NDArray[np.int64]

FEWEST_CLUSTERS = 5  # under this a percentile of resampled clusters says nothing
UNSTABLE = 0.2  # share of draws without a value from which an interval is not given


@dataclass(frozen=True)
class Interval:
    """An estimate and where it may lie.

    estimate:  on the data as they are; nan where they do not determine it.
    low, high: ends of the interval at `level`; nan where it cannot be given.
    p:         two-sided bootstrap p-value of the estimate being 0; nan without an interval.
    clusters:  how many independent clusters the interval rests on.
    reason:    why there is no estimate or no interval; "" when there is.
    """

    estimate: float
    low: float
    high: float
    p: float
    clusters: int
    level: float
    reason: str = ""


def resamples(clusters: ArrayLike, draws: int, seed: int) -> Iterator[Rows]:
    """Row numbers of each resampled table: as many clusters as there are, drawn with replacement.

    clusters: [row], any values; equal values belong together.
    """
    _, code = np.unique(np.asarray(clusters), return_inverse=True)
    members = np.split(np.argsort(code, kind="stable"), np.cumsum(np.bincount(code))[:-1])
    generator = np.random.default_rng(seed)
    for _ in range(draws):
        drawn = generator.integers(0, len(members), len(members))
        yield np.concatenate([members[cluster] for cluster in drawn])


def bootstrap(
    statistic: Callable[[Rows], float],
    clusters: ArrayLike,
    draws: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """The percentile interval of a statistic, clusters resampled with replacement.

    statistic: row numbers -> value; called once with all rows, then with each resample. nan where
               the rows do not determine it; +-inf is a value, of a place beyond the data.
    clusters:  [row], the cluster of each row.
    draws, seed: the same pair gives the same interval.
    The p-value is twice the smaller share of draws on either side of 0, never below 2 / (draws+1).
    Raises InputError for a level outside 0..1 or fewer than 10 draws.
    Source: Davison and Hinkley (1997), 3.8, resampling of clusters.
    """
    if not 0 < level < 1 or draws < 10:
        raise InputError(f"level {level} and {draws} draws: expected 0 < level < 1 and 10 or more")
    groups = np.unique(np.asarray(clusters))
    estimate = float(statistic(np.arange(len(np.asarray(clusters)))))

    def without(reason: str) -> Interval:
        return Interval(estimate, np.nan, np.nan, np.nan, len(groups), level, reason)

    if np.isnan(estimate):
        return without("the data do not determine it")
    if len(groups) < FEWEST_CLUSTERS:
        return without(f"only {len(groups)} prompts; an interval needs {FEWEST_CLUSTERS}")
    values = np.array([statistic(rows) for rows in resamples(clusters, draws, seed)])
    known = values[~np.isnan(values)]
    if len(known) < (1 - UNSTABLE) * draws:
        return without(f"{draws - len(known)} of {draws} resamples do not determine it")
    tail = (1 - level) / 2
    low, high = np.quantile(known, [tail, 1 - tail], method="closest_observation")
    return Interval(estimate, float(low), float(high), _two_sided(known), len(groups), level)


def _two_sided(values: Numbers) -> float:
    below, above = int((values <= 0).sum()), int((values >= 0).sum())
    return min(1.0, 2 * (1 + min(below, above)) / (len(values) + 1))
