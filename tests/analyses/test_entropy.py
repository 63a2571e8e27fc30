"""The verdict on entropy, on tables made by rule."""

import numpy as np
import pandas as pd
from entropy import judge, points

from study import Finding

RANDOM = np.random.default_rng(5)


def rows(lower, slope, prompts=60, noise=0.01):
    """Rows of both models: entropies `lower` under those without, loss by `slope` of entropy."""
    found = []
    for number in range(prompts):
        text = number % 2 == 1
        own = 1 + number / prompts
        for role in ("topk", "full"):
            entropy = own - lower * (role == "topk") + noise * RANDOM.standard_normal()
            loss = slope * own + noise * RANDOM.standard_normal()
            found.append({"sample": f"p{number}", "task": "source_text" if text else "multi_key",
                          "role": role, "budget": 1, "length": 1000, "text": text,
                          "entropy": entropy, "loss": float(np.clip(loss, -1, 1))})  # fmt: skip
    return pd.DataFrame(found)


def test_both_halves_planted_are_supported():
    assert judge(rows(0.2, 0.3)).finding is Finding.SUPPORTED


def test_higher_entropy_after_training_refutes():
    found = judge(rows(-0.2, 0.3))
    assert found.finding is Finding.NOT_SUPPORTED
    assert "lowers entropy: not supported" in found.sentence


def test_entropy_that_helps_refutes_the_second_half():
    found = judge(rows(0.2, -0.3))
    assert found.finding is Finding.NOT_SUPPORTED
    assert "small loss: not supported" in found.sentence


def test_no_relation_stays_open():
    assert judge(rows(0.2, 0.0)).finding is Finding.UNDECIDED


def test_too_few_prompts_and_a_loss_of_nothing_stay_open():
    assert judge(rows(0.2, 0.3, prompts=6)).finding is Finding.UNDECIDED
    nothing = rows(0.2, 0.3).assign(loss=0.0)
    found = judge(nothing)
    assert found.finding is Finding.UNDECIDED
    assert "unknown" in found.sentence


def test_answers_without_a_loss_leave_the_decision_to_text():
    mixed = rows(0.2, 0.3)
    mixed.loc[~mixed["text"], "loss"] = 0.0
    assert judge(mixed).finding is Finding.SUPPORTED


def test_the_figure_shows_dense_decode_alone():
    entropy = pd.DataFrame({
        "sample": ["a"] * 4, "task": ["source_text"] * 4, "layer": [0] * 4,
        "selector": ["dense", "dense", "dense", "exact"],
        "phase": ["decode", "decode", "prefill", "decode"], "entropy": [1.0, 3.0, 50.0, 90.0],
    })  # fmt: skip
    found = points({"topk": entropy}, {"topk": "a-model"})
    assert found["value"].tolist() == [2.0]
    assert found["panel"].tolist() == ["source text"]
    assert found["selector"].tolist() == ["a-model"]
