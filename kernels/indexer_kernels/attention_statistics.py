"""What a row's attention looks like without storing it: log-sum-exp, entropy, top-1, mass."""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from indexer_kernels.backend import jit, power_of_two, tl, use_triton
from indexer_kernels.exact_topk import key_splits, score, tile_shape
from indexer_kernels.operands import (
    WORKSPACE,
    Rows,
    as_rows,
    check_attention,
    reference_logits,
)
from indexer_kernels.tiles import BLOCK_N, key_span, load_queries, ordered, tile_logits
from indexer_kernels.topk import HIDDEN, KernelError

SHARES = (0.90, 0.95, 0.99)


@dataclass(frozen=True)
class AttentionStatistics:
    """Per query head and row, p = softmax of the logits over the visible keys.

    lse:      float32 [head, query], natural log of the sum of exp(logit); -inf where nothing is
              visible.
    entropy:  float32 [head, query], nats; 0 where nothing is visible.
    top1:     int64 [head, query], the lowest position of the largest logit; -1 where all are -inf.
    mass:     float32 [head, query], p summed over the given support, or None without one.
    needed:   int64 [head, query, share], least keys whose p reach each share, or None.
    """

    lse: Tensor
    entropy: Tensor
    top1: Tensor
    mass: Tensor | None = None
    needed: Tensor | None = None


@jit
def statistics_kernel(
    queries, keys, positions, maxima, sums, moments, tops,
    rows, count, batch_stride, key_stride, scale, splits, row_blocks,
    dim: tl.constexpr, chunk: tl.constexpr, block_m: tl.constexpr, block_n: tl.constexpr,
    window: tl.constexpr, causal: tl.constexpr, full: tl.constexpr,
):  # fmt: skip
    """Running maximum m, sum of exp(l - m), of (l - m) exp(l - m), and argmax, of a share of keys.

    Grid (row blocks * splits, batch); outputs [split, batch, row]. full: also moments and tops.
    """
    block = tl.program_id(0) % row_blocks
    split = tl.program_id(0) // row_blocks
    batch = tl.program_id(1).to(tl.int64)
    row = block * block_m + tl.arange(0, block_m)
    row_seen = row < rows
    pos = row
    if causal:
        pos = tl.load(positions + row, mask=row_seen, other=0)
    queries += batch * rows * dim
    keys += batch * batch_stride
    first, last = key_span(pos, row_seen, count, window, causal, block_n)
    share = tl.cdiv(last - first, splits)
    first += split * share
    last = tl.minimum(first + share, last)
    head_chunk = load_queries(queries, row, row_seen, 0, dim, chunk)
    best = tl.full([block_m], float("-inf"), tl.float32)
    total = tl.full([block_m], 0.0, tl.float32)
    moment = tl.full([block_m], 0.0, tl.float32)
    top = tl.full([block_m], -1, tl.int32)
    for tile in range(first, last):
        col = tile * block_n + tl.arange(0, block_n)
        logits = tile_logits(
            head_chunk, queries, row, row_seen, pos, keys, col, key_stride, count, scale,
            dim, chunk, window, causal,
        )  # fmt: skip
        tile_best = tl.max(logits, 1)
        if full:
            at = tl.min(tl.where(logits == tile_best[:, None], col[None, :], 2147483647), 1)
            top = tl.where(tile_best > best, at, top)
        newer = tl.maximum(best, tile_best)
        # while nothing is visible, 0 stands in for -inf: its exp terms are 0 either way
        base = tl.where(newer == float("-inf"), 0.0, newer)
        old = tl.where(best == float("-inf"), 0.0, best) - base
        shifted = logits - base[:, None]
        weight = tl.exp2(shifted * 1.4426950408889634)
        fade = tl.where(best == float("-inf"), 0.0, tl.exp2(old * 1.4426950408889634))
        if full:
            finite = tl.where(weight > 0.0, shifted * weight, 0.0)
            moment = fade * (moment + old * total) + tl.sum(finite, 1)
        total = fade * total + tl.sum(weight, 1)
        best = newer
    at = (split.to(tl.int64) * tl.num_programs(1) + batch) * rows + row
    tl.store(maxima + at, best, mask=row_seen)
    tl.store(sums + at, total, mask=row_seen)
    if full:
        tl.store(moments + at, moment, mask=row_seen)
        tl.store(tops + at, top, mask=row_seen)


