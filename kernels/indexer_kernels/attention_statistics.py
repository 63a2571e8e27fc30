"""What a row's attention looks like without storing it: log-sum-exp, entropy, top-1, mass."""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from indexer_kernels.backend import jit, power_of_two, tl, use_triton
from indexer_kernels.exact_topk import score
from indexer_kernels.operands import (
    WORKSPACE,
    Rows,
    as_rows,
    check_attention,
    reference_logits,
)
from indexer_kernels.tiles import BLOCK_N, hide, key_span, load_queries, ordered, products
from indexer_kernels.topk import HIDDEN, KernelError

SHARES = (0.90, 0.95, 0.99)
JOINED = 64  # rows a program joins


@dataclass(frozen=True)
class AttentionStatistics:
    """Per query head and row, p = softmax of the logits over the visible keys.

    lse:      float32 [head, query], natural log of the sum of exp(logit); -inf where nothing is
              visible.
    entropy:  float32 [head, query], nats; 0 where nothing is visible.
    top1:     int64 [head, query], the lowest position of the largest logit; -1 where all are -inf;
              or None where it was not asked for.
    mass:     float32 [head, query], p summed over the given support, or None without one.
    needed:   int64 [head, query, share], least keys whose p reach each share, or None.
    """

    lse: Tensor
    entropy: Tensor
    top1: Tensor | None
    mass: Tensor | None = None
    needed: Tensor | None = None


