"""Log-sum-exp, entropy and top-1 of every row from one pass over the keys, nothing stored."""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from indexer_kernels.backend import jit, power_of_two, tl
from indexer_kernels.operands import Rows
from indexer_kernels.tiles import (
    BLOCK_N,
    hide,
    key_span,
    load_queries,
    products,
    row_block,
    whole_until,
)

JOINED = 64  # rows a program joins


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
    row, row_seen, pos, split, batch = row_block(positions, rows, row_blocks, block_m, causal)
    queries += batch * rows * dim
    keys += batch * batch_stride
    first, last = key_span(pos, row_seen, count, window, causal, block_n)
    share = tl.cdiv(last - first, splits)
    first += split * share
    last = tl.minimum(first + share, last)
    middle = last  # tiles before it show every key to every row
    if edge:
        middle = whole_until(pos, row_seen, count, first, last, window, causal, block_n)
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
        row_blocks * batch, -(-keys // shape.block_n), shape.resident, device, uneven=causal
    )
    parts = torch.empty(3, splits, batch, count, dtype=torch.float32, device=device)
    tops = torch.empty(splits, batch, count, dtype=torch.int32, device=device) if top1 else None
    statistics_kernel[(row_blocks * splits, batch)](
        rows.queries, rows.keys, rows.positions, parts[0], parts[1],
        parts[2] if entropy else None, tops,
        count, keys, rows.keys.stride(0), rows.keys.stride(1), rows.scale, splits, row_blocks,
        dim=dim, chunk=shape.chunk, rest=shape.rest, block_m=shape.block_m, block_n=shape.block_n,
        window=rows.window or 0, causal=causal, edge=causal or keys % shape.block_n != 0,
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

    block_m, block_n: rows and keys a tile. chunk, rest: features that stay resident, in two powers
    of two; rest 0 and a chunk below the width reads both operands in chunks. resident: blocks that
    share a multiprocessor, so that one multiplies while another takes its exponentials.
    """

    block_m: int
    chunk: int
    rest: int
    warps: int
    stages: int
    resident: int
    block_n: int = BLOCK_N


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
