"""The set from one pass over the scores: what reaches a sampled gate is stored as it is found.

An accumulator thread holds 32 columns of a tile's row, so a row's four threads each keep a list of
their own: a running count in a register says where the next candidate goes, nothing is exchanged
and no atomic is needed. Two neighbouring keys are one record: half the work of a key each. Lists of
one row are `segments` runs (search.py). Tiles are dealt to the
programs of a row block in turn, so that a cluster of large keys spreads over all runs.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil, sqrt

import torch
from torch import Tensor

from indexer_kernels.backend import INTERPRETED, jit, power_of_two, tl
from indexer_kernels.bits import bit_count
from indexer_kernels.bound import REST, few
from indexer_kernels.margin import doubled_error, error_terms, key_norms
from indexer_kernels.operands import Rows
from indexer_kernels.sample import expected_candidates, sampled_bounds
from indexer_kernels.scoring import TileShape, key_splits, tile_shape, twice
from indexer_kernels.settling import BAND, settle
from indexer_kernels.tiles import (
    BLOCK_N,
    hide,
    key_span,
    load_queries,
    products,
    row_block,
    whole_until,
)
from indexer_kernels.written import gather_shape, load_query

LANES = 4  # threads of a tile's row
TILE_HITS = BLOCK_N // 8  # most pairs that one tile gives a thread's list
MOST_SPLITS = 16
SETTLED = 8192  # most candidates that a settling program keeps in registers
WARPS = 8  # of a settling program
BAND_ROOM = 512  # keys near the cut that a row has room for


@jit
def scatter(records, place, position, value, second, bound, direct: tl.constexpr):
    """Record `place` (int32) becomes both values and their position where either reaches the bound;
    each is written by the thread that holds it.

    `tl.store` would carry the whole tile through shared memory to make its writes contiguous, for
    the few values in a hundred that are written. The interpreter has no assembly, so not there.
    An offset of 32 bits from one base spares the 64-bit addresses.
    """
    best = tl.maximum(value, second)
    if direct:
        to = records.to(tl.int64) + (16 * place).to(tl.uint32, bitcast=True).to(tl.int64)
        tl.inline_asm_elementwise(
            "{ .reg .pred p; setp.ge.f32 p, $5, $6;"
            " @p st.global.v2.b32 [$1], {$3, $4}; @p st.global.b32 [$1+8], $2; }",
            "=r,l,r,f,f,f,f",
            [to, position, value, second, best, bound],
            dtype=tl.int32, is_pure=False, pack=1,
        )  # fmt: skip
    else:
        where = best >= bound
        tl.store(records + 4 * place, value.to(tl.int32, bitcast=True), mask=where)
        tl.store(records + 4 * place + 1, second.to(tl.int32, bitcast=True), mask=where)
        tl.store(records + 4 * place + 2, position, mask=where)


@jit
def set_bits(word, direct: tl.constexpr):
    """Set bits of each uint32; with its instruction spelled, which the compiler does not find once
    it has folded a mask into the long form."""
    if direct:
        count = tl.inline_asm_elementwise(
            "popc.b32 $0, $1;", "=r,r", [word], dtype=tl.int32, is_pure=True, pack=1
        )
    else:
        count = bit_count(word)
    return count


@jit
def harvest_tile(
    found, bound, head_chunk, queries, row, row_seen, pos, keys, tile, key_stride, count, scale,
    records, list_at, room,
    dim: tl.constexpr, chunk: tl.constexpr, block_m: tl.constexpr, block_n: tl.constexpr,
    window: tl.constexpr, causal: tl.constexpr, masked: tl.constexpr, direct: tl.constexpr,
):  # fmt: skip
    """Stores a tile's candidates; found [block_m, 4], each list's count after it."""
    col = tile * block_n + tl.arange(0, block_n)
    logits = scale * products(
        head_chunk, head_chunk, queries, row, row_seen, keys, col, key_stride, count, dim, chunk, 0
    )
    if masked:
        logits = hide(logits, pos, col, count, window, causal)
    pairs: tl.constexpr = block_n // 8
    value, second = tl.split(tl.reshape(logits, [block_m, pairs, 4, 2]))
    threshold = tl.broadcast_to(bound[:, None, None], [block_m, pairs, 4])
    # -inf, a hidden key, stays out: the bound is no lower than the smallest float32
    gate = (tl.maximum(value, second) >= threshold).to(tl.int32)
    pair = tl.arange(0, pairs)
    word = tl.sum(gate << pair[None, :, None], 1).to(tl.uint32, bitcast=True)  # [block_m, 4]
    below = ((1 << pair) - 1).to(tl.uint32)
    rank = set_bits(word[:, None, :] & below[None, :, None], direct)  # [block_m, pairs, 4]
    # a full list goes on in its last places, and its count tells
    start = list_at + tl.minimum(found, room - pairs)
    lane = tl.arange(0, 4)[None, None, :]
    position = tile * block_n + 8 * pair[None, :, None] + 2 * lane
    position = tl.broadcast_to(position, [block_m, pairs, 4])
    scatter(records, start[:, None, :] + rank, position, value, second, threshold, direct)
    return found + set_bits(word, direct)


@jit
def harvest_kernel(
    queries, keys, positions, bounds, records, counts,
    rows, count, batch_stride, key_stride, scale, splits, row_blocks, room,
    dim: tl.constexpr, chunk: tl.constexpr, block_m: tl.constexpr, block_n: tl.constexpr,
    window: tl.constexpr, causal: tl.constexpr, edge: tl.constexpr, direct: tl.constexpr,
):  # fmt: skip
    """records [line, split, lane, room, 4] and counts [line, split, lane] of pairs of neighbouring
    keys of which one reaches a bound.

    Grid (row blocks * splits, batch). edge: some tile may hold hidden keys. A bound of NaN is
    reached by none. counts also counts what there was no room for.
    """
    row, row_seen, pos, split, batch = row_block(positions, rows, row_blocks, block_m, causal)
    queries += batch * rows * dim
    keys += batch * batch_stride
    begin, end = key_span(pos, row_seen, count, window, causal, block_n)
    middle = end  # tiles before it show every key to every row
    if edge:
        middle = whole_until(pos, row_seen, count, begin, end, window, causal, block_n)
    begin += split
    whole = tl.maximum(tl.cdiv(middle - begin, splits), 0)
    line = batch * rows + row.to(tl.int64)
    bound = tl.load(bounds + line, mask=row_seen, other=float("inf"))
    bound = tl.where(bound == float("-inf"), -3.4028234663852886e38, bound)
    head_chunk = load_queries(queries, row, row_seen, 0, dim, chunk)
    lane = tl.arange(0, 4)
    own = ((line[:, None] * splits + split) * 4 + lane[None, :]).to(tl.int32)
    list_at = own * room  # records stay under 4 GiB
    found = tl.full([block_m, 4], 0, tl.int32)
    for tile in range(begin, begin + whole * splits, splits):
        found = harvest_tile(
            found, bound, head_chunk, queries, row, row_seen, pos, keys, tile, key_stride, count,
            scale, records, list_at, room,
            dim, chunk, block_m, block_n, window, causal, False, direct,
        )  # fmt: skip
    if edge:
        for tile in range(begin + whole * splits, end, splits):
            found = harvest_tile(
                found, bound, head_chunk, queries, row, row_seen, pos, keys, tile, key_stride,
                count, scale, records, list_at, room,
                dim, chunk, block_m, block_n, window, causal, True, direct,
            )  # fmt: skip
    tl.store(counts + own, found, mask=row_seen[:, None])


@jit
def settle_kernel(
    words, halves, counts, bounds, band, chosen, values, failed, queries, keys, squares,
    rows, batch_stride, key_stride, room, k, scale, shares, relative, absolute, tiny, largest,
    segments: tl.constexpr, width: tl.constexpr, rest: tl.constexpr, band_room: tl.constexpr,
    many: tl.constexpr, kth_only: tl.constexpr, dim: tl.constexpr, padded: tl.constexpr,
    levels: tl.constexpr, block: tl.constexpr, band_block: tl.constexpr, norms: tl.constexpr,
    tile_hits: tl.constexpr,
):  # fmt: skip
    """The top-k of harvested lists, or with kth_only its last value; grid (lines).

    failed [line] is set where nothing proves it: a list or the band ran over, no error can be
    stated, or the gate lay too high, so that a key beyond it may belong to the top-k.
    """
    line = tl.program_id(0).to(tl.int64)
    pairs = tl.max(tl.load(counts + line * segments + tl.arange(0, segments)), 0)
    bound = tl.load(bounds + line)
    query = load_query(queries, line, dim, padded)
    doubled = doubled_error(
        query, squares + line // rows * shares, shares, relative, absolute, tiny, largest, norms
    )  # fmt: skip
    usable = (doubled == doubled) & (pairs <= room - tile_hits)
    at = line * segments * room
    to = line if kth_only else line * k
    low, total, banded = settle(
        words + 4 * at, halves + 4 * at, counts + line * segments, 2 * room,
        tl.where(usable, 2 * pairs, 0), k, tl.maximum(bound, -3.4028234663852886e38), doubled,
        query, keys + line // rows * batch_stride, key_stride, scale,
        band + line * band_room, band_room, chosen + to, values + to,
        "pairs", segments, width, rest, many, False, kth_only, dim, padded, levels, block,
        band_block,
    )  # fmt: skip
    short = (total < k) | (low - doubled < bound)
    lost = (usable == 0) | (banded > band_room) | (short & (bound > float("-inf")))
    tl.store(failed + line, lost.to(tl.int8))


@dataclass(frozen=True)
class Harvest:
    """Candidates as they were found: records int32 [line, run, room, 4] (search.py, "pairs"),
    counts int32 [line, run], and the gate, float32 [line], that one of each pair reaches."""

    records: Tensor
    counts: Tensor
    bounds: Tensor


def harvest(rows: Rows, k: int, bounds: Tensor, shape: TileShape | None = None) -> Harvest:
    """Every visible key whose matrix-unit logit reaches its row's bound."""
    batch, count, keys, dim = rows.shape
    shape = shape or harvest_shape(rows)
    row_blocks = -(-count // shape.block_m)
    splits = run_splits(rows)
    room = run_room(k, LANES * splits)
    device = bounds.device
    records = torch.empty(batch * count, LANES * splits, room, 4, dtype=torch.int32, device=device)
    counts = torch.empty(batch * count, LANES * splits, dtype=torch.int32, device=device)
    harvest_kernel[(row_blocks * splits, batch)](
        rows.queries, rows.keys, rows.positions, bounds, records, counts,
        count, keys, rows.keys.stride(0), rows.keys.stride(1), rows.scale, splits, row_blocks,
        room, dim=dim, chunk=shape.chunk, block_m=shape.block_m, block_n=BLOCK_N,
        window=rows.window or 0, causal=rows.positions is not None,
        edge=rows.positions is not None or keys % BLOCK_N != 0, direct=not INTERPRETED,
        num_warps=shape.warps, num_stages=shape.stages,
    )  # fmt: skip
    return Harvest(records, counts, bounds)


def harvest_shape(rows: Rows) -> TileShape:
    """Two stages where two blocks then fit a multiprocessor: one multiplies, one stores."""
    shape = tile_shape(rows)
    return replace(shape, stages=2) if twice(rows) else shape


def run_splits(rows: Rows) -> int:
    """Programs that share a row block's tiles, a power of two."""
    batch, count, keys, _ = rows.shape
    row_blocks = -(-count // tile_shape(rows).block_m) * batch
    splits = key_splits(row_blocks, -(-keys // BLOCK_N), rows.queries.device)
    return min(MOST_SPLITS, power_of_two(splits + 1) // 2)


def run_room(k: int, runs: int) -> int:
    """Pairs that a run has room for: a few standard deviations over the expected, or more."""
    mean = expected_candidates(k) / runs
    return power_of_two(ceil(mean + 4 * sqrt(mean)) + TILE_HITS)


def row_bytes(rows: Rows, k: int) -> int:
    """Scratch bytes of a row, for chunks as large as these operands."""
    runs = LANES * run_splits(rows)
    return 16 * runs * run_room(k, runs) + 8 * BAND_ROOM + rows.shape[2] // 4


def settled(
    rows: Rows, k: int, found: Harvest, squares: Tensor, chosen: Tensor | None,
    values: Tensor | None, failed: Tensor,
) -> None:  # fmt: skip
    """Fills chosen [line, k], or without it values [line], the k-th alone; failed int8 [line]."""
    _, count, _, dim = rows.shape
    lines, runs, room, _ = found.records.shape
    band = torch.empty(lines, BAND_ROOM, dtype=torch.int64, device=failed.device)
    width = min(SETTLED, power_of_two(2 * expected_candidates(k))) // runs
    settle_kernel[(lines,)](
        found.records, found.records.view(torch.float32), found.counts, found.bounds, band,
        values if chosen is None else chosen, chosen if values is None else values, failed,
        rows.queries, rows.keys, squares,
        count, rows.keys.stride(0), rows.keys.stride(1), room, k, rows.scale, squares.shape[1],
        *error_terms(dim, rows.scale), segments=runs, width=max(1, width),
        rest=max(1, REST // runs), band_room=BAND_ROOM, many=few(lines), kth_only=chosen is None,
        **gather_shape(dim), band_block=BAND, norms=power_of_two(squares.shape[1], 16),
        tile_hits=TILE_HITS, num_warps=WARPS, enable_fp_fusion=False,
    )  # fmt: skip


def harvested(
    rows: Rows, k: int, chosen: Tensor | None, values: Tensor | None, failed: Tensor
) -> None:
    """Sample, harvest, settle; nothing is awaited. Arguments as `settled`."""
    found = harvest(rows, k, sampled_bounds(rows, k))
    settled(rows, k, found, key_norms(rows), chosen, values, failed)
