"""Attention over a given support: what a model computes once its indexer has picked.

The heads that share a support and a key head lie on the rows of a tile, the gathered keys on its
columns, with a running softmax over them. Multi-head latent attention is the same computation on
absorbed queries: one latent serves as key and value, and a rotary part joins the logits.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from indexer_kernels.backend import common_device, jit, operand, power_of_two, tl, use_triton
from indexer_kernels.operands import REFERENCE_BYTES, check_attention
from indexer_kernels.support import check_support
from indexer_kernels.topk import HIDDEN, KernelError


@jit
def gathered(rows, picked, stride, feature, dim: tl.constexpr, padded: tl.constexpr):
    """[place, padded] rows at these places, zeros beyond `dim`; no place is masked."""
    at = rows + picked[:, None] * stride + feature[None, :]
    found = tl.load(at, mask=(feature < dim)[None, :], other=0.0) if dim < padded else tl.load(at)
    return found


@jit
def sparse_kernel(
    queries, tails, keys, key_tails, values, support, outputs, lse,
    heads, query_count, count, places, scale, sets, kv_heads,
    key_head_stride, key_stride, tail_stride, value_head_stride, value_stride,
    share: tl.constexpr, block_h: tl.constexpr, block_k: tl.constexpr,
    dim: tl.constexpr, padded: tl.constexpr, tail: tl.constexpr, padded_tail: tl.constexpr,
    value_dim: tl.constexpr, padded_value: tl.constexpr, latent: tl.constexpr, narrow: tl.constexpr,
):  # fmt: skip
    """Grid (query, head blocks of a share, shares); a share has one support and one key head.

    latent: the keys are the values too, so a gathered tile serves twice. narrow: offsets into keys
    and values fit 32 bits.

    A place without a key reads the row's last listed one and weighs nothing: a gather without masks
    needs fewer registers, and no key takes part that the row did not list.
    """
    line = tl.program_id(0).to(tl.int64)
    inside = tl.program_id(1) * block_h + tl.arange(0, block_h)
    first = tl.program_id(2) * share
    head = (first + inside).to(tl.int64)
    live = inside < share
    key_head = (first // (heads // kv_heads)).to(tl.int64)
    chosen = support + ((first // (heads // sets)) * query_count + line) * places
    keys += key_head * key_head_stride
    values += key_head * value_head_stride
    feature = tl.arange(0, padded)
    at = head * query_count + line
    query = tl.load(
        queries + at[:, None] * dim + feature[None, :],
        mask=live[:, None] & (feature < dim)[None, :], other=0.0,
    )  # fmt: skip
    if tail > 0:
        tail_feature = tl.arange(0, padded_tail)
        query_tail = tl.load(
            tails + at[:, None] * tail + tail_feature[None, :],
            mask=live[:, None] & (tail_feature < tail)[None, :], other=0.0,
        )  # fmt: skip
    spare = tl.full([block_k], -1, tl.int64)
    for begin in range(0, places, block_k):
        place = begin + tl.arange(0, block_k)
        picked = tl.load(chosen + place, mask=place < places, other=-1)
        spare = tl.maximum(spare, tl.where(picked < count, picked, -1))
    spare = tl.maximum(tl.max(spare, 0), 0)
    value_feature = tl.arange(0, padded_value)
    factor = scale * 1.4426950408889634
    best = tl.full([block_h], float("-inf"), tl.float32)
    total = tl.full([block_h], 0.0, tl.float32)
    acc = tl.full([block_h, padded_value], 0.0, tl.float32)
    for begin in range(0, places, block_k):
        place = begin + tl.arange(0, block_k)
        picked = tl.load(chosen + place, mask=place < places, other=-1)
        valid = (picked >= 0) & (picked < count)
        picked = tl.where(valid, picked, spare)
        if narrow:
            picked = picked.to(tl.int32)
        key = gathered(keys, picked, key_stride, feature, dim, padded)
        logits = tl.dot(query, tl.trans(key), input_precision="ieee")
        if tail > 0:
            key_tail = gathered(key_tails, picked, tail_stride, tail_feature, tail, padded_tail)
            logits = tl.dot(query_tail, tl.trans(key_tail), logits, input_precision="ieee")
        logits = tl.where(valid[None, :], logits * factor, float("-inf"))
        newer = tl.maximum(best, tl.max(logits, 1))
        base = tl.where(newer == float("-inf"), 0.0, newer)
        fade = tl.exp2(best - base)
        weight = tl.exp2(logits - base[:, None])
        total = total * fade + tl.sum(weight, 1)
        if latent:
            value = key
        else:
            value = gathered(
                values, picked, value_stride, value_feature, value_dim, padded_value
            )  # fmt: skip
        acc = tl.dot(weight.to(value.dtype), value, acc * fade[:, None], input_precision="ieee")
        best = newer
    some = total > 0.0
    out = tl.where(some[:, None], acc / tl.where(some, total, 1.0)[:, None], 0.0)
    tl.store(
        outputs + at[:, None] * value_dim + value_feature[None, :], out,
        mask=live[:, None] & (value_feature < value_dim)[None, :],
    )  # fmt: skip
    natural = 0.6931471805599453 * (best + tl.log2(tl.where(some, total, 1.0)))
    norm = tl.where(some, natural, float("-inf"))
    tl.store(lse + at, norm, mask=live)


def sparse_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    support: Tensor,
    *,
    scale: float = 1.0,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """Attention outputs with the softmax taken over a given support alone.

    queries: bfloat16, float16 or float32 [head, query, dim].
    keys:    the same dtype, [kv_head, key, dim]; values [kv_head, key, value_dim].
    support: int64 [set, query, place], distinct positions, pads negative; set is 1, kv_head or
             head. Visibility is the caller's: every listed key takes part.
    returns: float32 outputs [head, query, value_dim] and log-sum-exp [head, query]; zeros and -inf
             where the support is empty. A learned sink is joined by the caller: multiply the output
             by sigmoid(lse - sink).
    Raises KernelError for shapes, dtypes or devices that do not fit.
    Accuracy: probabilities are rounded to the values' dtype before they meet the values, as flash
    attention does; float32 operands stay float32.
    Memory: the outputs alone.
    """
    check_attention(queries, keys, None, None)
    check_support(support, queries, keys)
    if values.shape[:2] != keys.shape[:2] or values.dtype != keys.dtype or values.ndim != 3:
        raise KernelError(
            f"values are {values.dtype} {tuple(values.shape)}: expected {keys.dtype} "
            f"[kv_head, key, value_dim] beside keys {tuple(keys.shape)}"
        )
    if not use_triton(backend, queries, keys, values, support):
        return sparse_attention_reference(queries, keys, values, support, scale=scale)
    return launched(queries, None, keys, None, values, support, scale)


def sparse_latent_attention(
    queries: Tensor,
    rope_queries: Tensor,
    latents: Tensor,
    rope_keys: Tensor,
    support: Tensor,
    *,
    scale: float = 1.0,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """sparse_attention on multi-head latent attention's cache, keys never expanded.

    queries:      [head, query, rank], the up-projection of keys absorbed.
    rope_queries: [head, query, rope_dim]; rope_keys [key, rope_dim].
    latents:      [key, rank], key and value at once.
    support:      int64 [set, query, place], set 1 or head.
    returns:      float32 [head, query, rank], to be met with the values' up-projection, and lse.
    Logit: scale * (queries . latent + rope_queries . rope_key). Errors and memory as
    `sparse_attention`.
    """
    keys = latents[None]
    check_attention(queries, keys, None, None)
    check_attention(rope_queries, rope_keys[None], None, None)
    check_support(support, queries, keys)
    common_device(queries, rope_queries)
    if rope_queries.shape[:2] != queries.shape[:2] or len(rope_keys) != len(latents):
        raise KernelError(
            f"rope_queries {tuple(rope_queries.shape)} and rope_keys {tuple(rope_keys.shape)} do "
            f"not match queries {tuple(queries.shape)} and latents {tuple(latents.shape)}"
        )
    if rope_queries.dtype != queries.dtype:
        raise KernelError(f"rope_queries are {rope_queries.dtype}, queries {queries.dtype}")
    if not use_triton(backend, queries, latents, rope_keys, support):
        return sparse_latent_attention_reference(
            queries, rope_queries, latents, rope_keys, support, scale=scale
        )
    return launched(queries, rope_queries, keys, rope_keys, keys, support, scale)


@dataclass(frozen=True)
class SparseShape:
    """How a launch is cut up: heads and gathered keys a tile, warps, pipeline stages."""

    heads: int
    keys: int
    warps: int
    stages: int


def sparse_shape(share: int, widest: int) -> SparseShape:
    """The cut for heads that share a support and for the wider of a key and a value."""
    heads = min(power_of_two(share, 16), 64)
    if widest > 256:
        return SparseShape(heads, 32, warps=8, stages=2)
    return SparseShape(heads, 64, warps=8 if widest > 128 else 4, stages=2)


def launched(
    queries: Tensor, tails: Tensor | None, keys: Tensor, key_tails: Tensor | None, values: Tensor,
    support: Tensor, scale: float, shape: SparseShape | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    heads, count, dim = queries.shape
    value_dim, latent = values.shape[2], tails is not None
    tail = 0 if tails is None else tails.shape[2]
    share = heads // max(support.shape[0], keys.shape[0])
    padded, padded_value = power_of_two(dim, 16), power_of_two(value_dim, 16)
    shape = shape or sparse_shape(share, max(padded, padded_value))
    block_h, block_k = shape.heads, shape.keys
    tables = [part for part in (keys, values, key_tails) if part is not None]
    widest = max(part.stride(-2) for part in tables)
    narrow = keys.shape[1] * widest < 1 << 31
    outputs = torch.empty(heads, count, value_dim, dtype=torch.float32, device=queries.device)
    lse = torch.empty(heads, count, dtype=torch.float32, device=queries.device)
    queries, keys, values = operand(queries.contiguous()), operand(keys), operand(values)
    tails = None if tails is None else operand(tails.contiguous())
    key_tails = None if key_tails is None else operand(key_tails)
    sparse_kernel[(count, -(-share // block_h), heads // share)](
        queries, tails, keys, key_tails, values, support.contiguous(), outputs, lse,
        heads, count, keys.shape[1], support.shape[2], float(scale), support.shape[0],
        keys.shape[0], keys.stride(0), keys.stride(1),
        0 if key_tails is None else key_tails.stride(0), values.stride(0), values.stride(1),
        share=share, block_h=block_h, block_k=block_k, dim=dim, padded=padded,
        tail=tail, padded_tail=power_of_two(tail, 16), value_dim=value_dim,
        padded_value=padded_value, latent=latent, narrow=narrow,
        num_warps=shape.warps, num_stages=shape.stages,
    )  # fmt: skip
    return outputs, lse


def sparse_attention_reference(
    queries: Tensor, keys: Tensor, values: Tensor, support: Tensor, *, scale: float = 1.0
) -> tuple[Tensor, Tensor]:
    """sparse_attention in plain torch, all in float32. Memory: 64 MiB of gathered keys."""
    heads, count, dim = queries.shape
    widest = max(dim, values.shape[2])
    step = max(1, REFERENCE_BYTES // (4 * widest * support.shape[2]))
    outputs = torch.empty(heads, count, values.shape[2], device=queries.device)
    lse = torch.empty(heads, count, device=queries.device)
    for head in range(heads):
        of_key = head * keys.shape[0] // heads
        of_set = head * support.shape[0] // heads
        for start in range(0, count, step):
            lines = slice(start, start + step)
            chosen = support[of_set, lines]  # (row, place)
            valid = (chosen >= 0) & (chosen < keys.shape[1])
            at = chosen.where(valid, 0)
            picked = keys[of_key][at].float()  # (row, place, dim)
            logits = (picked @ queries[head, lines].float()[..., None])[..., 0] * scale
            logits = logits.where(valid, HIDDEN)
            weights = logits.softmax(-1).where(valid.any(-1, keepdim=True), 0.0)
            outputs[head, lines] = (weights[:, None] @ values[of_key][at].float())[:, 0]
            lse[head, lines] = logits.logsumexp(-1)
    return outputs, lse


def sparse_latent_attention_reference(
    queries: Tensor, rope_queries: Tensor, latents: Tensor, rope_keys: Tensor, support: Tensor,
    *, scale: float = 1.0,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """sparse_latent_attention in plain torch: latent and rotary parts joined into one key."""
    return sparse_attention_reference(
        torch.cat([queries, rope_queries], -1), torch.cat([latents, rope_keys], -1)[None],
        latents[None], support, scale=scale,
    )  # fmt: skip
