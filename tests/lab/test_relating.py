"""Tables with a planted relation between fidelity and quality, joined and asked."""

import numpy as np
import pandas as pd
import pytest

from indexer_lab.errors import InputError
from indexer_lab.relating import join, predictors, relations, swap_effects, thresholds

SELECTORS = {"exact": 1.0, "dial:0.9": 0.9, "dial:0.6": 0.6, "dial:0.3": 0.3, "random": 0.05}
SAMPLES, LAYERS = 24, 2
DRAWS = 200


def tables(effect=1.0, seed=0):
    """A score table of two layers and three rows, a quality table with swaps.

    Quality follows mass, which follows recall loosely; layer 1 matters four times as much.
    """
    draw = np.random.default_rng(seed)
    scores, quality = [], []
    for number in range(SAMPLES):
        sample, length = f"s{number}", int(draw.integers(100, 900))
        entropy = draw.random() + length / 900
        base = {"sample": sample, "length": length, "mode": "replay"}
        quality.append({**base, "selector": "dense", "budget": 0, "layer": -1, "agreement": 1.0,
                        "kl": 0.0})  # fmt: skip
        for selector, recall in SELECTORS.items():
            masses = np.clip(recall + 0.1 * draw.normal(size=LAYERS), 0, 1)
            fidelity = [{"recall": recall, "mass": m, "output_error": 1 - m} for m in masses]
            for layer in range(LAYERS):
                own = {"sample": sample, "selector": selector, "budget": 8, "layer": layer}
                facts = {**own, "target": "per_head", "entropy": entropy}
                scores += [{**facts, "trivial": False, **fidelity[layer]}] * 2
                nothing = {"recall": 1.0, "mass": 1.0, "output_error": 0.0}
                scores.append({**facts, "trivial": True, **nothing})
                kl = (1 + 3 * layer) * (1 - masses[layer])
                quality.append({**base, **own, "agreement": 1.0, "kl": kl, "delta_nll": -kl})
            kept = 1 - effect * (1 - masses.mean()) + 0.03 * draw.normal()
            whole = {"selector": selector, "budget": 8, "layer": -1}
            quality.append({**base, **whole, "agreement": kept, "kl": 1 - kept})
    return pd.DataFrame(scores), pd.DataFrame(quality).assign(score=np.nan)


@pytest.fixture(scope="module")
def joined():
    return join(*tables(), "per_head", "replay")


def test_pairs_are_means_over_the_rows_that_count(joined):
    scores, _ = tables()
    assert len(joined.pairs) == SAMPLES * len(SELECTORS)
    one = joined.pairs[(joined.pairs["sample"] == "s3") & (joined.pairs["selector"] == "dial:0.6")]
    rows = scores[(scores["sample"] == "s3") & (scores["selector"] == "dial:0.6")]
    assert one["mass"].item() == pytest.approx(rows.loc[~rows["trivial"], "mass"].mean())
    assert (joined.pairs["dense"] == 1).all()
    assert joined.notes["prompts"] == SAMPLES
    assert joined.notes["trivial rows left out"] == joined.notes["score rows"] // 3
    assert joined.notes["quality rows without scores"] == 0
    assert len(joined.swapped) == SAMPLES * len(SELECTORS) * LAYERS


def test_what_was_planted_is_found(joined):
    table = relations(joined, DRAWS).set_index(["question", "x", "method", "held"])
    mass = table.loc["quality", "mass", "pearson", ""]
    assert mass["low"] > 0.95
    assert mass["p_holm"] > mass["p"]
    held = table.loc["quality", "mass", "pearson", "length, entropy"]
    assert held["low"] > 0.9
    assert table.loc["quality", "output_error", "spearman", ""]["high"] < -0.8
    assert table.loc["swap", "mass", "spearman", ""]["high"] < -0.6
    entropy = table.loc["entropy, budget 8", "entropy", "spearman", "length"]
    assert entropy["low"] < 0 < entropy["high"]
    assert (table["pairs"] > 0).all()


