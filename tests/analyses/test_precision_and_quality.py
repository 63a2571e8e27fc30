"""The verdict on precision, on tables made by rule."""

import numpy as np
import pandas as pd
import pytest
from precision_and_quality import CURVES, PRECISIONS, by_precision, dialled, judge

from study import Finding
from study.quality import paired


def rows(uniform, best=lambda p: 1.0, prompts=40):
    """Dialled rows; uniform, best: precision -> share of the prompts that are still right."""
    found = []
    for number in range(prompts):
        text = number % 2 == 1
        one = {"sample": f"p{number}", "task": "source_text" if text else "multi_key",
               "mode": "decode", "layer": -1, "length": 1000}  # fmt: skip

        def add(selector, share, one=one, text=text, number=number):
            right = float((number // 2 % 10) < 10 * share)
            budget = 0 if selector == "dense" else 8
            bits = (2 - share) * (1 + number / 1000)
            found.append({**one, "selector": selector, "budget": budget,
                          "score": np.nan if text else right,
                          "bits_per_byte": bits if text else np.nan})  # fmt: skip

        add("dense", 1.0)
        add("exact", 1.0)
        for curve in CURVES:
            share = uniform if curve.keep == "uniform" else best
            for p in PRECISIONS:
                add(f"dial:precision={p},fill={curve.fill},keep={curve.keep}", share(p))
    return dialled(paired(pd.DataFrame(found)))


def test_a_planted_rise_is_supported_with_its_threshold():
    found = judge(rows(lambda p: 0.4 + 0.6 * p), budget=8)
    assert found.finding is Finding.SUPPORTED
    name = "precision needed, answers, kept at random, next fill"
    needed = {n.name: n for n in found.numbers}[name]
    assert 0.6 <= needed.low <= needed.estimate <= needed.high <= 1.0


def test_a_fall_is_not_supported():
    assert judge(rows(lambda p: float(p < 0.8)), budget=8).finding is Finding.NOT_SUPPORTED


def test_no_effect_and_too_few_prompts_stay_open():
    assert judge(rows(lambda p: 1.0), budget=8).finding is Finding.UNDECIDED
    assert judge(rows(lambda p: p, prompts=6), budget=8).finding is Finding.UNDECIDED


def test_a_curve_that_never_breaks_says_so():
    found = judge(rows(lambda p: p), budget=8)
    assert "down to the smallest x measured" in found.sentence


def test_knobs_are_compared_all_else_alike():
    numbers = {n.name: n for n in judge(rows(lambda p: 0.5), budget=8).numbers}
    assert numbers["answers, by keeping exact keys at random instead of the best"].estimate == 0.5
    assert numbers["answers, by a random fill instead of the next"].estimate == 0.0
    text = numbers["text, by keeping exact keys at random instead of the best"]
    assert text.estimate == pytest.approx(1 - 1 / 1.5)


def test_exact_is_the_end_of_every_curve():
    found = rows(lambda p: p)
    ends = found[found["precision"] == 1]
    assert ends.groupby(["fill", "keep"]).ngroups == len(CURVES)
    assert len(by_precision(found)) == 2 * len(CURVES) * (len(PRECISIONS) + 1)
