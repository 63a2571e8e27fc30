"""The pass over all tiles of q.k that keeps group maxima, gate bits or the scores themselves."""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from indexer_kernels.backend import jit, power_of_two, tl
from indexer_kernels.operands import Rows
from indexer_kernels.tiles import (
    BLOCK_N,
    gate_words,
    group_maxima,
    key_span,
    load_queries,
    row_block,
    tile_logits,
)

PROGRAMS = 2  # scoring programs for each multiprocessor


@jit
def scoring_kernel(
    queries, keys, positions, bounds, maxima, words, scores,
    rows, count, batch_stride, key_stride, scale, splits, row_blocks,
    dim: tl.constexpr, chunk: tl.constexpr, block_m: tl.constexpr, block_n: tl.constexpr,
    group: tl.constexpr, window: tl.constexpr, causal: tl.constexpr, mode: tl.constexpr,
):  # fmt: skip
    """Scores a row block against a share of the key tiles; grid (row blocks * splits, batch).

    mode "maxima": maxima [batch, row, group] of each tile in the block's key span.
    mode "gate":   words [batch, row, word] of the same tiles, a bit a key: whether its logit
                   reaches the row's bound. A bound of NaN is reached by none.
    mode "all":    scores [batch, row, key], -inf where hidden, for every tile.
    """
    row, row_seen, pos, split, batch = row_block(positions, rows, row_blocks, block_m, causal)
    queries += batch * rows * dim
    keys += batch * batch_stride
    tiles = tl.cdiv(count, block_n)
    first, last = key_span(pos, row_seen, count, window, causal, block_n)
    if mode == "all":
        first = 0
        last = tiles
    share = tl.cdiv(last - first, splits)
    first += split * share
    last = tl.minimum(first + share, last)
    head_chunk = load_queries(queries, row, row_seen, 0, dim, chunk)
    at = batch * rows + row.to(tl.int64)
    if mode == "gate":
        bound = tl.load(bounds + at, mask=row_seen, other=float("inf"))
    for tile in range(first, last):
        col = tile * block_n + tl.arange(0, block_n)
        logits = tile_logits(
            head_chunk, queries, row, row_seen, pos, keys, col, key_stride, count, scale,
            dim, chunk, window, causal,
        )  # fmt: skip
        if mode == "maxima":
            per_tile: tl.constexpr = block_n // group
            best = group_maxima(logits, block_m, block_n, group)
            slot = tile * per_tile + tl.arange(0, per_tile)
            to = maxima + at[:, None] * (tiles * per_tile) + slot[None, :]
            tl.store(to, best, mask=row_seen[:, None])
        elif mode == "gate":
            gate = (logits >= bound[:, None]) & (logits > float("-inf"))
            word_count: tl.constexpr = block_n // 32
            slot = tile * word_count + tl.arange(0, word_count)
            to = words + at[:, None] * (tiles * word_count) + slot[None, :]
            tl.store(to, gate_words(gate, block_m, block_n), mask=row_seen[:, None])
        else:
            to = scores + at[:, None] * count + col[None, :]
            tl.store(to, logits, mask=row_seen[:, None] & (col < count)[None, :])


@dataclass(frozen=True)
class TileShape:
    """How a scoring launch is cut up: rows a tile, features a dot, warps, pipeline stages."""

    block_m: int
    chunk: int
    warps: int
    stages: int


def tile_shape(rows: Rows) -> TileShape:
    """The same for both passes of a problem: a row block must have one key span in both."""
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
) -> None:
    """One pass over all tiles; `mode` says what it writes."""
    batch, count, keys, dim = rows.shape
    shape = tile_shape(rows)
    row_blocks = -(-count // shape.block_m)
    splits = key_splits(row_blocks * batch, -(-keys // BLOCK_N), rows.queries.device)
    scoring_kernel[(row_blocks * splits, batch)](
        rows.queries, rows.keys, rows.positions, bounds, maxima, words, scores,
        count, keys, rows.keys.stride(0), rows.keys.stride(1), rows.scale, splits,
        row_blocks, dim=dim, chunk=shape.chunk, block_m=shape.block_m, block_n=BLOCK_N, group=group,
        window=rows.window or 0, causal=rows.positions is not None, mode=mode,
        num_warps=shape.warps, num_stages=2 if mode == "maxima" and twice(rows) else shape.stages,
    )  # fmt: skip


def twice(rows: Rows) -> bool:
    """Whether two blocks with two stages each fit a multiprocessor, so that one multiplies while
    the other does the rest."""
    return rows.queries.dtype != torch.float32 and rows.shape[3] <= 128


def key_splits(row_blocks: int, tiles: int, device: torch.device) -> int:
    """Shares that the keys are cut into, so that every multiprocessor has some programs.

    Few: a program spends as long on starting as on several tiles.
    """
    if device.type != "cuda":
        return min(2, tiles)
    wanted = PROGRAMS * torch.cuda.get_device_properties(device).multi_processor_count
    return max(1, min(tiles, wanted // row_blocks))
