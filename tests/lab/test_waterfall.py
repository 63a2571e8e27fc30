"""The loss waterfall by hand."""

import pandas as pd
import pytest

from indexer_lab.waterfall import waterfalls

MASS = {
    ("per_head", "exact"): (0.9, 0.7),
    ("head_sum", "exact"): (0.8, 0.6),
    ("head_sum", "lightning"): (0.6, 0.4),
    ("per_head", "lightning"): (0.1, 0.1),  # never read: mass does not depend on the target
    ("head_sum", "lightning:precision=fp8"): (0.7, 0.4),
    ("head_sum", "random"): (0.1, 0.1),
}


def scores(mass=None, budget=4):
    rows = [
        {"target": target, "selector": selector, "budget": budget, "trivial": False, "mass": value}
        for (target, selector), values in (mass or MASS).items()
        for value in values
    ]
    trivial = {"target": "per_head", "selector": "exact", "budget": budget, "trivial": True}
    return pd.DataFrame([*rows, {**trivial, "mass": 1.0}])


def test_every_step_is_a_difference_of_means():
    plain, quantised = waterfalls(scores())
    assert plain.selector == "lightning"
    assert [step.name for step in plain.steps] == [
        "the budget", "one set for all heads", "the indexer"]  # fmt: skip
    assert [step.lost for step in plain.steps] == pytest.approx([0.2, 0.1, 0.2])
    assert plain.kept == pytest.approx(0.5)
    assert quantised.steps[-1].name == "precision=fp8"
    assert quantised.steps[-1].lost == pytest.approx(-0.05)  # a gain
    assert quantised.rows == 2
    for fall in (plain, quantised):
        assert fall.rest == pytest.approx(0, abs=1e-12)


def test_without_both_targets_or_an_indexer_there_is_none():
    frame = scores()
    assert waterfalls(frame[frame["target"] == "head_sum"]) == []
    assert waterfalls(frame[~frame["selector"].str.startswith("lightning")]) == []


def test_steps_that_rest_on_other_rows_are_left_out():
    frame = scores()
    frame.loc[frame["selector"] == "lightning", "mass"] = float("nan")
    assert [fall.selector for fall in waterfalls(frame)] == []


def test_a_setting_without_its_plain_indexer_ends_at_the_indexer():
    mass = {key: value for key, value in MASS.items() if key[1] != "lightning"}
    (fall,) = waterfalls(scores(mass))
    assert [step.name for step in fall.steps][-1] == "the indexer"
    assert fall.steps[-1].lost == pytest.approx(0.15)
