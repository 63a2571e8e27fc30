"""Layer maps by brute force, and nuclei by sorting."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from indexer_lab.selectors.layer_map import layer_map, likeness
from indexer_lab.selectors.nucleus import nucleus


@pytest.mark.parametrize(("drafts", "layers"), [(1, 4), (2, 5), (3, 3), (4, 6), (5, 2)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_the_map_is_the_best_of_all_monotone_maps(drafts, layers, seed):
    values = torch.randn(drafts, layers, generator=torch.Generator().manual_seed(seed))
    maps = [
        each for each in itertools.product(range(drafts), repeat=layers) if sorted(each) == [*each]
    ]
    sums = [sum(float(values[d, v]) for v, d in enumerate(each)) for each in maps]
    assert tuple(layer_map(values)) == maps[sums.index(max(sums))]


def test_equal_maps_take_the_earliest_layers():
    assert layer_map(torch.zeros(3, 4)) == [0, 0, 0, 0]


def test_a_good_match_may_be_out_of_order():
    values = torch.tensor([[0.0, 5.0], [9.0, 0.0]])  # each best alone: 1, then 0
    assert layer_map(values) == [1, 1]


def test_likeness_by_hand():
    sure, even = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.5, 0.5]])
    found = likeness([sure, even], [even, sure])
    assert found[0].tolist() == pytest.approx([-math.log(2), 0.0])
    assert found[1, 0].item() == pytest.approx(0.0)
    assert found[1, 1].item() == pytest.approx(-(0.5 * math.log(0.5) + 0.5 * math.log(0.5 / 1e-12)))


def smallest_nucleus(weights, share):
    """Largest first until their mass is enough: what sorting would keep."""
    order = sorted(range(len(weights)), key=lambda key: -weights[key])
    mass, kept = 0.0, []
    for key in order:
        if kept and mass >= share * sum(weights):
            break
        mass += weights[key]
        kept.append(key)
    return kept


def literal_nucleus(weights, share, rounds):
    """Algorithm 2 of the paper, one number at a time."""
    low, high = 0.0, max(weights)
    for _ in range(rounds):
        middle = (low + high) / 2
        mass = sum(each for each in weights if each >= middle)
        if mass >= share * sum(weights):
            low = middle
        else:
            high = middle
    return [each >= low for each in weights]


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_bisection_is_its_literal_reading_and_near_the_sorted_one(share):
    draw = torch.Generator().manual_seed(5)
    weights = (3 * torch.randn(20, 60, generator=draw)).softmax(-1)
    found = nucleus(weights, share)
    for row, kept in zip(weights.double().tolist(), found.tolist(), strict=True):
        assert kept == literal_nucleus(row, share, 10)
        least = smallest_nucleus(row, share)
        assert all(kept[key] for key in least)
        assert sum(each for each, stays in zip(row, kept, strict=True) if stays) >= share - 1e-6
        extra = [row[key] for key in range(60) if kept[key] and key not in least]
        assert all(row[least[-1]] - each <= max(row) / 2**10 for each in extra)


def test_hidden_keys_never_stay_and_a_share_of_one_keeps_the_rest():
    weights = torch.tensor([0.5, float("-inf"), 0.0, 0.5])
    assert nucleus(weights, 0.9).tolist() == [True, False, False, True]
    assert nucleus(weights, 1.0, rounds=0).tolist() == [True, False, True, True]
    nothing = torch.full((3,), float("-inf"))
    assert not nucleus(nothing, 0.9).any()
