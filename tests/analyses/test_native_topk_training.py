"""The verdict on training with top-k, on tables made by rule."""

import numpy as np
import pandas as pd
import pytest
from native_topk_training import RATIOS, TRAINED, by_ratio, gains, judge, points

from study import Finding

KEYS = {ratio: max(1, round(ratio * 1000)) for ratio in RATIOS}


def rows(answers, bits, prompts=40, full=(1.0, 1.0)):
    """Paired rows of both models. answers: role -> right at the trained ratio, of ten; bits: role
    -> bits per byte there; full: bits per byte under full attention, tuned with top-k and without.
    """
    found = []
    for number in range(prompts):
        text = number % 2 == 1
        for role, at_full in zip(("topk", "full"), full, strict=True):
            for budget in KEYS.values():
                right = float(number % 20 < 2 * answers[role])
                cost = bits[role] + number / 1000
                found.append({
                    "sample": f"p{number}", "task": "source_text" if text else "multi_key",
                    "mode": "decode", "role": role, "budget": budget, "ratio": budget / 1000,
                    "text": text, "quality": cost if text else right,
                    "full": at_full if text else 1.0,
                })  # fmt: skip
    return gains(pd.DataFrame(found), KEYS)


def finding(answers=(5, 5), bits=(1.2, 1.2), **more):
    names = ("topk", "full")
    made = rows(dict(zip(names, answers, strict=True)), dict(zip(names, bits, strict=True)), **more)
    return judge(made).finding


def test_a_planted_gain_in_text_is_found():
    assert finding(bits=(1.1, 1.2)) is Finding.SUPPORTED


def test_a_planted_gain_in_answers_is_found():
    assert finding(answers=(9, 4)) is Finding.SUPPORTED


def test_a_gain_in_one_and_a_loss_in_the_other_is_no_support():
    assert finding(answers=(4, 9), bits=(1.1, 1.2)) is Finding.NOT_SUPPORTED


def test_no_gain_where_answers_leave_room_for_one_is_undecided():
    assert finding() is Finding.UNDECIDED


def test_a_gain_of_a_thousandth_is_no_support():
    assert finding(bits=(1.1988, 1.2)) is Finding.UNDECIDED
    made = rows({"topk": 5, "full": 5}, {"topk": 1.1988, "full": 1.2})
    assert judge(made[made["text"]]).finding is Finding.NOT_SUPPORTED


def test_too_few_prompts_leave_it_undecided():
    assert finding(bits=(1.0, 1.5), prompts=4) is Finding.UNDECIDED


def test_a_gain_that_full_attention_has_too_is_told_apart():
    made = rows({"topk": 5, "full": 5}, {"topk": 1.0, "full": 1.25}, full=(1.0, 1.25))
    text = made[made["text"] & (made["ratio"] == TRAINED)]
    assert (text["gain"] > 0.15).all()
    assert text["narrowed"].abs().max() < 0.05
    assert "full attention" in judge(made).caveats[0]


def test_gains_are_paired_by_prompt():
    made = rows({"topk": 9, "full": 4}, {"topk": 1.1, "full": 1.2})
    own = made[(made["sample"] == "p10") & (made["ratio"] == TRAINED)]
    assert own["gain"].tolist() == [1.0]
    text = made[(made["sample"] == "p1") & (made["ratio"] == TRAINED)]
    assert text["gain"].iloc[0] == pytest.approx(0.1 / 1.201)


def test_tables_hold_every_ratio():
    made = rows({"topk": 9, "full": 4}, {"topk": 1.1, "full": 1.2})
    assert len(by_ratio(made)) == 2 * len(KEYS)
    plotted = points(made)
    assert plotted["panel"].nunique() == 2
    assert np.isfinite(plotted["value"]).all()
