"""headsum_topk against the reference."""

import pytest
import torch

from indexer_kernels.headsum_topk import headsum_topk, headsum_topk_reference

CASES = {
    "gqa": ((4, 2, 3, 290, 24), 6, {}),
    "odd heads": ((3, 1, 2, 150, 16), 5, {}),
    "dim 192": ((2, 2, 2, 150, 192), 4, {"scale": 0.1}),
    "causal": ((2, 1, 3, 200, 16), 9, {"positions": [1, 100, 199]}),
    "window": ((2, 1, 3, 200, 16), 3, {"positions": [1, 100, 199], "window": 20}),
    "every key": ((2, 1, 2, 60, 16), 60, {}),
}


def operands(shape, device, dtype=torch.bfloat16):
    head, kv_head, query, key, dim = shape
    torch.manual_seed(2)
    queries = torch.randn(head, query, dim, device=device, dtype=dtype)
    return queries, torch.randn(kv_head, key, dim, device=device, dtype=dtype)


@pytest.mark.parametrize("case", CASES)
def test_equals_the_reference(case, device):
    shape, k, options = CASES[case]
    if "positions" in options:
        options = {**options, "positions": torch.tensor(options["positions"], device=device)}
    queries, keys = operands(shape, device)
    values, positions = headsum_topk(queries, keys, k, backend="triton", **options)
    expected, at = headsum_topk_reference(queries, keys, k, **options)
    torch.testing.assert_close(values, expected, rtol=1e-4, atol=1e-7)
    assert torch.equal(positions, at)


@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_two_heads_by_hand(backend, device):
    """One head looks at key 0 alone, the other at keys 1 and 2: means 1/2, 1/4, 1/4, 0."""
    queries = torch.eye(2, device=device)[:, None] * 100  # (head, query, dim)
    keys = torch.tensor([[1.0, 0], [0, 1], [0, 1], [0, 0]], device=device)[None]
    values, positions = headsum_topk(queries, keys, 3, backend=backend)
    assert positions.tolist() == [[0, 1, 2]]
    torch.testing.assert_close(values.cpu(), torch.tensor([[0.5, 0.25, 0.25]]))


def test_small_workspace_changes_nothing(device):
    queries, keys = operands((2, 1, 18, 70, 16), device)
    whole = headsum_topk(queries, keys, 3, backend="triton")
    parts = headsum_topk(queries, keys, 3, backend="triton", workspace=1)
    assert torch.equal(whole[1], parts[1])


@pytest.mark.gpu
def test_large_shape():
    queries, keys = operands((16, 16, 200, 30001, 192), "cuda")
    positions = torch.arange(29801, 30001, device="cuda")
    options = {"scale": 192**-0.5, "positions": positions}
    values, _ = headsum_topk(queries, keys, 2048, **options)
    expected, _ = headsum_topk_reference(queries, keys, 2048, **options)
    torch.testing.assert_close(values, expected, rtol=1e-3, atol=1e-8)
