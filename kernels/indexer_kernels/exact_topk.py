"""Exact per-head top-k of scaled q.k without storing the scores: the certified two-pass design.

Pass 1 keeps the maximum of each small group of keys. The k-th largest group maximum is a proven
lower bound of the k-th logit. Pass 2 scores the same tiles again, which gives the same bits, and
keeps one gate bit a key and the logits that reach the bound. The final cut sees a little over k
candidates a row on well-mixed data and at most group * (k - 1) plus ties on any data.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from indexer_kernels import selection
from indexer_kernels.backend import INTERPRETED, jit, operand, power_of_two, tl, use_triton
from indexer_kernels.operands import (
    WORKSPACE,
    Rows,
    as_rows,
    check_attention,
    check_k,
    reference_logits,
)
from indexer_kernels.selection import Candidates, bound_kernel, compact_masks_kernel
from indexer_kernels.tiles import (
    BLOCK_N,
    gate_words,
    group_maxima,
    load_queries,
    span_within,
    store_in_place,
    tile_logits,
)
from indexer_kernels.topk import HIDDEN, KernelError, topk

GROUPS = (16, 8, 4, 2)  # keys a group, largest first; 32 where the row is very long
LONG_ROW = 1 << 19
KEY_CHUNK = 8192  # least keys a pass of the gate
PROGRAMS = 2  # scoring programs for each multiprocessor


@dataclass
class Tally:
    """How often a bound did not certify a row; exact_topk and kth_logit add to it.

    rows: rows answered. repaired: rows answered again by scoring all their keys into memory.
    """

    rows: int = 0
    repaired: int = 0


@jit
def scoring_kernel(
    queries, keys, positions, bounds, maxima, words, scores,
    rows, count, begin, end, batch_stride, key_stride, scale, splits, row_blocks,
    dim: tl.constexpr, chunk: tl.constexpr, block_m: tl.constexpr, block_n: tl.constexpr,
    group: tl.constexpr, window: tl.constexpr, causal: tl.constexpr, mode: tl.constexpr,
    direct: tl.constexpr,
):  # fmt: skip
    """Scores a row block against a share of key tiles begin to end; grid (row blocks * splits,
    batch). What it writes has room for these tiles alone:

    mode "maxima": maxima [batch, row, group] of each tile in the block's key span.
    mode "gate":   words [batch, row, word] and, where a bit is set, scores [batch, row, tile key].
    mode "all":    scores [batch, row, key], -inf where hidden, for every tile; begin must be 0.
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
    first, last = span_within(pos, row_seen, count, begin, end, window, causal, block_n)
    if mode == "all":
        first, last = begin, end
    share = tl.cdiv(last - first, splits)
    first += split * share
    last = tl.minimum(first + share, last)
    head_chunk = load_queries(queries, row, row_seen, 0, dim, chunk)
    at = batch * rows + row.to(tl.int64)
    if mode == "gate":
        bound = tl.load(bounds + at, mask=row_seen, other=float("inf"))
    tiles = end - begin
    for tile in range(first, last):
        col = tile * block_n + tl.arange(0, block_n)
        logits = tile_logits(
            head_chunk, queries, row, row_seen, pos, keys, col, key_stride, count, scale,
            dim, chunk, window, causal,
        )  # fmt: skip
        if mode == "maxima":
            per_tile: tl.constexpr = block_n // group
            best = group_maxima(logits, block_m, block_n, group)
            slot = (tile - begin) * per_tile + tl.arange(0, per_tile)
            to = maxima + at[:, None] * (tiles * per_tile) + slot[None, :]
            tl.store(to, best, mask=row_seen[:, None])
        elif mode == "gate":
            gate = (logits >= bound[:, None]) & (logits > float("-inf"))
            word_count: tl.constexpr = block_n // 32
            slot = (tile - begin) * word_count + tl.arange(0, word_count)
            to = words + at[:, None] * (tiles * word_count) + slot[None, :]
            tl.store(to, gate_words(gate, block_m, block_n), mask=row_seen[:, None])
            to = scores + at[:, None] * (tiles * block_n) + (col - begin * block_n)[None, :]
            if direct:
                store_in_place(to, logits, gate & row_seen[:, None])
            else:
                tl.store(to, logits, mask=gate & row_seen[:, None])
        else:
            to = scores + at[:, None] * count + col[None, :]
            tl.store(to, logits, mask=row_seen[:, None] & (col < count)[None, :])


