"""The verdict on exact top-k decoding, on tables made by rule."""

import numpy as np
import pandas as pd
import pytest
from topk_decoding import ONE_KEY, RATIOS, by_ratio, judge

from indexer_lab.errors import InputError
from study import Finding
from study.quality import paired

KEYS = {ratio: max(1, round(ratio * 1000)) for ratio in RATIOS}


def table(lost, bits, prompts=80):
    """Quality rows: `lost` of ten answers and `bits` more of a text, by budget."""
    rows = []
    for number in range(prompts):
        text = number % 10 == 9
        one = {"sample": f"p{number}", "task": "source_text" if text else f"task-{number % 3}",
               "mode": "decode", "layer": -1, "length": 1000 - number % 7}  # fmt: skip
        for budget in (0, *KEYS.values()):
            wrong = budget > 0 and number % 10 < lost(budget)
            more = bits(budget) + number / 1e5 if budget else 0.0
            rows.append({**one, "budget": budget, "selector": "exact" if budget else "dense",
                         "score": np.nan if text else float(not wrong),
                         "bits_per_byte": 1.0 + more + number / 1000 if text else np.nan,
                         })  # fmt: skip
    return pd.DataFrame(rows)


def verdict(lost, bits, prompts=100):
    rows = paired(table(lost, bits, prompts))
    return judge(rows, KEYS)


def test_nothing_lost_is_supported_and_says_when_the_tasks_see_no_ratio():
    found = verdict(lambda k: 0, lambda k: 0.01, prompts=100)
    assert found.finding is Finding.SUPPORTED
    assert "cannot tell" in found.caveats[0]


def test_a_planted_loss_below_a_ratio_is_found_there():
    found = verdict(lambda k: 9 if k < 10 else 0, lambda k: 0.5 if k < 10 else 0.0)
    assert found.finding is Finding.SUPPORTED
    assert "shown to be good from 1 % of the keys (10) on" in found.sentence
    assert found.caveats == ()


def test_answers_lost_at_a_small_ratio_are_not_supported():
    assert verdict(lambda k: 5 if k < 500 else 0, lambda k: 0).finding is Finding.NOT_SUPPORTED


def test_text_alone_can_refute():
    found = verdict(lambda k: 0, lambda k: 0.2 if k < 500 else 0)
    assert found.finding is Finding.NOT_SUPPORTED
    assert "bits per byte more" in found.sentence


def test_too_few_prompts_leave_it_undecided():
    assert verdict(lambda k: 0, lambda k: 0, prompts=4).finding is Finding.UNDECIDED
    assert verdict(lambda k: 0, lambda k: 0, prompts=30).finding is Finding.UNDECIDED


def test_loss_is_above_zero_where_it_is_worse():
    rows = paired(table(lambda k: 10, lambda k: 0.25, prompts=10))
    assert set(rows.loc[~rows["text"], "loss"]) == {1.0}
    assert rows.loc[rows["text"], "loss"].iloc[0] == pytest.approx(0.25 / 1.009, rel=1e-3)
    assert rows["ratio"].max() == 1.0


def test_the_table_has_a_row_for_each_task_and_budget():
    found = by_ratio(paired(table(lambda k: 0, lambda k: 0.1)))
    assert len(found) == 4 * len(KEYS)
    assert set(found["measure"]) == {"right answers", "bits per byte"}


def test_prompts_without_an_answer_are_refused():
    bare = table(lambda k: 0, lambda k: 0).assign(score=np.nan, bits_per_byte=np.nan)
    with pytest.raises(InputError, match="no prompt has an answer"):
        paired(bare)


def test_one_key_is_one_key():
    assert KEYS[ONE_KEY] == 1
