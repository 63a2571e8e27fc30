"""Device code that every scoring kernel shares: one tile of logits, its groups and its bits.

A tile is [block_m rows, block_n keys] of float32 accumulators. On tensor cores a thread holds two
neighbouring columns of every eight, so with the key axis split as [.., pairs, 4, 2] both the pairs
axis and the last one lie inside a thread: reducing over them costs no exchange between threads.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

from indexer_kernels.backend import jit, tl

BLOCK_N = 128  # keys a tile; a word of gate bits needs 128


@jit
def row_block(positions, rows, row_blocks, block_m: tl.constexpr, causal: tl.constexpr):
    """What a program of grid (row blocks * splits, batch) works on: its rows [block_m], which of
    them there are, the last key each sees, its split and its batch.

    Later rows of a causal problem see more keys, so they start first and short ones fill the end.
    """
    place = tl.program_id(0) % row_blocks
    block = row_blocks - 1 - place if causal else place
    row = block * block_m + tl.arange(0, block_m)
    row_seen = row < rows
    pos = row
    if causal:
        pos = tl.load(positions + row, mask=row_seen, other=0)
    return row, row_seen, pos, tl.program_id(0) // row_blocks, tl.program_id(1).to(tl.int64)


@jit
def whole_until(
    pos, row_seen, keys, first, last,
    window: tl.constexpr, causal: tl.constexpr, block_n: tl.constexpr,
):  # fmt: skip
    """One past the last tile of a span up to which every tile shows every key to every row."""
    middle = keys // block_n
    if causal:
        reach = tl.min(tl.where(row_seen, pos, keys), 0) + 1
        middle = tl.minimum(tl.maximum(reach, 0) // block_n, middle)
    middle = tl.maximum(tl.minimum(middle, last), first)
    if window > 0:
        middle = first
    return middle


@jit
def key_span(
    pos, row_seen, keys, window: tl.constexpr, causal: tl.constexpr, block_n: tl.constexpr
):
    """First and one past the last tile that holds a key visible to any of these rows."""
    first = 0
    last = tl.cdiv(keys, block_n)
    if causal:
        reach = tl.max(tl.where(row_seen, pos, -1), 0) + 1
        last = tl.cdiv(tl.minimum(tl.maximum(reach, 0), keys), block_n)
        if window > 0:
            start = tl.min(tl.where(row_seen, pos, keys), 0) - window + 1
            first = tl.minimum(tl.maximum(start, 0) // block_n, last)
    return first, last


@jit
def load_queries(queries, row, row_seen, start, dim, chunk: tl.constexpr):
    """[block_m, chunk] of the queries from feature `start`; zeros outside."""
    feature = start + tl.arange(0, chunk)
    seen = row_seen[:, None] & (feature < dim)[None, :]
    return tl.load(queries + row[:, None] * dim + feature[None, :], mask=seen, other=0.0)


@jit
def load_keys(keys, col, key_stride, count, start, dim, chunk: tl.constexpr):
    """[chunk, block_n] of the keys, transposed; zeros outside."""
    feature = start + tl.arange(0, chunk)
    seen = (feature < dim)[:, None] & (col < count)[None, :]
    at = keys + col[None, :].to(tl.int64) * key_stride + feature[:, None]
    return tl.load(at, mask=seen, other=0.0)


@jit
def tile_logits(
    head_chunk, queries, row, row_seen, pos, keys, col, key_stride, count, scale,
    dim: tl.constexpr, chunk: tl.constexpr, window: tl.constexpr, causal: tl.constexpr,
):  # fmt: skip
    """[block_m, block_n] float32 logits, -inf where hidden.

    Every kernel calls this one, so that two passes over the same operands with the same tile shape
    give the same bits. head_chunk holds the queries' first `chunk` features, often all of them.
    """
    acc = products(
        head_chunk, head_chunk, queries, row, row_seen, keys, col, key_stride, count, dim, chunk, 0
    )
    return hide(acc * scale, pos, col, count, window, causal)


@jit
def products(
    head_chunk, tail_chunk, queries, row, row_seen, keys, col, key_stride, count,
    dim: tl.constexpr, chunk: tl.constexpr, rest: tl.constexpr,
):  # fmt: skip
    """[block_m, block_n] float32 q.k, neither scaled nor masked; keys beyond `count` count as 0.

    head_chunk and tail_chunk hold the queries' first `chunk` and next `rest` features, so that a
    width such as 192 stays resident as 128 + 64 rather than padded to 256. Wider queries are read
    again in chunks.
    """
    if chunk + rest >= dim:
        acc = tl.dot(
            head_chunk, load_keys(keys, col, key_stride, count, 0, dim, chunk),
            input_precision="ieee",
        )  # fmt: skip
        if rest > 0:
            acc = tl.dot(
                tail_chunk, load_keys(keys, col, key_stride, count, chunk, dim, rest), acc,
                input_precision="ieee",
            )  # fmt: skip
    else:
        # a real loop, not an unrolled one: its few stages of both operands fit shared memory
        acc = tl.full([head_chunk.shape[0], col.shape[0]], 0.0, tl.float32)
        for start in range(0, dim, chunk):
            acc = tl.dot(
                load_queries(queries, row, row_seen, start, dim, chunk),
                load_keys(keys, col, key_stride, count, start, dim, chunk),
                acc,
                input_precision="ieee",
            )
    return acc


@jit
def hide(logits, pos, col, count, window: tl.constexpr, causal: tl.constexpr):
    """The logits with -inf beyond the keys, after the row's position and before its window."""
    seen = (col < count)[None, :]
    if causal:
        distance = pos[:, None] - col[None, :]
        seen = seen & (distance >= 0)
        if window > 0:
            seen = seen & (distance < window)
    return tl.where(seen, logits, float("-inf"))


@jit
def group_maxima(tile, block_m: tl.constexpr, block_n: tl.constexpr, group: tl.constexpr):
    """[block_m, block_n / group]: the maximum of each group, NaN left out unless it fills one."""
    split = tl.reshape(tile, [block_m, block_n // (4 * group), group // 2, 4, 2])
    return tl.reshape(tl.max(tl.max(split, 4), 2), [block_m, block_n // group])


@jit
def gate_words(gate, block_m: tl.constexpr, block_n: tl.constexpr):
    """[block_m, block_n / 32] int32: bit 2j + i of word 4b + t is key 128b + 8j + 2t + i."""
    split = tl.reshape(gate.to(tl.int32), [block_m, block_n // 128, 16, 4, 2])
    j = tl.arange(0, 16)[None, None, :, None, None]
    i = tl.arange(0, 2)[None, None, None, None, :]
    words = tl.sum(tl.sum(split << (2 * j + i), 4), 2)
    return tl.reshape(words, [block_m, block_n // 32])
