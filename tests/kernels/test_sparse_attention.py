"""sparse_attention against the reference, and against dense attention when the support is whole."""

import pytest
import torch

from indexer_kernels.sparse_attention import (
    sparse_attention,
    sparse_attention_reference,
    sparse_latent_attention,
    sparse_latent_attention_reference,
)
from indexer_kernels.topk import KernelError


def operands(head, kv_head, query, key, dim, value_dim, dtype, device):
    torch.manual_seed(4)
    shapes = (head, query, dim), (kv_head, key, dim), (kv_head, key, value_dim)
    return [torch.randn(shape, device=device).to(dtype) for shape in shapes]


def some_support(sets, query, key, place, device):
    lists = [torch.randperm(key)[:place] for _ in range(sets * query)]
    support = torch.stack(lists).view(sets, query, place)
    support[0, 0, 3:] = -1
    return support.to(device)


@pytest.mark.parametrize("sets", [1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_equals_the_reference(sets, dtype, device):
    queries, keys, values = operands(4, 2, 3, 90, 24, 40, dtype, device)
    support = some_support(sets, 3, 90, 71, device)
    found = sparse_attention(queries, keys, values, support, scale=0.3, backend="triton")
    expected = sparse_attention_reference(queries, keys, values, support, scale=0.3)
    tight = 1e-5 if dtype == torch.float32 else 2e-3
    torch.testing.assert_close(found[0], expected[0], rtol=tight, atol=tight)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sets", [1, 3])
def test_latents_equal_the_reference(sets, device):
    torch.manual_seed(5)
    queries, rope = torch.randn(3, 2, 32, device=device), torch.randn(3, 2, 8, device=device)
    latents, keys = torch.randn(80, 32, device=device), torch.randn(80, 8, device=device)
    support = some_support(sets, 2, 80, 37, device)
    arguments = (queries, rope, latents, keys, support)
    found = sparse_latent_attention(*arguments, scale=0.2, backend="triton")
    expected = sparse_latent_attention_reference(*arguments, scale=0.2)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_the_whole_support_is_dense_attention(backend, device):
    queries, keys, values = operands(2, 1, 2, 70, 16, 16, torch.float32, device)
    support = torch.randperm(70).expand(1, 2, 70).contiguous().to(device)
    out, _ = sparse_attention(queries, keys, values, support, scale=0.25, backend=backend)
    dense = torch.nn.functional.scaled_dot_product_attention(
        queries, keys.expand(2, -1, -1), values.expand(2, -1, -1), scale=0.25
    )
    torch.testing.assert_close(out, dense, rtol=1e-5, atol=1e-5)


def test_a_later_larger_logit_fades_what_came_before(device):
    """The largest logit is the last of 70 keys, in the second block that the kernel reads."""
    queries, keys, values = operands(1, 1, 1, 70, 16, 16, torch.float32, device)
    queries.fill_(1.0)
    keys[:] = torch.arange(70.0, device=device)[:, None] / 320  # logits 0 to 3.45
    support = torch.arange(70, device=device)[None, None]
    found, _ = sparse_attention(queries, keys, values, support, backend="triton")
    expected, _ = sparse_attention_reference(queries, keys, values, support)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("backend", ["triton", "torch"])
def test_an_empty_support_gives_zero(backend, device):
    queries, keys, values = operands(1, 1, 2, 20, 16, 16, torch.float32, device)
    support = torch.full((1, 2, 5), -1, device=device)
    support[0, 1, 2] = 7
    out, lse = sparse_attention(queries, keys, values, support, backend=backend)
    assert out[0, 0].tolist() == [0.0] * 16
    assert lse[0, 0].item() == -float("inf")
    torch.testing.assert_close(out[0, 1], values[0, 7])


def test_input_that_cannot_be_answered_is_named():
    queries, keys, values = operands(2, 1, 2, 20, 16, 16, torch.float32, "cpu")
    with pytest.raises(KernelError, match="values are"):
        sparse_attention(queries, keys, values[:, 1:], torch.zeros(1, 2, 3, dtype=torch.int64))
    with pytest.raises(KernelError, match="expected int64"):
        sparse_attention(queries, keys, values, torch.zeros(1, 2, 3, dtype=torch.int32))


@pytest.mark.gpu
@pytest.mark.parametrize("sets", [1, 2, 16])
def test_large_gqa(sets):
    queries, keys, values = operands(16, 2, 100, 20000, 128, 128, torch.bfloat16, "cuda")
    support = some_support(sets, 100, 20000, 2048, "cuda")
    found = sparse_attention(queries, keys, values, support, scale=0.09)
    expected = sparse_attention_reference(queries, keys, values, support, scale=0.09)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-4, atol=1e-4)


@pytest.mark.gpu
def test_large_latent():
    torch.manual_seed(6)
    on = {"device": "cuda", "dtype": torch.bfloat16}
    queries, rope = torch.randn(128, 20, 512, **on), torch.randn(128, 20, 64, **on)
    latents, keys = torch.randn(20000, 512, **on), torch.randn(20000, 64, **on)
    arguments = (queries, rope, latents, keys, some_support(1, 20, 20000, 2048, "cuda"))
    found = sparse_latent_attention(*arguments, scale=0.04)
    expected = sparse_latent_attention_reference(*arguments, scale=0.04)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(found[1], expected[1], rtol=1e-4, atol=1e-4)
