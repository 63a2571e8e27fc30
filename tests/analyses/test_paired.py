"""Paired losses on synthetic prompts."""

import math

import pandas as pd
import pytest

from study.paired import by_prompt, interval, losses, prompts_needed


def rows():
    return pd.DataFrame(
        [
            ("sound", "a", 0.8, 1.0), ("sound", "a", 1.0, 3.0), ("sound", "b", 0.5, 1.0),
            ("bug", "a", 0.5, 4.0), ("bug", "b", 0.5, 2.0), ("bug", "c", 0.1, 9.0),
        ],
        columns=["selector", "sample", "recall", "kl"],
    )  # fmt: skip


def test_a_loss_is_positive_where_the_selector_is_worse():
    prompts = by_prompt(rows(), ["recall", "kl"])
    found = losses(prompts, "recall", "bug", "sound")
    assert found.to_dict() == pytest.approx({"a": 0.4, "b": 0.0})  # c has no sound run
    assert losses(prompts, "kl", "bug", "sound").to_dict() == {"a": 2.0, "b": 1.0}
    assert losses(prompts, "kl", "sound", "bug").to_dict() == {"a": -2.0, "b": -1.0}
    assert losses(prompts, "kl", "absent", "sound").empty


def test_intervals_know_their_bounds():
    alike = pd.Series([0.0] * 20, index=range(20))
    bounded = interval(alike, "score", seed=0)
    assert bounded.low < 0 < bounded.high  # twenty equal answers leave room for another
    assert interval(alike, "kl", seed=0).high == 0.0
    few = interval(pd.Series([0.1, 0.2]), "recall", seed=0)
    assert math.isnan(few.low)
    assert interval(pd.Series(dtype=float), "recall", seed=0).reason == "no prompt has both"


def test_prompts_needed_by_hand():
    values = pd.Series([1.0, 3.0, 1.0, 3.0, 2.0])  # mean 2, standard deviation 1
    assert prompts_needed(values, "recall") == pytest.approx(0.98**2)
    assert prompts_needed(values - 1.9, "kl") == pytest.approx(19.6**2)
    assert prompts_needed(values * 0, "mass") == math.inf
    assert math.isnan(prompts_needed(values[:4], "mass"))
    assert prompts_needed(values * 0 + 1, "recall") == 0
    alike = prompts_needed(values * 0 + 1, "score")  # mean 5 / 6, variance 1 / 6
    assert alike == pytest.approx(1.96**2 / 6 / (5 / 6) ** 2)
