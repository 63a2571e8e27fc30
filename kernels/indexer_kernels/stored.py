"""The set by way of stored logits: for few rows, where a megabyte of them stays in the cache.

Two launches: a pass over the keys writes matrix-unit logits, the maxima of their groups and the
keys' largest norm; one program a row then selects (row_select.py). Nothing is awaited and nothing
can overflow, so both can be captured in a CUDA graph.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
from torch import Tensor

from indexer_kernels.backend import jit, tl
from indexer_kernels.operands import Rows
from indexer_kernels.row_select import group_of, select_stored
from indexer_kernels.scoring import TileShape, key_splits, tile_shape
from indexer_kernels.tiles import BLOCK_N, hide, load_keys, load_queries, row_block


@jit
def storing_kernel(
    queries, keys, positions, scores, maxima, squares,
    rows, count, batch_stride, key_stride, scale, splits, row_blocks,
    dim: tl.constexpr, chunk: tl.constexpr, block_m: tl.constexpr, block_n: tl.constexpr,
    group: tl.constexpr, window: tl.constexpr, causal: tl.constexpr,
):  # fmt: skip
    """scores [batch, row, key] and maxima [batch, row, group], -inf where hidden; squares [batch,
    split], the largest squared norm of a share of the keys, inf where it is NaN.

    Grid (row blocks * splits, batch); those of one row block take the norms.
    """
    row, row_seen, pos, split, batch = row_block(positions, rows, row_blocks, block_m, causal)
    queries += batch * rows * dim
    keys += batch * batch_stride
    tiles = tl.cdiv(count, block_n)
    per_tile: tl.constexpr = block_n // group
    share = tl.cdiv(tiles, splits)
    first = split * share
    line = batch * rows + row.to(tl.int64)
    head_chunk = load_queries(queries, row, row_seen, 0, dim, chunk)
    longest = tl.full([block_n], 0.0, tl.float32)
    for tile in range(first, tl.minimum(first + share, tiles)):
        col = tile * block_n + tl.arange(0, block_n)
        acc = tl.full([block_m, block_n], 0.0, tl.float32)
        square = tl.full([block_n], 0.0, tl.float32)
        if chunk >= dim:
            key = load_keys(keys, col, key_stride, count, 0, dim, chunk)
            acc = tl.dot(head_chunk, key, acc, input_precision="ieee")
            wide = key.to(tl.float32)
            square += tl.sum(wide * wide, 0)
        else:
            for start in range(0, dim, chunk):
                query = load_queries(queries, row, row_seen, start, dim, chunk)
                key = load_keys(keys, col, key_stride, count, start, dim, chunk)
                acc = tl.dot(query, key, acc, input_precision="ieee")
                wide = key.to(tl.float32)
                square += tl.sum(wide * wide, 0)
        longest = tl.maximum(longest, tl.where(square == square, square, float("inf")))
        logits = hide(acc * scale, pos, col, count, window, causal)
        to = scores + line[:, None] * count + col[None, :]
        tl.store(to, logits, mask=row_seen[:, None] & (col < count)[None, :])
        # neighbours, which lie in several threads: what is read again later is whole sectors
        best = tl.max(tl.reshape(logits, [block_m, per_tile, group]), 2)
        slot = tile * per_tile + tl.arange(0, per_tile)
        to = maxima + line[:, None] * (tiles * per_tile) + slot[None, :]
        tl.store(to, best, mask=row_seen[:, None])
    if tl.program_id(0) % row_blocks == 0:
        tl.store(squares + batch * splits + split, tl.max(longest, 0))


def stored(
    rows: Rows, k: int, chosen: Tensor | None, values: Tensor | None, state: Tensor,
    shape: TileShape | None = None,
) -> None:  # fmt: skip
    """Fills chosen int64 [line, k], or without it values float32 [line], the k-th alone; and state
    int8 [line], ANSWERED or UNSAFE (row_select.py)."""
    batch, count, keys, dim = rows.shape
    device = rows.queries.device
    shape, group = shape or tile_shape(rows), group_of(keys)
    row_blocks = -(-count // shape.block_m)
    tiles = -(-keys // BLOCK_N)
    splits = key_splits(row_blocks * batch, tiles, device)
    lines = batch * count
    scores = torch.empty(lines, keys, dtype=torch.float32, device=device)
    maxima = torch.empty(lines, tiles * (BLOCK_N // group), dtype=torch.float32, device=device)
    squares = torch.empty(batch, splits, dtype=torch.float32, device=device)
    storing_kernel[(row_blocks * splits, batch)](
        rows.queries, rows.keys, rows.positions, scores, maxima, squares,
        count, keys, rows.keys.stride(0), rows.keys.stride(1), rows.scale, splits, row_blocks,
        dim=dim, chunk=shape.chunk, block_m=shape.block_m, block_n=BLOCK_N, group=group,
        window=rows.window or 0, causal=rows.positions is not None,
        num_warps=shape.warps, num_stages=shape.stages,
    )  # fmt: skip
    select_stored(scores, maxima, k, group, keys, chosen, values, state, rows, squares)


def row_bytes(rows: Rows, k: int) -> int:
    """Scratch bytes of a row: logits, candidates, group maxima and those that were hit."""
    keys = rows.shape[2]
    return 12 * keys + 8 * -(-keys // group_of(keys))
