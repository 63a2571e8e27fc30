"""Means of bounded values: by hand, and against the textbook's interval."""

import numpy as np
import pytest
from scipy.stats import binomtest

from indexer_lab.errors import InputError
from indexer_lab.statistics.mean import mean


def test_right_answers_without_a_miss_get_clopper_and_pearsons_interval():
    found = mean(np.ones(12), np.arange(12))
    book = binomtest(12, 12).proportion_ci(0.95, "exact")
    assert (found.estimate, found.high) == (1.0, 1.0)
    assert found.low == pytest.approx(book.low)


def test_differences_that_are_all_zero_leave_room_on_both_sides():
    found = mean(np.zeros(20), np.arange(20), lowest=-1)
    assert found.low == pytest.approx(-found.high)
    assert found.high == pytest.approx(1 - 0.025 ** (1 / 20))


def test_rows_of_one_prompt_count_once():
    once = mean(np.ones(8), np.arange(8))
    thrice = mean(np.ones(24), np.repeat(np.arange(8), 3))
    assert thrice.low == once.low


def test_values_that_differ_get_the_bootstrap():
    values = np.array([0.0, 1.0] * 20)
    found = mean(values, np.arange(40), seed=3)
    assert found.estimate == 0.5
    assert 0.3 < found.low < 0.4 < 0.6 < found.high < 0.7


def test_few_prompts_and_no_prompts_have_no_interval():
    few, none = mean(np.ones(4), np.arange(4)), mean([], [])
    assert few.estimate == 1.0
    assert np.isnan(few.low)
    assert "4 prompts" in few.reason
    assert np.isnan(none.estimate)


def test_nan_is_left_out():
    values = [1.0, np.nan, 1.0, 1.0, 1.0, 1.0]
    assert mean(values, np.arange(6)).clusters == 5


@pytest.mark.parametrize("values", [[2.0] * 6, [-0.1] * 6])
def test_a_value_out_of_bounds_is_refused(values):
    with pytest.raises(InputError, match=r"expected 0\.0 to 1\.0"):
        mean(values, np.arange(6))


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(InputError, match="2 and 3 rows"):
        mean([0, 1], [0, 1, 2])
