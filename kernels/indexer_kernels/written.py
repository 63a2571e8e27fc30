"""The logit that `exact_topk` answers for: its products added in an order that is written out.

float32 products added as a binary tree of neighbours (zeros fill it up to a power of two), times
the scale, each step rounded: the bits depend on the operands alone, not on a tile, a matrix unit or
a chunk. A kernel that adds this way is launched without fused multiply-adds.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
from torch import Tensor

from indexer_kernels.backend import jit, power_of_two, tl
from indexer_kernels.operands import Rows

GATHERED = 8192  # key features that a program gathers at once
PROGRAMS = 1056  # programs wanted where a row's share is more than one


@jit
def written_logits(
    query, keys, at, live, key_stride, scale,
    dim: tl.constexpr, padded: tl.constexpr, levels: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """float32 [block] logits of the keys `at` (int64) for a float32 query [padded]."""
    feature = tl.arange(0, padded)
    key = tl.load(
        keys + at[:, None] * key_stride + feature[None, :],
        mask=live[:, None] & (feature < dim)[None, :], other=0.0,
    ).to(tl.float32)  # fmt: skip
    sums = key * query[None, :]
    for level in tl.static_range(levels):
        sums = tl.sum(tl.reshape(sums, [block, padded >> (level + 1), 2]), 2)
    return tl.reshape(sums, [block]) * scale


@jit
def load_query(queries, line, dim: tl.constexpr, padded: tl.constexpr):
    """float32 [padded], zeros beyond the features."""
    feature = tl.arange(0, padded)
    return tl.load(queries + line * dim + feature, mask=feature < dim, other=0.0).to(tl.float32)


@jit
def logits_kernel(
    queries, keys, chosen, values, rows, batch_stride, key_stride, places, scale,
    dim: tl.constexpr, padded: tl.constexpr, levels: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """values [line, place] at positions chosen [line, place], -inf at -1; grid (lines, shares)."""
    line = tl.program_id(0).to(tl.int64)
    query = load_query(queries, line, dim, padded)
    keys += line // rows * batch_stride
    for begin in range(tl.program_id(1) * block, places, tl.num_programs(1) * block):
        place = begin + tl.arange(0, block)
        inside = place < places
        at = tl.load(chosen + line * places + place, mask=inside, other=-1)
        logit = written_logits(
            query, keys, at, at >= 0, key_stride, scale, dim, padded, levels, block
        )  # fmt: skip
        logit = tl.where(at >= 0, logit, float("-inf"))
        tl.store(values + line * places + place, logit, mask=inside)


@jit
def row_logits_kernel(
    queries, keys, positions, scores, rows, count, batch_stride, key_stride, scale,
    dim: tl.constexpr, padded: tl.constexpr, levels: tl.constexpr, block: tl.constexpr,
    window: tl.constexpr, causal: tl.constexpr,
):  # fmt: skip
    """scores [line, key] of every key, -inf where hidden; grid (lines, shares of the keys)."""
    line = tl.program_id(0).to(tl.int64)
    query = load_query(queries, line, dim, padded)
    keys += line // rows * batch_stride
    for begin in range(tl.program_id(1) * block, count, tl.num_programs(1) * block):
        at = (begin + tl.arange(0, block)).to(tl.int64)
        seen = at < count
        if causal:
            distance = tl.load(positions + line % rows) - at
            seen = seen & (distance >= 0)
            if window > 0:
                seen = seen & (distance < window)
        logit = written_logits(
            query, keys, at, seen, key_stride, scale, dim, padded, levels, block
        )  # fmt: skip
        logit = tl.where(seen, logit, float("-inf"))
        tl.store(scores + line * count + at, logit, mask=at < count)


def gather_shape(dim: int) -> dict[str, int]:
    """Constants of a kernel that gathers keys of this width."""
    padded = power_of_two(dim, 16)
    return {
        "dim": dim, "padded": padded, "levels": padded.bit_length() - 1,
        "block": max(1, GATHERED // padded),
    }  # fmt: skip


def logits_at(rows: Rows, chosen: Tensor, values: Tensor) -> None:
    """Writes the logits of positions chosen [batch, row, place] into values; -inf where -1."""
    batch, count, _, dim = rows.shape
    shape = gather_shape(dim)
    places = chosen.shape[-1]
    shares = max(1, min(-(-places // shape["block"]), PROGRAMS // (batch * count)))
    logits_kernel[(batch * count, shares)](
        rows.queries, rows.keys, chosen, values, count, rows.keys.stride(0), rows.keys.stride(1),
        places, rows.scale, **shape, num_warps=4, enable_fp_fusion=False,
    )  # fmt: skip


def row_logits(rows: Rows) -> Tensor:
    """float32 [batch * row, key]: every logit of a few rows, -inf where hidden."""
    batch, count, keys, dim = rows.shape
    shape = gather_shape(dim)
    scores = torch.empty(batch * count, keys, dtype=torch.float32, device=rows.queries.device)
    shares = max(1, min(-(-keys // shape["block"]), PROGRAMS // (batch * count)))
    row_logits_kernel[(batch * count, shares)](
        rows.queries, rows.keys, rows.positions, scores, count, keys, rows.keys.stride(0),
        rows.keys.stride(1), rows.scale, **shape, window=rows.window or 0,
        causal=rows.positions is not None, num_warps=4, enable_fp_fusion=False,
    )  # fmt: skip
    return scores
