"""Top-k against a stable full sort: ties, masks, odd shapes, both code paths."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from indexer_kernels.topk import KernelError, _topk_torch, topk
from indexer_kernels.topk_cpu import BLOCK_SCORES, _survivors, topk_cpu

HIDDEN = float("-inf")


def by_sorting(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    values, positions = scores.sort(dim=-1, descending=True, stable=True)
    return values[..., :k], positions[..., :k].masked_fill(values[..., :k] == HIDDEN, -1)


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (2, 5, 129), (1, 1, 4, 1000), (17, 4097)])
@pytest.mark.parametrize("levels", [None, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_equals_a_stable_sort(shape: tuple[int, ...], levels: int | None, dtype: torch.dtype):
    generator = torch.Generator().manual_seed(sum(shape))
    scores = torch.randn(shape, generator=generator)
    if levels:
        scores = (scores * levels).round().relu() - 1  # mostly ties
    scores = scores.masked_fill(torch.rand(shape, generator=generator) < 0.3, HIDDEN).to(dtype)
    for k in {1, max(1, shape[-1] // 3), shape[-1]}:
        values, positions = topk(scores, k)
        expected_values, expected = by_sorting(scores, k)
        assert torch.equal(positions, expected)
        assert torch.equal(values, expected_values)
        assert values.dtype == dtype


def shapes_of_scores() -> dict[str, Tensor]:
    """Rows of 5003 scores: no group divides them, so that some keys belong to none."""
    draw = torch.Generator().manual_seed(8)
    spread = torch.randn(6, 5003, generator=draw)
    near, apart, last = spread.clone(), spread.clone(), spread.clone()
    near[:, 1000:1400] += 50  # neighbours are large together
    apart[:, ::312] += 50  # keys of one group are large together, whatever its size
    last[:, -3:] += 50  # keys that belong to no group
    ragged = spread.masked_fill(torch.arange(5003) > torch.arange(6)[:, None] * 900, HIDDEN)
    return {
        "spread": spread, "near": near, "apart": apart, "last": last, "hidden": ragged,
        "tied": (spread * 2).round(), "rising": torch.arange(5003.0).expand(6, -1),
        "falling": -torch.arange(5003.0).expand(6, -1), "equal": torch.ones(6, 5003),
    }  # fmt: skip


@pytest.mark.parametrize("kind", shapes_of_scores())
@pytest.mark.parametrize("k", [1, 100, 208, 300, 625, 833, 834, 2000])
def test_a_bound_from_groups_loses_no_key(kind: str, k: int):
    scores = shapes_of_scores()[kind]
    assert torch.equal(topk(scores, k)[1], by_sorting(scores, k)[1])


def test_few_places_compare_few_scores():
    scores = torch.randn(4, 4096, generator=torch.Generator().manual_seed(2)).numpy()
    places = _survivors(scores, 64, group=16)
    assert places is not None
    assert 4 * 64 <= len(places) < 4 * 64 * 2


@pytest.mark.parametrize("select", [topk_cpu, _topk_torch])
def test_both_paths_settle_ties_by_position(select):
    rows = torch.tensor([[1.0, 2.0, 2.0, 1.0, 2.0], [0.0, 0.0, 0.0, 0.0, 0.0]])
    values, positions = select(rows, 4)
    assert positions.tolist() == [[1, 2, 4, 0], [0, 1, 2, 3]]
    assert values.tolist() == [[2, 2, 2, 1], [0, 0, 0, 0]]


def test_minus_zero_ties_with_zero():
    assert topk(torch.tensor([[-0.0, 0.0, -0.0]]), 2)[1].tolist() == [[0, 1]]


def test_infinite_and_tiny_scores_keep_their_order():
    scores = torch.tensor([[1e-45, float("inf"), -1e-45, -3e38, 0.0, HIDDEN]])
    assert topk(scores, 6)[1].tolist() == [[1, 0, 4, 2, 3, -1]]


def test_more_places_than_keys_are_padded():
    values, positions = topk(torch.tensor([[3.0, HIDDEN, 5.0]]), 5)
    assert positions.tolist() == [[2, 0, -1, -1, -1]]
    assert values.tolist() == [[5.0, 3.0, HIDDEN, HIDDEN, HIDDEN]]


def test_rows_without_a_visible_key_are_all_pads():
    assert topk(torch.full((2, 3), HIDDEN), 2)[1].tolist() == [[-1, -1], [-1, -1]]


def test_no_rows_and_no_keys():
    assert topk(torch.empty(0, 4), 2)[1].shape == (0, 2)
    assert topk(torch.empty(3, 0), 2)[1].tolist() == [[-1, -1]] * 3


@pytest.mark.parametrize("place", [0, 4999])
@pytest.mark.parametrize("nan", [float("nan"), -float("nan")])
def test_a_nan_anywhere_is_refused(place: int, nan: float):
    scores = torch.randn(3, 5000)
    scores[1, place] = nan
    with pytest.raises(KernelError, match="NaN"):
        topk(scores, 2)


def test_no_places_are_refused():
    with pytest.raises(KernelError, match="k = 0"):
        topk(torch.zeros(1, 3), 0)


def test_blocks_and_threads_change_nothing():
    scores = torch.randn(40, BLOCK_SCORES // 16)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        several = topk(scores, 33)[1]
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(several, by_sorting(scores, 33)[1])


def test_scores_may_be_a_strided_view_that_wants_gradients():
    scores = torch.randn(6, 2, 50, requires_grad=True).transpose(0, 1)[..., ::2]
    assert torch.equal(topk(scores, 9)[1], by_sorting(scores, 9)[1])
