"""Aggregates by hand."""

import pandas as pd
import pytest

from indexer_lab.summary import summarise


def frame(recalls, trivial, selector="a"):
    return pd.DataFrame(
        {
            "target": "head_sum",
            "level": "token",
            "budget": 4,
            "selector": selector,
            "trivial": trivial,
            "sets": 1,
            "recall": recalls,
            "output_error": recalls,
        }
    )


def test_trivial_rows_are_left_out_and_counted():
    row = summarise(frame([0.0, 0.5, 1.0, 1.0], [False, False, False, True]), ["recall"]).iloc[0]
    assert row["rows"] == 3
    assert row["trivial"] == 0.25
    assert row["recall_mean"] == pytest.approx(0.5)
    assert row["recall_median"] == 0.5
    assert row["recall_worst"] == 0.0


def test_the_tail_of_an_error_is_its_large_end():
    numbers = [i / 100 for i in range(101)]
    row = summarise(frame(numbers, [False] * 101), ["recall", "output_error"]).iloc[0]
    assert row["recall_p10"] == pytest.approx(0.10)
    assert row["recall_p1"] == pytest.approx(0.01)
    assert row["output_error_p10"] == pytest.approx(0.90)
    assert row["output_error_p1"] == pytest.approx(0.99)
    assert row["output_error_worst"] == 1.0


def test_a_selector_with_trivial_rows_alone_stays_and_says_so():
    both = pd.concat([frame([1.0], [True], "a"), frame([0.5], [False], "b")])
    table = summarise(both, ["recall"]).set_index("selector")
    assert table.loc["a", "rows"] == 0
    assert pd.isna(table.loc["a", "recall_mean"])
    assert table.loc["b", "recall_mean"] == 0.5
