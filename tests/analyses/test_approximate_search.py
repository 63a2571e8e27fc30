"""The verdict on approximate selectors, on score tables made by hand."""

import approximate_search
import pandas as pd
import pytest
import torch
from approximate_search import candidates, compare, judge

from indexer_lab.selectors import selector
from indexer_probes.records import IndexerRecord, LayerRecord, PlainKeys
from study import Finding

PROMPTS = 8
EXACT = {"bytes_read": 1000.0, "multiply_adds": 400.0}


def scores(**selectors):
    """name -> (share of exact's bytes, mass ratio of even prompts, of odd ones)."""
    rows = []
    for name, (share, even, odd) in {"exact": (1.0, 1.0, 1.0), **selectors}.items():
        for prompt in range(PROMPTS):
            kept = odd if prompt % 2 else even
            costs = {key: value * share for key, value in EXACT.items()}
            row = {"sample": f"p{prompt}", "selector": name, "level": "token"}
            row |= {"mass_ratio": kept, "recall": kept / 2}
            rows.append({**row, "trivial": False, **costs})
            rows.append({**row, "trivial": True, **costs, "mass_ratio": 0.0, "recall": 0.0})
    return pd.DataFrame(rows)


@pytest.mark.parametrize(
    ("selectors", "finding"),
    [
        ({"a": (0.2, 0.97, 0.98)}, Finding.SUPPORTED),
        ({"a": (0.2, 0.97, 0.98), "b": (0.1, 0.1, 0.2)}, Finding.SUPPORTED),
        ({"a": (0.2, 0.5, 0.6)}, Finding.NOT_SUPPORTED),
        ({"a": (0.2, 0.90, 0.99)}, Finding.UNDECIDED),
        ({"a": (0.2, 0.90, 0.99), "b": (0.1, 0.93, 0.94)}, Finding.UNDECIDED),
        ({"a": (0.3, 0.99, 0.99)}, Finding.UNDECIDED),
        ({"random": (0.0, 0.99, 0.99)}, Finding.UNDECIDED),
    ],
)
def test_the_best_selector_within_the_limit_decides(selectors, finding):
    assert judge(compare(scores(**selectors))).finding is finding


def test_costs_are_shares_of_exact_and_trivial_rows_do_not_count():
    table = compare(scores(a=(0.2, 0.9, 0.8), b=(0.5, 1.0, 1.0))).set_index("selector")
    assert table.loc["a", "bytes_share"] == pytest.approx(0.2)
    assert table.loc["a", "multiply_add_share"] == pytest.approx(0.2)
    assert table.loc["a", "mass_ratio"] == pytest.approx(0.85)
    assert table.loc["a", "recall"] == pytest.approx(0.425)
    assert table["judged"].to_dict() == {"a": True, "b": False, "exact": False}


def test_more_selectors_within_the_limit_widen_each_interval():
    one = compare(scores(a=(0.2, 0.9, 0.99))).set_index("selector").loc["a"]
    rest = {f"s{number}": (0.1, 0.2, 0.3) for number in range(12)}
    many = compare(scores(a=(0.2, 0.9, 0.99), **rest)).set_index("selector").loc["a"]
    assert many["mass_ratio"] == one["mass_ratio"]
    assert many["mass_ratio_low"] < one["mass_ratio_low"]
    assert many["mass_ratio_high"] > one["mass_ratio_high"]


def test_the_sentence_names_the_selector_and_its_costs():
    verdict = judge(compare(scores(a=(0.2, 0.97, 0.98), b=(0.1, 0.1, 0.2))))
    assert "a reads 20.0% of the bytes" in verdict.sentence
    assert [number.name for number in verdict.numbers] == ["mass ratio of a", "mass ratio of b"]
    few = scores(a=(0.2, 0.97, 0.98))
    few = few[few["sample"].isin(["p0", "p1"])]
    undecided = judge(compare(few))
    assert undecided.finding is Finding.UNDECIDED
    assert "only 2 prompts" in undecided.sentence


@pytest.mark.parametrize("dim", [16, 64, 128])
@pytest.mark.parametrize("indexed", [False, True])
def test_every_candidate_can_be_spelled_for_any_head_dim(dim, indexed):
    index = IndexerRecord(
        torch.randn(4, 2, 8), torch.randn(900, 8), torch.ones(2, 4), 1.0,
        torch.zeros(1, 2, 1, dtype=torch.int64),
    )  # fmt: skip
    keys = PlainKeys(torch.randn(1, 900, dim))
    record = LayerRecord(
        0, torch.randn(2, 2, dim), keys, torch.tensor([800, 899]), 1.0,
        indexer=index if indexed else None,
    )  # fmt: skip
    spelled = candidates(record)
    assert ("lightning" in spelled) == indexed
    assert len(set(spelled)) == len(spelled)
    for each in spelled:
        if "faiss" not in each:
            assert selector(each).fit(record).top(5).shape == (
                1 if each.startswith(("lightning", "index")) else 2, 2, 5
            )  # fmt: skip


def test_the_claim_says_the_numbers_that_are_judged():
    assert approximate_search.LIMIT == 0.25
    assert "a quarter" in approximate_search.SCRIPT.claim
    assert f"{approximate_search.BAR:.0%}".replace("%", " %") in approximate_search.SCRIPT.claim
