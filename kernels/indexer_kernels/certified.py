"""The landed design, kept until the GPU has compared it: a proven gate, bits, all candidates added.

Pass 1 keeps the maximum of each small group of keys; the k-th largest, less twice the error of a
logit, is a gate that every key of the top-k passes. Pass 2 keeps one bit a key. Every key whose bit
is set gets its written sum, and those are cut. With a sampled gate pass 1 reads a share of the
keys, and the cut must lie above the gate by the error for the answer to be proven.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
from torch import Tensor

from indexer_kernels.backend import jit, power_of_two, tl
from indexer_kernels.bits import bit_count, record
from indexer_kernels.bound import REST, block_span, few, group_bounds, resident
from indexer_kernels.margin import doubled_error, error_terms, key_norms, lower_bounds
from indexer_kernels.operands import WORKSPACE, Rows
from indexer_kernels.sample import sampled_bounds
from indexer_kernels.scoring import score, tile_shape
from indexer_kernels.settling import BAND, settle
from indexer_kernels.tiles import BLOCK_N
from indexer_kernels.written import PROGRAMS, gather_shape, load_query, written_logits

GROUPS = (16, 8, 4, 2)  # keys a group, largest first; 32 where the row is very long
LONG_ROW = 1 << 19


@jit
def expand_kernel(
    words, positions, candidates, counts, rows, keys, capacity,
    block_m: tl.constexpr, block_n: tl.constexpr, block: tl.constexpr,
    window: tl.constexpr, causal: tl.constexpr,
):  # fmt: skip
    """Positions of a row's gate bits, without values. Grid (batch * rows).

    counts receives how many bits are set, also those beyond the capacity.
    """
    program = tl.program_id(0).to(tl.int64)
    row = program % rows
    first, last = block_span(
        positions, row, rows, keys, block_m, block_n, window, causal
    )  # fmt: skip
    words += program * tl.cdiv(keys, block_n) * (block_n // 32)
    candidates += program * capacity
    end = last * (block_n // 32)
    found = tl.full([], 0, tl.int32)
    for begin in range(first * (block_n // 32), end, block):
        slot = begin + tl.arange(0, block)
        word = tl.load(words + slot, mask=slot < end, other=0)
        word = word.to(tl.uint32, bitcast=True)
        many = bit_count(word)
        place = found + tl.cumsum(many, 0) - many
        found += tl.sum(many, 0)
        deepest = tl.max(many, 0)
        for _ in range(deepest):
            rest = word & (word - 1)
            bit = bit_count((word ^ rest) - 1)
            inside = (word != 0) & (place < capacity)
            at = (slot // 4) * 128 + (bit >> 1) * 8 + (slot % 4) * 2 + (bit & 1)
            tl.store(candidates + place, at.to(tl.int64), mask=inside)
            place += 1
            word = rest
    tl.store(counts + program, found)


@jit
def rescore_kernel(
    queries, keys, records, counts, rows, batch_stride, key_stride, capacity, scale,
    dim: tl.constexpr, padded: tl.constexpr, levels: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Gives listed positions their written sums. Grid (batch * rows, shares of a row)"""
    line = tl.program_id(0).to(tl.int64)
    query = load_query(queries, line, dim, padded)
    keys += line // rows * batch_stride
    records += line * capacity
    count = tl.minimum(tl.load(counts + line), capacity)
    for begin in range(tl.program_id(1) * block, count, tl.num_programs(1) * block):
        slot = begin + tl.arange(0, block)
        live = slot < count
        at = tl.load(records + slot, mask=live, other=0) & 0x7FFFFFFF
        logit = written_logits(
            query, keys, at, live, key_stride, scale, dim, padded, levels, block
        )  # fmt: skip
        tl.store(records + slot, record(logit, at), mask=live)


@jit
def cut_kernel(
    records, words, halves, counts, bounds, chosen, values, failed, queries, squares,
    rows, capacity, k, shares, relative, absolute, tiny, largest,
    width: tl.constexpr, rest: tl.constexpr, many: tl.constexpr, kth_only: tl.constexpr,
    proven: tl.constexpr,
    dim: tl.constexpr, padded: tl.constexpr, band_block: tl.constexpr, norms: tl.constexpr,
):  # fmt: skip
    """The top-k of candidates with final logits; grid (lines). proven: so is the gate."""
    line = tl.program_id(0).to(tl.int64)
    found = tl.load(counts + line)
    bound = tl.load(bounds + line)
    fits = tl.where(found <= capacity, found, 0)
    to = line if kth_only else line * k
    at = line * capacity
    low, _, _ = settle(
        words + 2 * at, halves + 2 * at, None, capacity, fits, k, float("-inf"), 0.0,
        queries, queries, 0, 1.0, records + at, capacity, chosen + to, values + to,
        "records", 1, width, rest, many, True, kth_only, dim, padded, 1, 1, band_block,
    )  # fmt: skip
    short = found < k
    if not proven:
        query = load_query(queries, line, dim, padded)
        doubled = doubled_error(
            query, squares + line // rows * shares, shares, relative, absolute, tiny, largest,
            norms,
        )  # fmt: skip
        short = short | ((low < bound + doubled) & (found > 0)) | (doubled != doubled)
    # a bound of NaN, for want of one, fails too
    lost = (found > capacity) | (short & (bound != float("-inf")))
    tl.store(failed + line, lost.to(tl.int8))


