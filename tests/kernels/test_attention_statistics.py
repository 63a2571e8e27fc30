"""attention_statistics against the reference, and against numbers known by hand."""

import math

import pytest
import torch

from indexer_kernels.attention_statistics import (
    SHARES,
    attention_statistics,
    attention_statistics_reference,
    log_sum_exp,
)
from indexer_kernels.operands import as_rows
from indexer_kernels.streaming import shares_of_keys
from indexer_kernels.topk import KernelError

BACKENDS = ("triton", "torch")


def operands(device, key=290, dim=24, dtype=torch.bfloat16):
    torch.manual_seed(1)
    queries = torch.randn(4, 3, dim, device=device, dtype=dtype)
    keys = torch.randn(2, key, dim, device=device, dtype=dtype)
    return queries, keys


@pytest.mark.parametrize("options", [{}, {"positions": [0, 130, 289]},
                                     {"positions": [3, 130, 289], "window": 40}])  # fmt: skip
def test_equals_the_reference(options, device):
    queries, keys = operands(device)
    if "positions" in options:
        options = {**options, "positions": torch.tensor(options["positions"], device=device)}
    support = torch.stack([torch.randperm(290)[:9] for _ in range(6)]).view(2, 3, 9).to(device)
    support[0, 0, 7:] = -1
    options = {**options, "support": support, "scale": 0.3}
    found = attention_statistics(queries, keys, backend="triton", **options)
    expected = attention_statistics_reference(queries, keys, **options)
    torch.testing.assert_close(found.lse, expected.lse, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.entropy, expected.entropy, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.mass, expected.mass, rtol=1e-4, atol=1e-6)
    assert torch.equal(found.top1, expected.top1)


ODD = {
    "less than a tile": (5, {}),
    "whole tiles": (256, {}),
    "one key over": (257, {}),
    "causal, whole and cut tiles": (513, {"positions": [512, 255, 256]}),
    "causal, a row that sees nothing": (300, {"positions": [-1, 128, 299]}),
    "window over a tile's edge": (400, {"positions": [-1, 130, 399], "window": 7}),
    "negative scale": (260, {"scale": -0.4}),
    "scale 0": (130, {"scale": 0.0}),
    "large logits": (300, {"scale": 40.0}),
}


