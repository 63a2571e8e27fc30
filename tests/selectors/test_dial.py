"""The dial: its precision to the key, what it keeps, what it fills with."""

import pytest
import torch

from indexer_lab.selectors import selector
from indexer_probes.records import LayerRecord, MaskRule, PlainKeys

KEYS = 60
BUDGET = 10


def record(window=None):
    draw = torch.Generator().manual_seed(5)
    positions = torch.tensor([2, 9, 10, 13, 30, 59])
    queries = torch.randn(4, len(positions), 8, generator=draw)
    keys = PlainKeys(torch.randn(2, KEYS, 8, generator=draw))
    return LayerRecord(1, queries, keys, positions, 0.35, MaskRule(window))


def ranking(layer, head, row):
    """Visible keys, best first, by a plain sort."""
    logits = layer.logits(slice(None))[head, row]
    seen = layer.visible(slice(None))[row].nonzero()[:, 0].tolist()
    return sorted(seen, key=lambda key: -float(logits[key]))


def picked(layer, text, head, row):
    support = selector(text).fit(layer).top(BUDGET)[head, row].tolist()
    return [key for key in support if key >= 0]


@pytest.mark.parametrize("precision", [0.0, 0.25, 0.6, 0.75, 1.0])
@pytest.mark.parametrize("knobs", ["fill=next", "fill=random", "fill=random,keep=uniform"])
@pytest.mark.parametrize("window", [None, 12])
def test_precision_is_what_was_set_wherever_wrong_keys_exist(precision, knobs, window):
    layer = record(window)
    for head in range(4):
        for row in range(layer.rows):
            ranks = ranking(layer, head, row)
            places = min(BUDGET, len(ranks))
            lost = min(places - int(precision * places + 0.5), len(ranks) - places)
            found = picked(layer, f"dial:precision={precision},{knobs}", head, row)
            assert len(found) == places
            assert len(set(found) & set(ranks[:places])) == places - lost


def test_best_and_next_are_two_runs_of_the_ranking():
    layer = record()
    ranks = ranking(layer, 2, 5)
    found = picked(layer, "dial:precision=0.6,fill=next", 2, 5)
    assert found == [*ranks[:6], *ranks[10:14]]


def test_uniform_keeps_the_strongest_as_often_as_any_other():
    draw = torch.Generator().manual_seed(1)
    keys = PlainKeys(torch.randn(1, 200, 4, generator=draw))
    queries = torch.randn(1, 150, 4, generator=draw)
    layer = LayerRecord(0, queries, keys, torch.arange(50, 200), 0.5)
    exact = selector("exact").fit(layer).top(BUDGET)[0]
    kept = selector("dial:precision=0.5,keep=uniform").fit(layer).top(BUDGET)[0]
    share = (exact[..., None] == kept[:, None]).any(-1).float().mean(0)  # (rank,)
    assert ((share - 0.5).abs() < 0.16).all()  # four standard deviations of 150 coin throws


def test_a_random_fill_is_uniform_over_the_wrong_keys():
    rows = 400
    layer = LayerRecord(
        0,
        torch.ones(1, rows, 1),
        PlainKeys(-torch.arange(1000.0)[None, :, None]),  # the first keys rank first
        torch.arange(600, 600 + rows),
        1.0,
    )
    found = selector("dial:precision=0").fit(layer).top(BUDGET)[0]
    share = (found - BUDGET) / (layer.positions[:, None] + 1 - BUDGET)  # uniform on [0, 1)
    assert (share >= 0).all()
    counts = torch.histc(share, bins=10, min=0, max=1)
    assert ((counts - rows) ** 2 / rows).sum().item() < 28  # 0.1 % quantile, 9 degrees


def test_a_lower_uniform_precision_keeps_a_subset():
    layer = record()
    exact = set(picked(layer, "exact", 0, 5))
    low = set(picked(layer, "dial:precision=0.3,keep=uniform", 0, 5)) & exact
    high = set(picked(layer, "dial:precision=0.7,keep=uniform", 0, 5)) & exact
    assert low < high
    other = set(picked(layer, "dial:precision=0.3,keep=uniform,seed=7", 0, 5)) & exact
    assert len(low) == len(other) == 3


def test_rows_do_not_depend_on_each_other():
    layer, rows = record(), torch.tensor([1, 4])
    for text in ("dial:precision=0.4", "dial:precision=0.4,keep=uniform,target=head_sum"):
        whole = selector(text).fit(layer).top(BUDGET)
        assert torch.equal(selector(text).fit(layer.at(rows)).top(BUDGET), whole[:, rows])


def test_full_precision_is_the_exact_answer():
    layer = record()
    for goal in ("per_head", "head_sum", "kv_group", "best_shared"):
        exact = selector(f"exact:{goal}").fit(layer).top(BUDGET)
        assert torch.equal(selector(f"dial:1:target={goal}").fit(layer).top(BUDGET), exact)
