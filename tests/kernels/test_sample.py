"""The sample that guesses a gate: where it looks, and what rank it asks for."""

import pytest
import torch

from indexer_kernels.sample import (
    STRIDE,
    expected_candidates,
    group_rank,
    sample_group,
    sample_rank,
    sampled_positions,
)


def test_one_key_of_every_stride_is_drawn_at_every_phase():
    picks = sampled_positions(8001, torch.device("cpu"))
    assert picks.tolist() == sorted(picks.tolist())
    assert torch.equal(picks // STRIDE, torch.arange(1001))
    assert torch.bincount(picks % STRIDE, minlength=STRIDE).min() > 80


@pytest.mark.parametrize("k", [1, 16, 300])
def test_the_top_of_mixed_rows_reaches_the_asked_rank_hardly_ever(k):
    """The gate is too high only where more of the top-k are in the sample than its rank."""
    torch.manual_seed(0)
    picks = sampled_positions(4096, torch.device("cpu"))
    in_sample = torch.zeros(4096)
    in_sample[picks] = 1
    tops = torch.rand(1000, 4096).topk(k).indices
    assert in_sample[tops].sum(-1).max() <= sample_rank(k)
    assert expected_candidates(k) >= k


@pytest.mark.parametrize(("samples", "group", "rank"), [(2048, 8, 200), (300, 2, 170), (96, 4, 96)])
def test_groups_that_the_largest_samples_fall_into(samples, group, rank):
    torch.manual_seed(1)
    tops = torch.rand(400, samples).topk(rank).indices // group
    hit = torch.zeros(400, samples // group).scatter_(1, tops, 1.0).sum(-1).mean()
    if rank == samples:
        assert group_rank(samples, group, rank) == samples  # more than there are: no gate
    else:
        assert group_rank(samples, group, rank) == pytest.approx(hit.item(), rel=0.02)


def test_groups_are_large_where_there_are_many_and_pairs_for_causal_rows():
    assert sample_group(131072, 2048, causal=False) == 8
    assert sample_group(30000, 2048, causal=False) == 2
    assert sample_group(131072, 2048, causal=True) == 2