@jit
def support_mass_kernel(
    queries, keys, support, positions, lse, mass,
    rows, query_count, count, batch_stride, key_stride, places, scale,
    group, sets, dim: tl.constexpr, padded: tl.constexpr, block: tl.constexpr,
    window: tl.constexpr, causal: tl.constexpr,
):  # fmt: skip
    """Sum of exp(logit - lse) over a row's support, hidden places left out; grid (rows, batch)."""
    row = tl.program_id(0)
    batch = tl.program_id(1).to(tl.int64)
    head = batch * group + row // query_count
    line = row % query_count
    feature = tl.arange(0, padded)
    query = tl.load(
        queries + (batch * rows + row) * dim + feature, mask=feature < dim, other=0.0
    ).to(tl.float32)
    heads = tl.num_programs(1) * group
    chosen = support + ((head * sets // heads) * query_count + line) * places
    norm = tl.load(lse + batch * rows + row)
    pos = line
    if causal:
        pos = tl.load(positions + row)
    total = tl.full([block], 0.0, tl.float32)
    for begin in range(0, places, block):
        place = begin + tl.arange(0, block)
        at = tl.load(chosen + place, mask=place < places, other=-1)
        seen = (at >= 0) & (at < count)
        if causal:
            seen = seen & (at <= pos)
            if window > 0:
                seen = seen & (pos - at < window)
        key = tl.load(
            keys + batch * batch_stride + at[:, None] * key_stride + feature[None, :],
            mask=seen[:, None] & (feature < dim)[None, :], other=0.0,
        ).to(tl.float32)  # fmt: skip
        logit = tl.sum(key * query[None, :], 1) * scale
        weight = tl.exp2((logit - norm) * 1.4426950408889634)
        total += tl.where(seen, weight, 0.0)
    tl.store(mass + batch * rows + row, tl.sum(total, 0))


@jit
def needed_kernel(scores, lse, shares, needed, keys, count: tl.constexpr, block: tl.constexpr):
    """Least keys whose probability reaches a share; grid (rows, shares).

    Bisects on the logit: the largest one whose keys and all above hold the share. Among equals at
    that logit, as many as the share still lacks.
    """
    row = tl.program_id(0).to(tl.int64)
    which = tl.program_id(1)
    norm = tl.load(lse + row)
    share = tl.load(shares + which)
    low = tl.full([], -2139095041, tl.int64)  # ordered(-inf): every key
    high = tl.full([], 2139095041, tl.int64)  # above +inf: none
    above = tl.full([], 0.0, tl.float32)
    more = tl.full([], 0, tl.int32)
    while high - low > 1:
        middle = (low + high) >> 1
        mass = tl.full([block], 0.0, tl.float32)
        many = tl.full([block], 0, tl.int32)
        for begin in range(0, keys, block):
            col = begin + tl.arange(0, block)
            logit = tl.load(scores + row * keys + col, mask=col < keys, other=float("-inf"))
            taken = ordered(logit) >= middle
            mass += tl.where(taken, tl.exp2((logit - norm) * 1.4426950408889634), 0.0)
            many += taken.to(tl.int32)
        held = tl.sum(mass, 0)
        if held >= share:
            low = middle
        else:
            high = middle
            above = held
            more = tl.sum(many, 0)
    key = low.to(tl.int32)
    edge = (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)
    each = tl.exp2((edge - norm) * 1.4426950408889634)
    lacking = tl.where(each > 0.0, tl.ceil((share - above) / each), 0.0)
    equal = tl.full([block], 0, tl.int32)
    for begin in range(0, keys, block):
        col = begin + tl.arange(0, block)
        logit = tl.load(scores + row * keys + col, mask=col < keys, other=float("-inf"))
        equal += ((ordered(logit) == low) & (logit > float("-inf"))).to(tl.int32)
    # rounding may leave the sum of all p just under the share: then all of them are needed
    extra = tl.minimum(tl.maximum(lacking, 0.0), tl.sum(equal, 0).to(tl.float32))
    tl.store(needed + row * count + which, more.to(tl.int64) + extra.to(tl.int64))


def attention_statistics(
    queries: Tensor,
    keys: Tensor,
    *,
    support: Tensor | None = None,
    shares: Sequence[float] | None = None,
    scale: float = 1.0,
    positions: Tensor | None = None,
    window: int | None = None,
    backend: str | None = None,
    workspace: int = WORKSPACE,
) -> AttentionStatistics:
    """Statistics of softmax(scale * q.k) over the visible keys, sinks left out.

    queries, keys, scale, positions, window, backend: as `exact_topk`.
    support: int64 [set, query, place], distinct positions, -1 pads; set is 1, kv_head or head.
             Places that the query cannot see hold no mass.
    shares:  shares of the mass, each in (0, 1), for `needed`, e.g. SHARES; None leaves it out.
    returns: AttentionStatistics.
    Raises KernelError for shapes, dtypes or devices that do not fit. A NaN logit, or a +inf one,
    makes its row's statistics meaningless (NaN where the arithmetic passes it on).
    Memory: 16 bytes a row and key split for the pass; `needed` stores float32 logits of as many
    rows as fit `workspace`, at least 16.
    """
    check_attention(queries, keys, positions, window)
    check_support(support, queries, keys)
    check_shares(shares)
    if not use_triton(backend, queries, keys, positions, support):
        return attention_statistics_reference(
            queries, keys, support=support, shares=shares, scale=scale, positions=positions,
            window=window,
        )  # fmt: skip
    rows = as_rows(queries, keys, scale, positions, window)
    lse, entropy, top1 = streamed(rows)
    shape = queries.shape[:2]
    mass = None if support is None else support_mass(rows, support, lse, shape[1]).view(shape)
    found = None
    if shares is not None:
        found = keys_needed(rows, lse, shares, workspace).view(*shape, len(shares))
    return AttentionStatistics(lse.view(shape), entropy.view(shape), top1.view(shape), mass, found)


def log_sum_exp(rows: Rows) -> Tensor:
    """float32 [batch, row]: the log-sum-exp alone, which spares the entropy's arithmetic."""
    best, total = run_statistics(rows, full=False)[:2]
    highest = best.amax(0)
    fade = (best - highest.where(highest > HIDDEN, 0.0)).exp()
    return highest + (total * fade).sum(0).log()


def streamed(rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
    """lse, entropy and top1 [batch, row] from one pass, its key shares joined in float32."""
    best, total, moment, top = run_statistics(rows, full=True)
    highest = best.amax(0)
    base = highest.where(highest > HIDDEN, 0.0)
    shift = best - base
    fade = shift.exp()
    summed = (total * fade).sum(0)
    moved = torch.where(total > 0, shift * total, 0.0)
    drift = torch.where(total > 0, fade * (moment + moved), 0.0).sum(0)
    log_sum = summed.log()
    entropy = torch.where(highest == HIDDEN, 0.0, log_sum - drift / summed)
    winner = (best == highest).int().argmax(0, keepdim=True)  # the first share of equals
    return highest + log_sum, entropy, top.gather(0, winner)[0].long()


def run_statistics(rows: Rows, full: bool) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Maxima, sums, moments and argmax [split, batch, row]; the last two unwritten unless full."""
    batch, count, keys, dim = rows.shape
    shape = tile_shape(rows)
    row_blocks = -(-count // shape.block_m)
    splits = key_splits(row_blocks * batch, -(-keys // BLOCK_N), rows.queries.device)
    parts = torch.empty(3, splits, batch, count, dtype=torch.float32, device=rows.queries.device)
    tops = torch.empty(splits, batch, count, dtype=torch.int32, device=rows.queries.device)
    statistics_kernel[(row_blocks * splits, batch)](
        rows.queries, rows.keys, rows.positions, parts[0], parts[1], parts[2], tops,
        count, keys, rows.keys.stride(0), rows.keys.stride(1), rows.scale, splits, row_blocks,
        dim=dim, chunk=shape.chunk, block_m=shape.block_m, block_n=BLOCK_N,
        window=rows.window or 0, causal=rows.positions is not None, full=full,
        num_warps=shape.warps, num_stages=shape.stages,
    )  # fmt: skip
    return parts[0], parts[1], parts[2], tops


def support_mass(rows: Rows, support: Tensor, lse: Tensor, queries: int) -> Tensor:
    """float32 [batch, row]: probability on the support."""
    batch, count, keys, dim = rows.shape
    mass = torch.empty(batch, count, dtype=torch.float32, device=support.device)
    support = support.contiguous()
    padded = power_of_two(dim, 16)
    support_mass_kernel[(count, batch)](
        rows.queries, rows.keys, support, rows.positions, lse, mass,
        count, queries, keys, rows.keys.stride(0), rows.keys.stride(1), support.shape[2],
        rows.scale, count // queries, support.shape[0], dim=dim, padded=padded,
        block=max(16, 8192 // padded), window=rows.window or 0,
        causal=rows.positions is not None, num_warps=4,
    )  # fmt: skip
    return mass


def keys_needed(rows: Rows, lse: Tensor, shares: Sequence[float], workspace: int) -> Tensor:
    """int64 [batch, row, share]"""
    batch, count, keys, _ = rows.shape
    device = rows.queries.device
    needed = torch.empty(batch, count, len(shares), dtype=torch.int64, device=device)
    wanted = torch.tensor(shares, dtype=torch.float32, device=device)
    step = max(16, workspace // (4 * keys))
    for one in range(batch):
        for start in range(0, count, step):
            lines = slice(start, min(start + step, count))
            part = rows.part(slice(one, one + 1), lines)
            logits = torch.empty(part.shape[1], keys, dtype=torch.float32, device=device)
            score(part, "all", scores=logits)
            needed_kernel[(len(logits), len(shares))](
                logits, lse[one, lines], wanted, needed[one, lines], keys,
                count=len(shares), block=min(power_of_two(keys, 16), 2048), num_warps=8,
            )  # fmt: skip
    return needed


def attention_statistics_reference(
    queries: Tensor,
    keys: Tensor,
    *,
    support: Tensor | None = None,
    shares: Sequence[float] | None = None,
    scale: float = 1.0,
    positions: Tensor | None = None,
    window: int | None = None,
) -> AttentionStatistics:
    """attention_statistics in plain torch, sums in float64. Memory: a few times 64 MiB."""
    check_attention(queries, keys, positions, window)
    check_support(support, queries, keys)
    check_shares(shares)
    parts: list[tuple[Tensor, ...]] = []
    for lines, logits in reference_logits(queries, keys, scale, positions, window):
        p = logits.double().softmax(-1).nan_to_num_(nan=0.0) if _all_numbers(logits) else (
            logits.double().softmax(-1)
        )  # fmt: skip
        entropy = -torch.special.xlogy(p, p).sum(-1)
        top1 = logits.argmax(-1)
        top1 = top1.masked_fill(logits.amax(-1) == HIDDEN, -1)
        none = torch.empty(0)
        parts.append((
            logits.double().logsumexp(-1).float(), entropy.float(), top1,
            none if support is None else _support_mass(p, support[:, lines]),
            none if shares is None else _needed(p, shares),
        ))  # fmt: skip
    lse, entropy, top1 = (torch.cat([part[i] for part in parts], 1) for i in range(3))
    mass = None if support is None else torch.cat([part[3] for part in parts], 1)
    needed = None if shares is None else torch.cat([part[4] for part in parts], 1)
    return AttentionStatistics(lse, entropy, top1, mass, needed)


def _all_numbers(logits: Tensor) -> bool:
    return not bool(logits.isnan().any())


def _support_mass(p: Tensor, support: Tensor) -> Tensor:
    heads = p.shape[0]
    shared = support.repeat_interleave(heads // support.shape[0], 0)
    inside = (shared >= 0) & (shared < p.shape[-1])
    return (p.gather(-1, shared.where(inside, 0)) * inside).sum(-1).float()


def _needed(p: Tensor, shares: Sequence[float]) -> Tensor:
    summed = p.sort(dim=-1, descending=True).values.cumsum(-1)
    wanted = torch.tensor(shares, dtype=torch.float32, device=p.device).double()
    short = (summed[..., None, :] < wanted[:, None]).sum(-1)
    return torch.minimum(short + 1, (p > 0).sum(-1, keepdim=True))


def check_support(support: Tensor | None, queries: Tensor, keys: Tensor) -> None:
    """Raises KernelError unless support is None or int64 [set, query, place], set 1, kv_head or
    head."""
    if support is None:
        return
    sets = (1, keys.shape[0], queries.shape[0])
    if support.dtype != torch.int64 or support.ndim != 3 or support.shape[0] not in sets:
        raise KernelError(
            f"support is {support.dtype} {tuple(support.shape)}: expected int64 "
            f"[set, query, place] with {sorted(set(sets))} sets"
        )
    if support.shape[1] != queries.shape[1] or support.shape[2] == 0:
        raise KernelError(
            f"support {tuple(support.shape)} does not match queries {tuple(queries.shape)}"
        )


def check_shares(shares: Sequence[float] | None) -> None:
    """Raises KernelError unless each share lies inside (0, 1)."""
    for share in shares or ():
        if not 0.0 < share < 1.0:
            raise KernelError(f"share = {share}: expected a share of the mass inside (0, 1)")