def test_mass_predicts_best_and_recall_is_behind(joined):
    table = predictors(joined, DRAWS).set_index("name")
    assert table.index[-1] == "recall"
    assert table.loc["mass", "r2"] > 0.9
    assert table.loc["recall", "behind_low"] > 0


def test_the_threshold_is_where_it_was_planted(joined):
    table = thresholds(joined, draws=DRAWS).set_index(["x", "budget"])
    for budget in (0, 8):
        found = table.loc["mass", budget]
        assert found["low"] - 0.02 <= 0.95 <= found["high"] + 0.02  # a line: quality is mass
        assert table.loc["recall", budget]["low"] > 0.6


def test_no_effect_gives_intervals_around_zero():
    none = join(*tables(effect=0.0), "per_head", "replay")
    table = relations(none, DRAWS)
    asked = table[table["question"] == "quality"]
    assert (asked["p_holm"] > 0.05).all()
    assert ((asked["low"] <= 0) & (asked["high"] >= 0)).mean() > 0.8


def test_exact_is_only_paired_with_the_same_exact():
    scores, quality = tables()
    shared = join(scores.assign(target="head_sum"), quality, "head_sum", "replay")
    assert "exact" not in set(shared.pairs["selector"])
    assert shared.notes["quality rows without scores"] == SAMPLES


def test_few_prompts_are_reported_as_such():
    scores, quality = tables()
    few = {"s0", "s1"}
    joined = join(
        scores[scores["sample"].isin(few)], quality[quality["sample"].isin(few)], "per_head",
        "replay",
    )  # fmt: skip
    assert (relations(joined, DRAWS)["reason"] != "").all()
    assert predictors(joined, DRAWS)["r2_low"].isna().all()
    one = join(scores[scores["sample"] == "s0"], quality, "per_head", "replay")
    assert "2 prompts" in predictors(one, DRAWS)["reason"].item()


def test_tables_that_do_not_meet_are_refused():
    scores, quality = tables()
    with pytest.raises(InputError, match="target 'head_sum'; the table holds per_head"):
        join(scores, quality, "head_sum", "replay")
    with pytest.raises(InputError, match="mode 'decode'; the table holds replay"):
        join(scores, quality, "per_head", "decode")
    with pytest.raises(InputError, match="in both tables"):
        join(scores.assign(budget=9), quality, "per_head", "replay")


def test_swap_effects_by_hand_whichever_mode_measured_them():
    own = {"sample": "a", "selector": "exact", "budget": 4}
    dense = {"sample": "a", "selector": "dense", "budget": 0, "layer": -1}
    rows = [
        {**dense, "mode": "replay", "kl": 0.0, "delta_nll": 0.0},
        {**own, "mode": "replay", "layer": 2, "kl": 0.5, "delta_nll": -0.25},
        {**own, "mode": "replay", "layer": -1, "kl": 9.0, "delta_nll": 9.0},
        {**dense, "mode": "decode", "score": 1.0},
        {**own, "mode": "decode", "layer": 2, "score": 0.0},
        {**own, "mode": "decode", "layer": 3, "score": 1.0},
    ]
    found = swap_effects(pd.DataFrame(rows)).set_index("layer")
    assert found.loc[2, ["swap_kl", "swap_delta_nll", "swap_score"]].tolist() == [0.5, -0.25, -1]
    assert found["swap_kl"].isna().tolist() == [False, True]
    assert found.loc[3, "swap_score"] == 0


def test_a_sample_without_an_answer_is_counted_and_left_out():
    scores, quality = tables()
    quality.loc[quality["sample"] == "s5", "agreement"] = np.nan
    joined = join(scores, quality, "per_head", "replay")
    assert joined.notes["rows without an answer"] == len(SELECTORS)
    assert joined.notes["prompts"] == SAMPLES - 1
    assert predictors(joined, DRAWS)["r2"].notna().all()