def exact_topk(
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
    """The k largest logits of each query head and row, and where they are.

    queries:   bfloat16, float16 or float32 [head, query, dim].
    keys:      the same dtype, [kv_head, key, dim]; heads share key heads in even groups (GQA).
    k:         1 to 8192; may exceed the keys.
    scale:     the logit is float32(scale * (q.k accumulated in float32)).
    positions: integer [query], the last key that each query sees; None shows every key.
    window:    keys that a query sees, itself included; needs positions.
    ordered:   largest first, equal logits by lowest position. False leaves the order open (it is
               the same on every run) and saves a sort.
    backend:   "triton" or "torch"; None takes Triton for CUDA tensors.
    workspace: bytes of scratch that a launch aims at.
    tally:     counts rows and repaired rows.
    returns:   float32 values and int64 positions [head, query, k]; places beyond the visible keys,
               and keys whose logit is -inf, hold -inf and -1 at the end.
    Raises KernelError for shapes, dtypes, devices or k out of bounds, and for a NaN logit.

    Exactness: the set is exact for the logits as accumulated in float32, the lowest position
    winning a tie. Against float64 only keys within 2 * dim * 2**-23 * scale * |q| * max|key| of the
    k-th logit may differ.
    Memory: for each row in flight the larger of 4 * key / 16 and 8 * candidates + 4.125 * key
    chunk bytes, in chunks of rows of about `workspace` bytes and at least 16. Candidates have room
    for 4 * k a row or more (`capacity`), and a key chunk has 8192 keys or more (`key_chunk`).
    """
    check_attention(queries, keys, positions, window)
    check_k(k)
    if not use_triton(backend, queries, keys, positions):
        return exact_topk_reference(
            queries, keys, k, scale=scale, positions=positions, window=window
        )
    refuse_nan(queries, keys, scale, positions, window)
    rows = as_rows(queries, keys, scale, positions, window)
    batch, count = rows.shape[:2]
    values = torch.empty(batch, count, k, dtype=torch.float32, device=queries.device)
    chosen = torch.empty(batch, count, k, dtype=torch.int64, device=queries.device)
    failed = torch.empty(batch, count, dtype=torch.bool, device=queries.device)
    for heads, lines, part in chunks(rows, k, workspace):
        found = candidates(part, k, workspace)
        selection.cut(found, k, 2 * k, values[heads, lines], chosen[heads, lines])
        failed[heads, lines] = found.failed(k).view(part.shape[:2])
    for one, lost in repairs(rows, failed, tally):
        again = every_candidate(rows.picked(one, lost))
        values[one, lost], chosen[one, lost] = selection.cut(again, k, 2 * k)
    if ordered:
        values, chosen = selection.largest_first(values.view(-1, k), chosen.view(-1, k))
    shape = (queries.shape[0], queries.shape[1], k)
    return values.view(shape), chosen.view(shape)


def exact_topk_reference(
    queries: Tensor,
    keys: Tensor,
    k: int,
    *,
    scale: float = 1.0,
    positions: Tensor | None = None,
    window: int | None = None,
) -> tuple[Tensor, Tensor]:
    """exact_topk in plain torch: row-chunked logits, then topk. Memory: 64 MiB of logits."""
    check_attention(queries, keys, positions, window)
    check_k(k)
    parts = [
        topk(logits, k) for _, logits in reference_logits(queries, keys, scale, positions, window)
    ]
    return torch.cat([part[0] for part in parts], 1), torch.cat([part[1] for part in parts], 1)


def candidates(rows: Rows, k: int, workspace: int = WORKSPACE) -> Candidates:
    """Keys that may belong to the top-k of each row, left on the device: nothing is awaited.

    The bound comes from one pass over all keys; the gate goes by chunks of keys, so that a chunk's
    scores are still in the cache when its candidates are gathered.
    """
    batch, count, keys, _ = rows.shape
    group = group_size(keys, k)
    if group is None:
        return every_candidate(rows)
    bounds = certified_bounds(rows, k, group)
    lines = batch * count
    room = capacity(lines, keys, k, workspace)
    made = selection.empty_candidates(lines, room, bounds)
    tiles = -(-keys // BLOCK_N)
    step = key_chunk(lines, keys, room, workspace) // BLOCK_N
    on = {"device": rows.queries.device}
    scores = torch.empty(lines * step * BLOCK_N, dtype=torch.float32, **on)
    words = torch.empty(lines * step * BLOCK_N // 32, dtype=torch.int32, **on)
    block, warps = (2048, 16) if selection.few(lines) else (256, 4)
    for begin in range(0, tiles, step):
        end = min(begin + step, tiles)
        score(rows, "gate", bounds=bounds, words=words, scores=scores, tiles=(begin, end))
        compact_masks_kernel[(lines,)](
            words, scores, rows.positions, made.packed, made.counts, count, keys, begin, end, room,
            block_m=tile_shape(rows).block_m, block_n=BLOCK_N, block=block,
            window=rows.window or 0, causal=rows.positions is not None, num_warps=warps,
        )  # fmt: skip
    return made


def certified_bounds(rows: Rows, k: int, group: int) -> Tensor:
    """float32 [batch * row]: a value that the row's k-th logit is proven to reach."""
    batch, count, keys, _ = rows.shape
    groups = -(-keys // BLOCK_N) * (BLOCK_N // group)
    on = {"dtype": torch.float32, "device": rows.queries.device}
    maxima = torch.empty(batch, count, groups, **on)
    bounds = torch.empty(batch * count, **on)
    score(rows, "maxima", maxima=maxima, group=group)
    bound_kernel[(batch * count,)](
        maxima, rows.positions, bounds, count, keys, groups, k,
        block_m=tile_shape(rows).block_m, group=group, block_n=BLOCK_N,
        block=selection.resident(groups), window=rows.window or 0,
        causal=rows.positions is not None, whole=groups <= selection.RESIDENT,
        many=selection.few(batch * count), num_warps=16,
    )  # fmt: skip
    return bounds


def every_candidate(rows: Rows) -> Candidates:
    """Every visible key as a candidate: for rows with few keys, and to repair others."""
    batch, count, keys, _ = rows.shape
    device = rows.queries.device
    scores = torch.empty(batch, count, keys, dtype=torch.float32, device=device)
    score(rows, "all", scores=scores)
    bounds = torch.full((batch * count,), HIDDEN, dtype=torch.float32, device=device)
    return selection.from_scores(scores.view(-1, keys), bounds, keys)


@dataclass(frozen=True)
class TileShape:
    """How a scoring launch is cut up: rows a tile, features a dot, warps, pipeline stages."""

    block_m: int
    chunk: int
    warps: int
    stages: int


def tile_shape(rows: Rows) -> TileShape:
    """The same for both passes of a problem, which is what makes their bits equal."""
    _, count, _, dim = rows.shape
    block_m = min(power_of_two(count, 16), 128)
    widest = 64 if rows.queries.dtype == torch.float32 or dim > 128 else 128
    chunk = min(power_of_two(dim, 16), widest)
    return TileShape(block_m, chunk, warps=8 if block_m == 128 else 4, stages=3)


def score(
    rows: Rows,
    mode: str,
    *,
    bounds: Tensor | None = None,
    maxima: Tensor | None = None,
    words: Tensor | None = None,
    scores: Tensor | None = None,
    group: int = 16,
    tiles: tuple[int, int] | None = None,
) -> None:
    """One pass over all tiles, or from one to before another; `mode` says what it writes."""
    batch, count, keys, dim = rows.shape
    shape = tile_shape(rows)
    row_blocks = -(-count // shape.block_m)
    begin, end = tiles or (0, -(-keys // BLOCK_N))
    splits = key_splits(row_blocks * batch, end - begin, rows.queries.device)
    scoring_kernel[(row_blocks * splits, batch)](
        rows.queries, rows.keys, rows.positions, bounds, maxima, words, scores,
        count, keys, begin, end, rows.keys.stride(0), rows.keys.stride(1), rows.scale, splits,
        row_blocks, dim=dim, chunk=shape.chunk, block_m=shape.block_m, block_n=BLOCK_N, group=group,
        window=rows.window or 0, causal=rows.positions is not None, mode=mode,
        direct=not INTERPRETED, num_warps=shape.warps, num_stages=shape.stages,
    )  # fmt: skip


def key_splits(row_blocks: int, tiles: int, device: torch.device) -> int:
    """Shares that the keys are cut into, so that every multiprocessor has some programs.

    Few: a program spends as long on starting as on several tiles.
    """
    if device.type != "cuda":
        return min(2, tiles)
    wanted = PROGRAMS * torch.cuda.get_device_properties(device).multi_processor_count
    return max(1, min(tiles, wanted // row_blocks))


def group_size(keys: int, k: int) -> int | None:
    """Keys a group such that a row has at least 2k groups; None where no such size exists."""
    if keys >= LONG_ROW and keys >= 64 * k:
        return 32
    return next((group for group in GROUPS if keys >= 2 * k * group), None)


def capacity(rows: int, keys: int, k: int, workspace: int) -> int:
    """Candidates that a row has room for.

    Every strict exceedance of the bound and k ties where half the workspace allows that, else a
    share of it, and never under 4 * k: a row with more is repaired.
    """
    group = group_size(keys, k) or 1
    share = workspace // (16 * rows)
    return min(keys, group * k, max(4 * k, share))


def key_chunk(rows: int, keys: int, room: int, workspace: int) -> int:
    """Keys whose scores exist at the same time: what the workspace leaves, at least KEY_CHUNK."""
    left = (workspace - 8 * room * rows) // (rows * 4 + rows // 8 + 1)
    return min(-(-keys // BLOCK_N) * BLOCK_N, max(KEY_CHUNK, left // BLOCK_N * BLOCK_N))


def row_bytes(keys: int, k: int) -> int:
    """Least scratch bytes of a row, as the docstring's formula."""
    group = group_size(keys, k)
    if group is None:
        return 12 * keys
    gate = 8 * min(keys, 4 * k) + 4 * min(keys, KEY_CHUNK) + min(keys, KEY_CHUNK) // 8
    return max(4 * keys // group, gate)


def stored_row_bytes(keys: int, k: int) -> int:
    """Bytes of a row whose scores are stored, with what `row_topk` needs beside them."""
    return 4 * keys + 4 * keys // 16 + 8 * min(keys, 16 * k)


def chunks(rows: Rows, k: int, workspace: int) -> Iterator[tuple[slice, slice, Rows]]:
    """Batch and row slices whose scratch stays near `workspace`, with their operands."""
    batch, count, keys, _ = rows.shape
    room = max(16, workspace // row_bytes(keys, k))
    if room >= count:
        step = max(1, room // count)
        for start in range(0, batch, step):
            heads = slice(start, min(start + step, batch))
            yield heads, slice(0, count), rows.part(heads, slice(0, count))
        return
    step = room // 128 * 128 or room // 16 * 16
    for one in range(batch):
        for start in range(0, count, step):
            lines = slice(start, min(start + step, count))
            yield slice(one, one + 1), lines, rows.part(slice(one, one + 1), lines)


def repairs(rows: Rows, failed: Tensor, tally: Tally | None) -> Iterator[tuple[int, Tensor]]:
    """Batches with the rows (int64) that are not certified, a few at a time; counts them.

    failed: bool [batch, row]. This is where the host first waits for the device.
    """
    batch, count, keys, _ = rows.shape
    listed = failed.nonzero()
    if tally is not None:
        tally.rows += batch * count
        tally.repaired += len(listed)
    step = max(16, WORKSPACE // (12 * keys))
    for one in listed[:, 0].unique().tolist():
        yield from ((one, lines) for lines in listed[listed[:, 0] == one, 1].split(step))


def refuse_nan(
    queries: Tensor, keys: Tensor, scale: float, positions: Tensor | None, window: int | None
) -> None:
    """Raises KernelError when a visible logit is NaN.

    Finite operands whose products cannot overflow float32 have no such logit; only where that
    proof fails are the logits themselves looked at, in the reference's chunks.
    """
    largest = torch.stack(
        [torch.stack(torch.aminmax(part)).abs().amax() for part in (queries, keys)]
    )
    reach = float(largest.double().prod()) * queries.shape[-1] * max(abs(scale), 1.0)
    if reach < 3e38:  # NaN compares false
        return
    for _, logits in reference_logits(operand(queries), keys, scale, positions, window):
        if bool(logits.isnan().any()):
            raise KernelError(
                "logits hold NaN: no order of keys exists; look for it in queries or keys"
            )
