"""How far a logit from the matrix unit may lie from the written sum, and whether any may be NaN.

Let m be a key's logit from the matrix unit and r its written sum, and |m - r| <= e for all visible
keys of a row. Let M be the k-th largest m. k keys have m >= M, hence r >= M - e, so the k-th
largest r, R, is at least M - e. At most k - 1 keys have m > M, and a key with r > M + e has one, so
R is at most M + e. Hence a key with m > M + 2e has r > R and belongs to the top-k, one with
m < M - 2e has r < R and does not, and only the keys between, the band, need their written sum.

e: adding `dim` products one after another loses at most dim * 2**-23 of sum |q_i * k_i|, cut or
rounded, the matrix unit's cut of blocks of 16 one part in 16 more; the tree loses
(log2(dim) + 1) * 2**-24, the scale 2**-24 each. And sum |q_i * k_i| <= |q| * |k|. So
e = 2 * (dim + 4) * 2**-23 * |scale| * |q| * max|k| leaves more than what rounding the ends of the
band takes; numbers that underflow add the absolute part.

Where |q| * max|k| stays below float32's end no sum of finite operands overflows, so no logit is
NaN: the same numbers prove that. Where it does not, e is NaN, and the row is answered another way.
"""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
from torch import Tensor

from indexer_kernels.backend import jit, power_of_two, tl
from indexer_kernels.operands import Rows
from indexer_kernels.written import GATHERED, load_query

SHARES = 1024  # most shares of the keys whose norms are taken side by side


@jit
def key_norms_kernel(
    keys, squares, count, batch_stride, key_stride,
    dim: tl.constexpr, padded: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """squares [batch, share]: the largest sum of squares of a share of keys; NaN counts as inf.

    Grid (shares, batch).
    """
    feature = tl.arange(0, padded)
    keys += tl.program_id(1).to(tl.int64) * batch_stride
    most = tl.full([block], 0.0, tl.float32)
    for begin in range(tl.program_id(0) * block, count, tl.num_programs(0) * block):
        at = begin + tl.arange(0, block)
        key = tl.load(
            keys + at[:, None].to(tl.int64) * key_stride + feature[None, :],
            mask=(at < count)[:, None] & (feature < dim)[None, :], other=0.0,
        ).to(tl.float32)  # fmt: skip
        total = tl.sum(key * key, 1)
        most = tl.maximum(most, tl.where(total == total, total, float("inf")))
    tl.store(squares + tl.program_id(1) * tl.num_programs(0) + tl.program_id(0), tl.max(most, 0))


@jit
def doubled_error(query, squares, shares, relative, absolute, tiny, largest, block: tl.constexpr):
    """2e of a row whose float32 query [padded] is given, NaN where no error can be stated.

    squares: its batch's [share]; the constants are those of `error_terms`.
    """
    share = tl.arange(0, block)
    longest = tl.max(tl.load(squares + share, mask=share < shares, other=0.0), 0)
    # rounded up: float32 sums of squares, and squares that underflow
    own = tl.sqrt(tl.sum(query * query, 0)) * 1.001 + tiny
    reach = own * (tl.sqrt(longest) * 1.001 + tiny)
    doubled = 2.0 * (reach * relative + absolute)
    return tl.where(reach * largest < 1e38, doubled, float("nan"))  # false for NaN too


@jit
def lower_bounds_kernel(
    queries, squares, bounds, rows, shares, relative, absolute, tiny, largest,
    dim: tl.constexpr, padded: tl.constexpr, block: tl.constexpr,
):  # fmt: skip
    """Lowers bounds [line] of matrix-unit logits by 2e, to NaN where there is no e. Grid (lines)"""
    line = tl.program_id(0).to(tl.int64)
    query = load_query(queries, line, dim, padded)
    doubled = doubled_error(
        query, squares + line // rows * shares, shares, relative, absolute, tiny, largest, block
    )  # fmt: skip
    tl.store(bounds + line, tl.load(bounds + line) - doubled)


def error_terms(dim: int, scale: float) -> tuple[float, float, float, float]:
    """relative, absolute, tiny, largest: what `doubled_error` needs of an operand's width."""
    largest = max(1.0, abs(scale))
    return (
        2 * (dim + 4) * 2.0**-23 * abs(scale),
        dim * 2.0**-120 * largest,
        dim**0.5 * 2.0**-62,
        largest,
    )


def key_norms(rows: Rows) -> Tensor:
    """float32 [batch, share]: largest squared norms of shares of the keys."""
    batch, _, keys, dim = rows.shape
    padded = power_of_two(dim, 16)
    block = max(1, GATHERED // padded)
    shares = min(SHARES, -(-keys // block))
    squares = torch.empty(batch, shares, dtype=torch.float32, device=rows.keys.device)
    key_norms_kernel[(shares, batch)](
        rows.keys, squares, keys, rows.keys.stride(0), rows.keys.stride(1),
        dim=dim, padded=padded, block=block, num_warps=4,
    )  # fmt: skip
    return squares


def lower_bounds(bounds: Tensor, rows: Rows) -> None:
    """Lowers bounds [batch * row] that k matrix-unit logits reach, in place, to a gate that every
    key of the top-k passes: R >= bound - e, so m >= bound - 2e."""
    batch, count, _, dim = rows.shape
    squares = key_norms(rows)
    lower_bounds_kernel[(batch * count,)](
        rows.queries, squares, bounds, count, squares.shape[1],
        *error_terms(dim, rows.scale), dim=dim, padded=power_of_two(dim, 16),
        block=power_of_two(squares.shape[1], 16), num_warps=4,
    )  # fmt: skip
