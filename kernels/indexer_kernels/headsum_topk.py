"""Exact top-k of the head-averaged attention probability: what DeepSeek's indexer is distilled to.

Two scoring passes: the log-sum-exp of each head and row, then the mean of the probabilities of a
chunk of rows, summed over heads inside a tile and selected from. No per-head probability is stored.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
from torch import Tensor

from indexer_kernels.backend import jit, power_of_two, tl, use_triton
from indexer_kernels.operands import (
    WORKSPACE,
    Rows,
    Tally,
    as_rows,
    check_attention,
    check_k,
    reference_logits,
    visible,
)
from indexer_kernels.row_select import group_of
from indexer_kernels.row_topk import largest_first, select_rows, stored_row_bytes
from indexer_kernels.streaming import StatisticsShape, log_sum_exp
from indexer_kernels.tiles import BLOCK_N, load_queries, products
from indexer_kernels.topk import HIDDEN, topk


@jit
def headsum_kernel(
    queries, keys, positions, lse, sums, maxima,
    lines, query_count, count, batch_stride, key_stride, scale, start, heads, shared, groups,
    dim: tl.constexpr, chunk: tl.constexpr, rest: tl.constexpr, group: tl.constexpr,
    block_m: tl.constexpr, block_n: tl.constexpr, window: tl.constexpr, causal: tl.constexpr,
):  # fmt: skip
    """Mean over heads of exp(logit - lse) for query rows start.. ; grid (row blocks, key tiles).

    queries [head, query, dim]; sums [line, key], -inf where hidden; maxima [line, groups] of
    `group` neighbours, NaN where one is NaN; shared: heads on a key head. All features of a head
    are one step of the loop, so the next head's loads run while this one multiplies and takes
    powers.
    """
    line = tl.program_id(0) * block_m + tl.arange(0, block_m)
    seen = line < lines
    row = start + line
    col = tl.program_id(1) * block_n + tl.arange(0, block_n)
    factor = scale * 1.4426950408889634
    total = tl.full([block_m, block_n], 0.0, tl.float32)
    for head in range(0, heads):
        wide = tl.full([], 0, tl.int64) + head
        of_head = queries + wide * query_count * dim
        head_chunk = load_queries(of_head, row, seen, 0, dim, chunk)
        tail_chunk = head_chunk
        if rest > 0:
            tail_chunk = load_queries(of_head, row, seen, chunk, dim, rest)
        value = products(
            head_chunk, tail_chunk, of_head, row, seen, keys + (wide // shared) * batch_stride, col,
            key_stride, count, dim, chunk, rest,
        )  # fmt: skip
        norm = tl.load(lse + wide * query_count + row, mask=seen, other=0.0)
        norm = tl.where(norm == float("-inf"), 0.0, norm)  # a row that sees nothing: all p are 0
        spread = tl.broadcast_to((norm * -1.4426950408889634)[:, None], [block_m, block_n])
        total += tl.exp2(tl.fma(value, tl.full(value.shape, 0.0, tl.float32) + factor, spread))
    # what hidden keys gathered is dropped here, once, rather than masked at every head
    shown = (col < count)[None, :]
    if causal:
        pos = tl.load(positions + row, mask=seen, other=0)
        distance = pos[:, None] - col[None, :]
        shown = shown & (distance >= 0)
        if window > 0:
            shown = shown & (distance < window)
    mean = tl.where(shown, total / heads, float("-inf"))
    to = sums + line[:, None].to(tl.int64) * count + col[None, :]
    tl.store(to, mean, mask=seen[:, None] & (col < count)[None, :])
    split = tl.reshape(mean, [block_m, block_n // group, group])
    bad = tl.max((split != split).to(tl.int32), 2)
    best = tl.where(bad > 0, float("nan"), tl.max(split, 2))
    slot = tl.program_id(1) * (block_n // group) + tl.arange(0, block_n // group)
    to = maxima + line[:, None].to(tl.int64) * groups + slot[None, :]
    tl.store(to, best, mask=seen[:, None] & (slot < groups)[None, :])


def headsum_topk(
    queries: Tensor,
    keys: Tensor,
    k: int,
    *,
    scale: float = 1.0,
    positions: Tensor | None = None,
    window: int | None = None,
    ordered: bool = True,
    backend: str | None = None,
    workspace: int = WORKSPACE,
    tally: Tally | None = None,
) -> tuple[Tensor, Tensor]:
    """The k largest head-averaged attention probabilities of each query row.

    Arguments and errors as `exact_topk`; the probability of a head is its softmax over the visible
    keys, sinks left out.
    returns: float32 values and int64 positions [query, k]; places beyond the visible keys hold
             -inf and -1.

    Exactness: the set is exact for the mean as accumulated in float32, head after head; against
    float64 only keys within about 1e-5 of the k-th mean, relative to it, may differ on logits of
    ordinary size (the error of a logit is the relative error of its p).
    Memory: 4 bytes a head and row for the log-sum-exp and as many a key split, then
    4.5 * key and 8 * min(key, max(4 * k, 1024)) bytes a row, in chunks of rows of about
    `workspace`, beside the outputs.
    """
    check_attention(queries, keys, positions, window)
    check_k(k)
    if not use_triton(backend, queries, keys, positions):
        return headsum_topk_reference(
            queries, keys, k, scale=scale, positions=positions, window=window
        )
    rows = as_rows(queries, keys, scale, positions, window)
    lse = log_sum_exp(rows)
    count = queries.shape[1]
    step = max(16, workspace // stored_row_bytes(keys.shape[1], k))
    step = step // 128 * 128 or step
    values = torch.empty(count, k, dtype=torch.float32, device=queries.device)
    chosen = torch.empty(count, k, dtype=torch.int64, device=queries.device)
    for start in range(0, count, step):
        lines = slice(start, min(start + step, count))
        select_rows(
            *headsums(rows, lse, queries.shape[0], lines), k,
            values=values[lines], chosen=chosen[lines], tally=tally,
        )  # fmt: skip
    return largest_first(values, chosen) if ordered else (values, chosen)


def headsums(rows: Rows, lse: Tensor, heads: int, lines: slice) -> tuple[Tensor, Tensor, int]:
    """float32 [line, key], head-averaged probability of a slice of query rows; the maxima of groups
    of neighbouring keys, and how many are a group."""
    batch, count, keys, dim = rows.shape
    queries = batch * count // heads
    many, group = lines.stop - lines.start, group_of(keys)
    shape = headsum_shape(rows, many)
    groups = -(-keys // group)
    sums = torch.empty(many, keys, dtype=torch.float32, device=rows.queries.device)
    maxima = torch.empty(many, groups, dtype=torch.float32, device=rows.queries.device)
    headsum_kernel[(-(-many // shape.block_m), -(-keys // BLOCK_N))](
        rows.queries, rows.keys, rows.positions, lse, sums, maxima,
        many, queries, keys, rows.keys.stride(0), rows.keys.stride(1), rows.scale, lines.start,
        heads, heads // batch, groups, dim=dim, chunk=shape.chunk, rest=shape.rest, group=group,
        block_m=shape.block_m, block_n=BLOCK_N, window=rows.window or 0,
        causal=rows.positions is not None, num_warps=shape.warps, num_stages=shape.stages,
    )  # fmt: skip
    return sums, maxima, group


def headsum_shape(rows: Rows, lines: int) -> StatisticsShape:
    """The cut of the sum pass: both operands of every head travel, so a stage holds both."""
    dim = rows.shape[3]
    block_m = min(power_of_two(lines, 16), 128)
    warps = 8 if block_m == 128 else 4
    whole = power_of_two(dim, 16)
    if rows.queries.dtype == torch.float32 or dim > 192:
        return StatisticsShape(block_m, min(whole, 64), 0, warps, stages=3, resident=1)
    if dim <= 128:
        return StatisticsShape(block_m, whole, 0, warps, stages=3, resident=1)
    rest = power_of_two(dim - 128, 16)
    return StatisticsShape(block_m, 128, rest, warps, stages=2, resident=1)


def headsum_topk_reference(
    queries: Tensor,
    keys: Tensor,
    k: int,
    *,
    scale: float = 1.0,
    positions: Tensor | None = None,
    window: int | None = None,
) -> tuple[Tensor, Tensor]:
    """headsum_topk in plain torch. Memory: 64 MiB of logits and their softmax."""
    check_attention(queries, keys, positions, window)
    check_k(k)
    parts = []
    for lines, logits in reference_logits(queries, keys, scale, positions, window):
        mean = logits.softmax(-1).mean(0)
        if positions is not None:
            seen = visible(positions[lines], window, keys.shape[1])
            mean = mean.where(seen, HIDDEN)
        parts.append(topk(mean, k))
    return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
