"""kth_logit is the last value of exact_topk, alone."""

import pytest
import torch

from indexer_kernels.kth_logit import kth_logit, kth_logit_reference


@pytest.mark.parametrize("k", [1, 5, 150, 301])
def test_equals_the_reference(k, device):
    torch.manual_seed(k)
    queries, keys = torch.randn(2, 2, 24, device=device), torch.randn(1, 301, 24, device=device)
    found = kth_logit(queries, keys, k, scale=0.3, backend="triton")
    torch.testing.assert_close(found, kth_logit_reference(queries, keys, k, scale=0.3))


def test_duplicates_count_and_short_rows_say_so(device):
    """Logits 3, 3, 2, 1 by position; the second row sees two keys."""
    keys = torch.tensor([3.0, 3.0, 2.0, 1.0], device=device)[None, :, None]
    queries = torch.ones(1, 2, 1, device=device)
    positions = torch.tensor([3, 1], device=device)
    for k, expected in ((1, [3, 3]), (2, [3, 3]), (3, [2, -float("inf")])):
        for backend in ("triton", "torch"):
            found = kth_logit(queries, keys, k, positions=positions, backend=backend)
            assert found.tolist() == [expected]


def test_constant_keys(device):
    keys = torch.ones(1, 300, 4, device=device)
    found = kth_logit(torch.ones(1, 1, 4, device=device), keys, 3, backend="triton")
    assert found.tolist() == [[4.0]]


@pytest.mark.gpu
def test_large_shape():
    torch.manual_seed(0)
    queries = torch.randn(2, 300, 128, device="cuda", dtype=torch.bfloat16)
    keys = torch.randn(1, 50001, 128, device="cuda", dtype=torch.bfloat16)
    found = kth_logit(queries, keys, 2048)
    expected = kth_logit_reference(queries, keys, 2048)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