@pytest.mark.parametrize("dim", [8, 136, 192])
@pytest.mark.parametrize("case", ODD)
@pytest.mark.parametrize("top1", [True, False])
def test_lengths_masks_and_scales(case, dim, top1, device):
    key, options = ODD[case]
    if "positions" in options:
        options = {**options, "positions": torch.tensor(options["positions"], device=device)}
    queries, keys = operands(device, key=key, dim=dim)
    options = {"scale": 0.2, "top1": top1, **options}
    found = attention_statistics(queries, keys, backend="triton", **options)
    expected = attention_statistics_reference(queries, keys, **options)
    torch.testing.assert_close(found.lse, expected.lse, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(found.entropy, expected.entropy, rtol=1e-4, atol=1e-4)
    if top1:
        assert torch.equal(found.top1, expected.top1)
    else:
        assert found.top1 is None
        assert expected.top1 is None
    again = attention_statistics(queries, keys, backend="triton", **options)
    assert torch.equal(found.lse, again.lse)
    assert torch.equal(found.entropy, again.entropy)


@pytest.mark.parametrize("top1", [True, False])
@pytest.mark.parametrize("backend", BACKENDS)
def test_infinite_logits_hide_their_keys(backend, top1, device):
    """Keys 0 to 259 (two whole tiles, part of a third) are -inf, then logits 1 and 1."""
    keys = torch.full((1, 262, 1), -math.inf, device=device)
    keys[0, 260:] = 1.0
    queries = torch.ones(1, 1, 1, device=device)
    found = attention_statistics(queries, keys, top1=top1, backend=backend)
    assert found.lse.item() == pytest.approx(1 + math.log(2), abs=1e-6)
    assert found.entropy.item() == pytest.approx(math.log(2), abs=1e-6)
    assert not top1 or found.top1.item() == 260
    nothing = attention_statistics(queries, keys[:, :260], top1=top1, backend=backend)
    assert nothing.lse.item() == -math.inf
    assert nothing.entropy.item() == 0.0
    assert not top1 or nothing.top1.item() == -1


@pytest.mark.parametrize("first", [0, 1, 7, 127, 128, 300])
def test_the_lowest_position_wins_a_tie(first, device):
    """Equal largest logits in every lane and tile from `first` on."""
    keys = torch.zeros(1, 400, 1, device=device)
    keys[0, first:] = 2.0
    queries = torch.ones(1, 2, 1, device=device)
    found = attention_statistics(queries, keys, backend="triton")
    assert found.top1.tolist() == [[first, first]]


def test_many_shares_of_keys_join(monkeypatch, device):
    """More shares than tiles that hold keys for a row: the empty ones add nothing."""
    queries, keys = operands(device, key=700)
    options = {"positions": torch.tensor([0, 300, 699], device=device), "scale": 0.3}
    monkeypatch.setattr("indexer_kernels.streaming.shares_of_keys", lambda *_, **__: 5)
    found = attention_statistics(queries, keys, backend="triton", **options)
    expected = attention_statistics_reference(queries, keys, **options)
    torch.testing.assert_close(found.lse, expected.lse, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(found.entropy, expected.entropy, rtol=1e-4, atol=1e-5)
    assert torch.equal(found.top1, expected.top1)


def test_blocks_fill_a_gpu_in_whole_waves(monkeypatch):
    """64 row blocks on 132 multiprocessors of two blocks: waves of 264."""
    facts = type("Facts", (), {"multi_processor_count": 132})
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: facts)
    splits = shares_of_keys(64, 1024, 2, torch.device("cuda"))
    waves = -(-64 * splits // 264)
    assert 64 * splits > 0.95 * 264 * waves
    assert shares_of_keys(8192, 1024, 1, torch.device("cuda")) == 1
    assert 64 * shares_of_keys(64, 1024, 2, torch.device("cuda"), uneven=True) >= 4 * 264


def test_wide_blocks_of_rows(device):
    """256 rows and more at width 192 take the larger tile."""
    torch.manual_seed(3)
    queries = torch.randn(1, 257, 192, device=device, dtype=torch.bfloat16)
    keys = torch.randn(1, 130, 192, device=device, dtype=torch.bfloat16)
    lse = log_sum_exp(as_rows(queries, keys, 0.1, None, None))
    expected = attention_statistics_reference(queries, keys, scale=0.1).lse
    torch.testing.assert_close(lse, expected, rtol=1e-6, atol=1e-5)


def test_keys_needed_equal_the_reference(device):
    queries, keys = operands(device, key=150)
    options = {"shares": SHARES, "scale": 0.3, "positions": torch.tensor([9, 149], device=device)}
    found = attention_statistics(queries[:1, :2], keys[:1], backend="triton", **options)
    expected = attention_statistics_reference(queries[:1, :2], keys[:1], **options)
    assert (found.needed - expected.needed).abs().max() <= 1  # a share met within rounding
    assert (found.needed > 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_four_equal_keys_by_hand(backend, device):
    """p = 1/4 each: entropy ln 4, 90 % needs all four, half needs two; ties go to position 0."""
    queries, keys = torch.ones(1, 1, 1, device=device), torch.full((1, 4, 1), 2.0, device=device)
    support = torch.tensor([[[3, 1, -1]]], device=device)
    found = attention_statistics(
        queries, keys, support=support, shares=(0.45, 0.9), backend=backend
    )
    assert found.lse.item() == pytest.approx(2 + math.log(4), abs=1e-6)
    assert found.entropy.item() == pytest.approx(math.log(4), abs=1e-6)
    assert found.top1.item() == 0
    assert found.mass.item() == pytest.approx(0.5, abs=1e-6)
    assert found.needed.tolist() == [[[2, 4]]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_peaked_and_empty_rows(backend, device):
    """The first query sees nothing; the second one key 200 logits above the rest."""
    keys = torch.zeros(1, 300, 1, device=device)
    keys[0, 177] = 200.0
    found = attention_statistics(
        torch.ones(1, 2, 1, device=device), keys, shares=(0.99,), backend=backend,
        positions=torch.tensor([-1, 299], device=device),
    )  # fmt: skip
    assert found.lse.tolist() == [[-float("inf"), 200.0]]
    assert found.entropy.tolist() == [[0.0, pytest.approx(0.0, abs=1e-6)]]
    assert found.top1.tolist() == [[-1, 177]]
    assert found.needed.tolist() == [[[0], [1]]]


@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_stays_visible(backend, device):
    queries, keys = operands(device, key=140)
    keys[0, 5, 0] = float("nan")
    found = attention_statistics(queries, keys, backend=backend)
    assert found.lse[:2].isnan().all()
    assert not found.lse[2:].isnan().any()


def test_input_that_cannot_be_answered_is_named():
    queries, keys = torch.zeros(4, 3, 8), torch.zeros(2, 9, 8)
    with pytest.raises(KernelError, match="sets"):
        attention_statistics(queries, keys, support=torch.zeros(3, 3, 2, dtype=torch.int64))
    with pytest.raises(KernelError, match="does not match"):
        attention_statistics(queries, keys, support=torch.zeros(1, 2, 2, dtype=torch.int64))
    with pytest.raises(KernelError, match=r"share = 1\.0"):
        attention_statistics(queries, keys, shares=(1.0,))


@pytest.mark.gpu
@pytest.mark.parametrize("dim", [128, 192])
def test_large_shape(dim):
    torch.manual_seed(0)
    queries = torch.randn(4, 200, dim, device="cuda", dtype=torch.bfloat16)
    keys = torch.randn(2, 30001, dim, device="cuda", dtype=torch.bfloat16)
    positions = torch.randint(0, 30001, (200,), device="cuda")
    support = torch.stack([torch.randperm(30001)[:500] for _ in range(200)])[None].cuda()
    options = {"positions": positions, "support": support, "shares": SHARES, "scale": dim**-0.5}
    found = attention_statistics(queries, keys, **options)
    expected = attention_statistics_reference(queries, keys, **options)
    torch.testing.assert_close(found.lse, expected.lse, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(found.entropy, expected.entropy, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(found.mass, expected.mass, rtol=1e-3, atol=1e-6)
    # two keys' logits may round to one float32 in either accumulation order
    assert (found.top1 != expected.top1).float().mean() < 0.01
    assert (found.needed - expected.needed).abs().max() <= 2
