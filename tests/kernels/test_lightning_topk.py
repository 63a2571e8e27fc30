"""lightning_topk against the reference, bfloat16 and fp8."""

from dataclasses import replace

import pytest
import torch

from indexer_kernels.lightning_topk import (
    FP8,
    IndexScoring,
    IndexShape,
    lightning_topk,
    lightning_topk_reference,
)
from indexer_kernels.topk import KernelError

CASES = {
    "bf16": ((8, 3, 290, 32), torch.bfloat16, 6, {}),
    "fp8": ((8, 3, 290, 32), FP8, 6, {}),
    "odd heads, no activation": ((5, 2, 140, 24), torch.bfloat16, 4, {"activation": "none"}),
    "one head": ((1, 5, 140, 16), torch.bfloat16, 4, {}),
    "causal": ((4, 4, 260, 16), torch.bfloat16, 7, {"positions": [2, 100, 128, 259]}),
    "window": ((4, 2, 260, 16), torch.float32, 7, {"positions": [2, 259], "window": 30}),
    "every unit": ((4, 2, 70, 16), torch.float16, 70, {}),
}


def operands(shape, dtype, device):
    head, query, unit, dim = shape
    torch.manual_seed(3)
    queries = torch.randn(head, query, dim, device=device).to(dtype)
    keys = torch.randn(unit, dim, device=device).to(dtype)
    return queries, keys, torch.randn(query, head, device=device)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("scaled", [False, True])
def test_equals_the_reference(case, scaled, device):
    shape, dtype, k, options = CASES[case]
    if "positions" in options:
        options = {**options, "positions": torch.tensor(options["positions"], device=device)}
    queries, keys, weights = operands(shape, dtype, device)
    scales = torch.rand(len(keys), device=device) if scaled else None
    options = {**options, "key_scales": scales, "scale": 0.2}
    values, positions = lightning_topk(
        queries, keys, weights, k, backend="triton", precise=True, **options
    )
    expected, at = lightning_topk_reference(queries, keys, weights, k, **options)
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-4)
    # equal but for neighbours whose scores rounding may swap
    close = (expected[:, 1:] - expected[:, :-1]).abs() < 1e-4
    pad = torch.zeros_like(close[:, :1])
    assert ((positions == at) | torch.cat([close, pad], 1) | torch.cat([pad, close], 1)).all()


@pytest.mark.parametrize("shape", [IndexShape(128, 256, 8, 3), IndexShape(64, 32, 4, 2)])
def test_other_cuts_give_the_same_scores_and_their_maxima(shape, device):
    queries, keys, weights = operands((8, 3, 200, 32), torch.float32, device)
    swapped = queries.transpose(0, 1).contiguous()
    scoring = IndexScoring(swapped, keys, weights, 0.2, None, True, None, None, False)
    expected = scoring.scores(slice(0, 3))
    scores, maxima, group = replace(scoring, shape=shape).with_maxima(slice(0, 3))
    torch.testing.assert_close(scores, expected, rtol=1e-5, atol=1e-5)
    padded = torch.nn.functional.pad(scores, (0, -200 % group), value=-float("inf"))
    assert torch.equal(maxima, padded.view(3, -1, group).amax(-1))


@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_relu_comes_before_the_weight_by_hand(backend, device):
    """q.k = 1, -1, 2, -2 for one head of weight -1: scores -1, 0, -2, 0."""
    keys = torch.tensor([[1.0], [-1.0], [2.0], [-2.0]], device=device)
    queries, weights = torch.ones(1, 1, 1, device=device), -torch.ones(1, 1, device=device)
    values, positions = lightning_topk(queries, keys, weights, 4, backend=backend)
    assert positions.tolist() == [[1, 3, 0, 2]]
    assert values.tolist() == [[0.0, 0.0, -1.0, -2.0]]


@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_nan_is_refused(backend, device):
    queries, keys, weights = operands((4, 2, 140, 16), torch.bfloat16, device)
    weights[1, 2] = float("nan")
    with pytest.raises(KernelError, match="NaN"):
        lightning_topk(queries, keys, weights, 3, backend=backend)


def test_input_that_cannot_be_answered_is_named():
    queries, keys, weights = operands((4, 2, 9, 16), torch.float32, "cpu")
    with pytest.raises(KernelError, match="activation = 'gelu'"):
        lightning_topk(queries, keys, weights, 3, activation="gelu")
    with pytest.raises(KernelError, match=r"expected \[query, index_head\]"):
        lightning_topk(queries, keys, weights.T, 3)
    with pytest.raises(KernelError, match="key_scales"):
        lightning_topk(queries, keys, weights, 3, key_scales=torch.ones(4))
    with pytest.raises(KernelError, match="one dim"):
        lightning_topk(queries, keys[:, :8], weights, 3)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("dtype", "precise", "rtol"),
    [(torch.bfloat16, False, 1e-4), (FP8, False, 5e-3), (FP8, True, 1e-4)],
)
def test_large_shape(dtype, precise, rtol):
    queries, keys, weights = operands((64, 100, 30001, 128), dtype, "cuda")
    positions = torch.arange(29901, 30001, device="cuda")
    options = {"positions": positions, "scale": 0.1}
    values, _ = lightning_topk(queries, keys, weights, 2048, precise=precise, **options)
    expected, _ = lightning_topk_reference(queries, keys, weights, 2048, **options)
    torch.testing.assert_close(values, expected, rtol=rtol, atol=rtol * 10)
