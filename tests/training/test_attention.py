"""Native top-k attention against autograd through a dense mask."""

from __future__ import annotations

import pytest
import torch

from indexer_lab.errors import InputError
from indexer_lab.training.attention import (
    Full,
    TopK,
    attention_of,
    dense_attention,
    parse_attention,
    topk_attention,
)


def masked(query, key, value, scale, budget):
    """The same operation in one piece: a mask from the k-th logit, softmax, product."""
    groups = query.shape[1] // key.shape[1]
    key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    logits = query @ key.mT * scale
    count = query.shape[2]
    later = torch.ones(count, count, dtype=torch.bool).triu(1)
    logits = logits.masked_fill(later, -torch.inf)
    threshold = logits.detach().sort(-1, descending=True).values[..., budget - 1 : budget]
    return logits.masked_fill(logits < threshold, -torch.inf).softmax(-1) @ value


def tensors(heads, kv_heads, tokens, seed=0):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(2, heads, tokens, 8), (2, kv_heads, tokens, 8), (2, kv_heads, tokens, 8)]
    return [
        torch.randn(s, generator=generator, dtype=torch.float32).requires_grad_() for s in shapes
    ]


@pytest.mark.parametrize(("heads", "kv_heads"), [(2, 2), (4, 2)])
@pytest.mark.parametrize(("tokens", "budget"), [(33, 1), (33, 7), (300, 20)])
def test_outputs_and_gradients_are_those_of_a_dense_mask(heads, kv_heads, tokens, budget):
    ours, theirs = tensors(heads, kv_heads, tokens), tensors(heads, kv_heads, tokens)
    output = topk_attention(*ours, 0.35, budget)
    expected = masked(*theirs, 0.35, budget)
    torch.testing.assert_close(output, expected, atol=1e-5, rtol=1e-5)
    push = torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
    output.backward(push)
    expected.backward(push)
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.grad, other.grad, atol=1e-4, rtol=1e-4)


def test_a_key_that_is_left_out_gets_no_gradient():
    query, key, value = tensors(1, 1, 40)
    topk_attention(query, key, value, 1.0, 3)[:, :, -1].sum().backward()
    kept = (query[:, :, -1:] @ key.mT).topk(3, dim=-1).indices
    touched = value.grad.abs().sum(-1) > 0
    assert touched.sum() == 2 * 3
    assert touched.gather(-1, kept[:, :, 0]).all()


def test_a_budget_of_every_key_is_dense_attention():
    query, key, value = tensors(4, 2, 50)
    torch.testing.assert_close(
        topk_attention(query, key, value, 0.3, 50), dense_attention(query, key, value, 0.3)
    )


def test_a_model_attends_as_asked_and_as_before_afterwards(llama):
    ids = torch.arange(60).unsqueeze(0)
    own = llama(input_ids=ids).logits
    with attention_of(llama, Full()):
        torch.testing.assert_close(llama(input_ids=ids).logits, own, atol=1e-4, rtol=1e-4)
    with attention_of(llama, TopK(k=4)):
        assert (llama(input_ids=ids).logits - own).abs().max() > 1e-3
    torch.testing.assert_close(llama(input_ids=ids).logits, own)


def test_attention_is_given_back_when_the_body_fails(llama):
    before = llama.config._attn_implementation

    def fail() -> None:
        with attention_of(llama, Full()):
            raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        fail()
    assert llama.config._attn_implementation == before


@pytest.mark.parametrize(
    ("text", "keys"), [("full", 1000), ("topk:k=64", 64), ("topk:ratio=0.0101", 11)]
)
def test_the_words_of_attention(text, keys):
    assert parse_attention(text).budget(1000) == keys


@pytest.mark.parametrize("text", ["topk", "topk:k=0", "topk:k=x", "topk:ratio=1.5", "sparse", ""])
def test_other_words_are_refused(text):
    with pytest.raises(InputError, match="expected full, topk:k=N"):
        parse_attention(text)