def proven_bounds(rows: Rows, k: int) -> Tensor:
    """float32 [batch * row]: what a key's matrix-unit logit reaches if the key is in the top-k.

    -inf where fewer than k groups hold a visible key; NaN where no error can be stated.
    """
    bounds = group_bounds(rows, k, group_size(rows.shape[2], k))
    lower_bounds(bounds, rows)
    return bounds


def gate(rows: Rows, bounds: Tensor) -> Tensor:
    """int32 [batch * row, word]: a bit for each key whose matrix-unit logit reaches the bound."""
    batch, count, keys, _ = rows.shape
    shape = (batch * count, -(-keys // BLOCK_N) * (BLOCK_N // 32))
    words = torch.empty(*shape, dtype=torch.int32, device=bounds.device)
    score(rows, "gate", bounds=bounds, words=words)
    return words


def expand(rows: Rows, words: Tensor, records: Tensor, counts: Tensor) -> None:
    """Lists the keys whose bits are set, without their logits."""
    _, count, keys, _ = rows.shape
    lines, room = records.shape
    block, warps = (2048, 16) if few(lines) else (256, 4)
    expand_kernel[(lines,)](
        words, rows.positions, records, counts, count, keys, room,
        block_m=tile_shape(rows).block_m, block_n=BLOCK_N, block=block,
        window=rows.window or 0, causal=rows.positions is not None, num_warps=warps,
    )  # fmt: skip


def rescore(rows: Rows, records: Tensor, counts: Tensor) -> None:
    """Gives listed candidates the logits of their keys."""
    lines, capacity = records.shape
    shape = gather_shape(rows.shape[3])
    shares = max(1, min(-(-capacity // shape["block"]), PROGRAMS // lines))
    rescore_kernel[(lines, shares)](
        rows.queries, rows.keys, records, counts, rows.shape[1], rows.keys.stride(0),
        rows.keys.stride(1), capacity, rows.scale, **shape, num_warps=4, enable_fp_fusion=False,
    )  # fmt: skip


def certified(
    rows: Rows, k: int, chosen: Tensor | None, values: Tensor | None, failed: Tensor,
    *, sampled: bool = False,
) -> None:  # fmt: skip
    """Fills chosen int64 [line, k] and its values float32 [line, k]; or, without chosen, values
    [line], the k-th alone. failed: int8 [line]. Nothing is awaited."""
    batch, count, keys, dim = rows.shape
    lines = batch * count
    bounds = sampled_bounds(rows, k) if sampled else proven_bounds(rows, k)
    squares = key_norms(rows)
    room = capacity(lines, keys, k)
    records = torch.empty(lines, room, dtype=torch.int64, device=bounds.device)
    counts = torch.empty(lines, dtype=torch.int32, device=bounds.device)
    expand(rows, gate(rows, bounds), records, counts)
    rescore(rows, records, counts)
    if chosen is not None and values is None:
        values = torch.empty(lines, k, dtype=torch.float32, device=bounds.device)
    cut_kernel[(lines,)](
        records, records.view(torch.int32), records.view(torch.float32), counts, bounds,
        values if chosen is None else chosen, values, failed, rows.queries, squares,
        count, room, k, squares.shape[1], *error_terms(dim, rows.scale),
        width=resident(2 * k), rest=REST, many=few(lines), kth_only=chosen is None,
        proven=not sampled, dim=dim, padded=power_of_two(dim, 16), band_block=BAND,
        norms=power_of_two(squares.shape[1], 16), num_warps=8,
    )  # fmt: skip


def group_size(keys: int, k: int) -> int:
    """Keys a group such that a row has at least 2k groups, if any size does."""
    if keys >= LONG_ROW and keys >= 64 * k:
        return 32
    return next((group for group in GROUPS if keys >= 2 * k * group), GROUPS[-1])


def capacity(rows: int, keys: int, k: int, workspace: int = WORKSPACE) -> int:
    """Candidates that a row has room for.

    Every strict exceedance of the bound and k ties where half the workspace allows that, else a
    share of it, and never under 4 * k: a row with more is repaired.
    """
    return min(keys, group_size(keys, k) * k, max(4 * k, workspace // (16 * rows)))


def row_bytes(rows: Rows, k: int) -> int:
    """Least scratch bytes of a row."""
    keys = rows.shape[2]
    return max(4 * keys // group_size(keys, k), keys // 8 + 8 * min(keys, 4 * k))