@jit
def absorb(
    best, total, moment, top, head_chunk, tail_chunk, queries, row, row_seen, pos, keys, tile,
    key_stride, count, scale, factor,
    dim: tl.constexpr, chunk: tl.constexpr, rest: tl.constexpr,
    block_m: tl.constexpr, block_n: tl.constexpr, window: tl.constexpr, causal: tl.constexpr,
    masked: tl.constexpr, scaled: tl.constexpr, moments: tl.constexpr, tops: tl.constexpr,
):  # fmt: skip
    """The four running lanes of every row, [block_m, 4] each, after one more tile of keys.

    Lane t holds columns 8j + 2t and 8j + 2t + 1, which one thread owns: nothing is exchanged.
    """
    col = tile * block_n + tl.arange(0, block_n)
    value = products(
        head_chunk, tail_chunk, queries, row, row_seen, keys, col, key_stride, count,
        dim, chunk, rest,
    )  # fmt: skip
    if scaled:
        value = value * scale
    if masked:
        value = hide(value, pos, col, count, window, causal)
    value = tl.reshape(value, [block_m, block_n // 8, 4, 2])
    tile_best = tl.max(tl.max(value, 1), 2)
    if tops:
        place = tl.arange(0, block_n // 8)[:, None] * 8 + tl.arange(0, 2)[None, :]
        equal = value == tile_best[:, None, :, None]
        at = tl.where(equal, place[None, :, None, :], block_n)
        at = tl.min(tl.min(at, 1), 2) + (tile * block_n + 2 * tl.arange(0, 4))[None, :]
        top = tl.where(tile_best > best, at, top)
    newer = tl.maximum(best, tile_best)
    base = power_base(newer, factor)
    # the clamp keeps -inf out of products with 0; below 2^-149 every weight is 0 anyway
    old = tl.maximum(power_base(best, factor) - base, -1000.0)
    fade = tl.where(best == float("-inf"), 0.0, tl.exp2(old))
    spread = tl.broadcast_to(base[:, None, :, None], [block_m, block_n // 8, 4, 2])
    power = tl.fma(value, tl.full(value.shape, 0.0, tl.float32) + factor, -spread)
    weight = tl.exp2(power)
    if moments:
        drift = tl.maximum(power, -1000.0) * weight
        moment = fade * (moment + old * total) + tl.sum(tl.sum(drift, 1), 2)
    total = fade * total + tl.sum(tl.sum(weight, 1), 2)
    return newer, total, moment, top


@jit
def power_base(best, factor):
    """best * factor; while nothing is visible 0 stands in for -inf, whose weights are 0 anyway."""
    return tl.where(best == float("-inf"), 0.0, best * factor)


@jit
def statistics_kernel(
    queries, keys, positions, maxima, sums, moments, tops,
    rows, count, batch_stride, key_stride, scale, splits, row_blocks,
    dim: tl.constexpr, chunk: tl.constexpr, rest: tl.constexpr,
    block_m: tl.constexpr, block_n: tl.constexpr,
    window: tl.constexpr, causal: tl.constexpr, edge: tl.constexpr, scaled: tl.constexpr,
    full: tl.constexpr, top1: tl.constexpr,
):  # fmt: skip
    """Running maximum m, sum of exp(l - m), of (l - m) exp(l - m), and argmax, of a share of keys.

    Grid (row blocks * splits, batch); outputs [split, batch, row]. full: also moments. top1: also
    tops. edge: some tile may hold hidden keys. scaled: products are scaled before they are
    compared, which a negative scale needs, and top1 to see the ties of the rounded logits.

    Powers are of base 2, with the scale and log2(e) in one factor: a weight costs one fused
    multiply-add and one exp2.
    """
    place = tl.program_id(0) % row_blocks
    # later rows see more keys, so they start first and the short ones fill the end
    block = row_blocks - 1 - place if causal else place
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
    middle = last  # tiles before it show every key to every row
    if edge:
        middle = count // block_n
        if causal:
            reach = tl.min(tl.where(row_seen, pos, count), 0) + 1
            middle = tl.minimum(tl.maximum(reach, 0) // block_n, middle)
        middle = tl.maximum(tl.minimum(middle, last), first)
        if window > 0:
            middle = first
    factor = scale * 1.4426950408889634
    if scaled:
        factor = 1.4426950408889634
    head_chunk = load_queries(queries, row, row_seen, 0, dim, chunk)
    tail_chunk = head_chunk
    if rest > 0:
        tail_chunk = load_queries(queries, row, row_seen, chunk, dim, rest)
    best = tl.full([block_m, 4], float("-inf"), tl.float32)
    total = tl.full([block_m, 4], 0.0, tl.float32)
    moment = tl.full([block_m, 4], 0.0, tl.float32)
    top = tl.full([block_m, 4], -1, tl.int32)
    if not edge or window == 0:
        for tile in range(first, middle):
            best, total, moment, top = absorb(
                best, total, moment, top, head_chunk, tail_chunk, queries, row, row_seen, pos,
                keys, tile, key_stride, count, scale, factor,
                dim, chunk, rest, block_m, block_n, window, causal, False, scaled, full, top1,
            )  # fmt: skip
    if edge:
        for tile in range(middle, last):
            best, total, moment, top = absorb(
                best, total, moment, top, head_chunk, tail_chunk, queries, row, row_seen, pos,
                keys, tile, key_stride, count, scale, factor,
                dim, chunk, rest, block_m, block_n, window, causal, True, scaled, full, top1,
            )  # fmt: skip
    highest = tl.max(best, 1)
    base = power_base(highest, factor)
    shift = tl.maximum(power_base(best, factor) - base[:, None], -1000.0)
    fade = tl.where(best == float("-inf"), 0.0, tl.exp2(shift))
    # the fused multiply-add did not round highest * factor as base did: take the remainder out
    off = tl.fma(tl.where(highest == float("-inf"), 0.0, highest), highest * 0.0 + factor, -base)
    off = tl.where(highest == float("-inf"), 0.0, off)
    back = tl.exp2(-off)
    joined = tl.sum(fade * total, 1)
    to = (split.to(tl.int64) * tl.num_programs(1) + batch) * rows + row
    logit = highest if scaled else highest * scale
    tl.store(maxima + to, logit, mask=row_seen)
    tl.store(sums + to, back * joined, mask=row_seen)
    if full:
        drift = tl.sum(fade * (moment + shift * total), 1)
        nats = 0.6931471805599453 * back * (drift - off * joined)
        tl.store(moments + to, nats, mask=row_seen)
    if top1:
        earliest = tl.min(tl.where(best == highest[:, None], top, 2147483647), 1)
        earliest = tl.where(highest == float("-inf"), -1, earliest)
        tl.store(tops + to, earliest, mask=row_seen)


@jit
def join_kernel(
    maxima, sums, moments, tops, lse, entropy, top1, count, splits,
    block: tl.constexpr, full: tl.constexpr, with_top: tl.constexpr,
):  # fmt: skip
    """Joins the key shares of `count` rows: parts [split, row], results [row]."""
    row = tl.program_id(0) * block + tl.arange(0, block)
    seen = row < count
    best = tl.full([block], float("-inf"), tl.float32)
    total = tl.full([block], 0.0, tl.float32)
    moment = tl.full([block], 0.0, tl.float32)
    top = tl.full([block], -1, tl.int64)
    for split in range(0, splits):
        at = (tl.full([], 0, tl.int64) + split) * count + row
        high = tl.load(maxima + at, mask=seen, other=float("-inf"))
        part = tl.load(sums + at, mask=seen, other=0.0)
        newer = tl.maximum(best, high)
        base = tl.where(newer == float("-inf"), 0.0, newer)
        # a share without weight fades to exactly 0; the clamp keeps 0 * inf out of it
        old = tl.maximum(best - base, -1000.0)
        new = tl.maximum(high - base, -1000.0)
        keep = tl.exp(old)
        add = tl.exp(new)
        if full:
            drift = tl.load(moments + at, mask=seen, other=0.0)
            moment = keep * (moment + old * total) + add * (drift + new * part)
        if with_top:
            # strictly larger: the earlier share holds the lower positions
            place = tl.load(tops + at, mask=seen, other=-1).to(tl.int64)
            top = tl.where(high > best, place, top)
        total = keep * total + add * part
        best = newer
    log_sum = tl.log(total)
    tl.store(lse + row, best + log_sum, mask=seen)
    if full:
        nats = tl.where(best == float("-inf"), total * 0.0, log_sum - moment / total)
        tl.store(entropy + row, nats, mask=seen)
    if with_top:
        tl.store(top1 + row, top, mask=seen)


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
    top1: bool = True,
    backend: str | None = None,
    workspace: int = WORKSPACE,
) -> AttentionStatistics:
    """Statistics of softmax(scale * q.k) over the visible keys, sinks left out.

    queries, keys, scale, positions, window, backend: as `exact_topk`.
    support: int64 [set, query, place], distinct positions, -1 pads; set is 1, kv_head or head.
             Places that the query cannot see hold no mass.
    shares:  shares of the mass, each in (0, 1), for `needed`, e.g. SHARES; None leaves it out.
    top1:    whether to look for the largest logit; log-sum-exp and entropy pay nothing for it
             when False.
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
            window=window, top1=top1,
        )  # fmt: skip
    rows = as_rows(queries, keys, scale, positions, window)
    lse, entropy, top = streamed(rows, top1=top1)
    assert entropy is not None
    shape = queries.shape[:2]
    mass = None if support is None else support_mass(rows, support, lse, shape[1]).view(shape)
    found = None
    if shares is not None:
        found = keys_needed(rows, lse, shares, workspace).view(*shape, len(shares))
    first = None if top is None else top.view(shape)
    return AttentionStatistics(lse.view(shape), entropy.view(shape), first, mass, found)


def log_sum_exp(rows: Rows, shape: StatisticsShape | None = None) -> Tensor:
    """float32 [batch, row]: the log-sum-exp alone, which spares the entropy's arithmetic."""
    return streamed(rows, entropy=False, top1=False, shape=shape)[0]


def streamed(
    rows: Rows, *, entropy: bool = True, top1: bool = True, shape: StatisticsShape | None = None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """lse, and entropy and top1 where asked, [batch, row] from one pass over the keys.

    shape: how the pass is cut up, for measurements; None takes statistics_shape.
    """
    batch, count, keys, dim = rows.shape
    device = rows.queries.device
    shape = shape or statistics_shape(rows)
    row_blocks = -(-count // shape.block_m)
    causal = rows.positions is not None
    splits = shares_of_keys(
        row_blocks * batch, -(-keys // BLOCK_N), shape.resident, device, uneven=causal
    )
    parts = torch.empty(3, splits, batch, count, dtype=torch.float32, device=device)
    tops = torch.empty(splits, batch, count, dtype=torch.int32, device=device) if top1 else None
    statistics_kernel[(row_blocks * splits, batch)](
        rows.queries, rows.keys, rows.positions, parts[0], parts[1],
        parts[2] if entropy else None, tops,
        count, keys, rows.keys.stride(0), rows.keys.stride(1), rows.scale, splits, row_blocks,
        dim=dim, chunk=shape.chunk, rest=shape.rest, block_m=shape.block_m, block_n=BLOCK_N,
        window=rows.window or 0, causal=causal, edge=causal or keys % BLOCK_N != 0,
        scaled=top1 or not rows.scale > 0.0, full=entropy, top1=top1,
        num_warps=shape.warps, num_stages=shape.stages,
    )  # fmt: skip
    lse = torch.empty(batch, count, dtype=torch.float32, device=device)
    spread = torch.empty_like(lse) if entropy else None
    winner = torch.empty(batch, count, dtype=torch.int64, device=device) if top1 else None
    join_kernel[(-(-batch * count // JOINED),)](
        parts[0], parts[1], parts[2], tops, lse, spread, winner, batch * count, splits,
        block=JOINED, full=entropy, with_top=top1, num_warps=4,
    )  # fmt: skip
    return lse, spread, winner


@dataclass(frozen=True)
class StatisticsShape:
    """How the statistics pass is cut up.

    block_m: rows a tile. chunk, rest: features that stay resident, in two powers of two; rest 0
    and a chunk below the width reads both operands in chunks. resident: blocks that share a
    multiprocessor, so that one multiplies while another takes its exponentials.
    """

    block_m: int
    chunk: int
    rest: int
    warps: int
    stages: int
    resident: int


def statistics_shape(rows: Rows) -> StatisticsShape:
    """The cut for these operands, from what a multiprocessor holds: see docs/kernels.md."""
    _, count, _, dim = rows.shape
    block_m = min(power_of_two(count, 16), 128)
    warps = 8 if block_m == 128 else 4
    whole = power_of_two(dim, 16)
    if rows.queries.dtype == torch.float32:
        return StatisticsShape(block_m, min(whole, 64), 0, warps, stages=3, resident=1)
    if dim <= 128:
        return StatisticsShape(block_m, whole, 0, warps, stages=2, resident=2)
    if dim <= 256:
        rest = power_of_two(dim - 128, 16)
        if rest <= 64 and count >= 256:
            # two blocks do not fit, and twice the rows halve what a tile reads of the keys
            return StatisticsShape(256, 128, rest, warps=16, stages=2, resident=1)
        return StatisticsShape(block_m, 128, rest, warps, stages=2, resident=1)
    return StatisticsShape(block_m, 64, 0, warps, stages=3, resident=1)


def shares_of_keys(
    row_blocks: int, tiles: int, resident: int, device: torch.device, *, uneven: bool = False
) -> int:
    """Shares that the keys are cut into: the count whose blocks leave the least idle at the end.

    A block's start and end cost it about as much as four tiles. uneven: blocks differ in how many
    keys they see, so at least some four waves of them even that out. With no GPU two shares, so
    that the interpreter joins some.
    """
    if device.type != "cuda":
        return min(2, tiles)
    slots = resident * torch.cuda.get_device_properties(device).multi_processor_count
    most = max(1, min(tiles, 8 * slots // row_blocks))

    def cost(splits: int) -> int:
        return -(-row_blocks * splits // slots) * (-(-tiles // splits) + 4)

    least = min(most, -(-4 * slots // row_blocks)) if uneven else 1
    return min(range(least, most + 1), key=cost)


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
    top1: bool = True,
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
        top = logits.argmax(-1)
        top = top.masked_fill(logits.amax(-1) == HIDDEN, -1)
        none = torch.empty(0)
        parts.append((
            logits.double().logsumexp(-1).float(), entropy.float(), top,
            none if support is None else _support_mass(p, support[:, lines]),
            none if shares is None else _needed(p, shares),
        ))  # fmt: skip
    lse, entropy, top = (torch.cat([part[i] for part in parts], 1) for i in range(3))
    mass = None if support is None else torch.cat([part[3] for part in parts], 1)
    needed = None if shares is None else torch.cat([part[4] for part in parts], 1)
    return AttentionStatistics(lse, entropy, top if top1 else None, mass, needed)


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
