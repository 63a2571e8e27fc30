"""A ratio of two means, by hand and against the bootstrap written out."""

import numpy as np
import pytest

from indexer_lab.errors import InputError
from indexer_lab.statistics.bootstrap import resamples
from indexer_lab.statistics.ratio import ratio


def test_it_is_the_ratio_of_means_and_not_the_mean_of_ratios():
    found = ratio([1.0, 9.0], [1.0, 3.0], ["a", "b"])
    assert found.estimate == 2.5
    assert np.isnan(found.low)
    assert "only 2 prompts" in found.reason


def test_the_interval_resamples_pairs():
    above, below = np.arange(1.0, 9.0), np.array([2.0, 2, 4, 4, 4, 8, 8, 8])
    found = ratio(above, below, np.arange(8), draws=200, seed=3)
    values = [above[rows].mean() / below[rows].mean() for rows in resamples(np.arange(8), 200, 3)]
    ends = np.quantile(values, [0.025, 0.975], method="closest_observation")
    assert (found.low, found.high) == pytest.approx(tuple(ends))


def test_nothing_below_determines_nothing():
    found = ratio(np.ones(6), np.zeros(6), np.arange(6))
    assert np.isnan(found.estimate)
    assert "do not determine" in found.reason
    with pytest.raises(InputError, match="columns of 2, 1 and 2 rows"):
        ratio([1, 2], [1], ["a", "b"])
