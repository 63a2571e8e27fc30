"""The k-th largest group maximum of each row: a value that at least k keys reach."""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
from torch import Tensor

from indexer_kernels.backend import jit, power_of_two, tl
from indexer_kernels.bits import unordered
from indexer_kernels.operands import Rows
from indexer_kernels.scoring import score, tile_shape
from indexer_kernels.search import kth_bracket
from indexer_kernels.tiles import BLOCK_N, key_span

RESIDENT = 8192  # values a program keeps in registers while it bisects
REST = 1024  # values that it reads again at once beyond those
FEW_ROWS = 512


@jit
def bound_kernel(
    maxima, positions, bounds, rows, keys, groups, k,
    block_m: tl.constexpr, group: tl.constexpr, block_n: tl.constexpr, block: tl.constexpr,
    window: tl.constexpr, causal: tl.constexpr, many: tl.constexpr, rest: tl.constexpr,
):  # fmt: skip
    """A value that at least k group maxima of the row reach, the k-th or one as good.

    Grid (batch * rows). Groups outside the row block's key span were not written and are skipped.
    Writes -inf where fewer than k groups hold a number.
    """
    program = tl.program_id(0).to(tl.int64)
    row = program % rows
    first, last = block_span(positions, row, rows, keys, block_m, block_n, window, causal)
    count = (last - first) * (block_n // group)
    at = maxima + program * groups + first * (block_n // group)
    low, _, total = kth_bracket(
        at, None, count, count, k, float("-inf"), 0.0, "values", 1, block, rest, many, False
    )  # fmt: skip
    tl.store(bounds + program, tl.where(total < k, float("-inf"), unordered(low)))


@jit
def block_span(
    positions, row, rows, keys,
    block_m: tl.constexpr, block_n: tl.constexpr, window: tl.constexpr, causal: tl.constexpr,
):  # fmt: skip
    """The key span of the row block that this row was scored in."""
    peers = (row // block_m) * block_m + tl.arange(0, block_m)
    seen = peers < rows
    pos = peers
    if causal:
        pos = tl.load(positions + peers, mask=seen, other=0)
    return key_span(pos, seen, keys, window, causal, block_n)


def group_bounds(rows: Rows, k: int, group: int) -> Tensor:
    """float32 [batch * row]: the k-th largest of a row's group maxima, -inf where there are fewer.

    The maxima are of matrix-unit logits. Memory: 4 * key / group bytes a row.
    """
    batch, count, keys, _ = rows.shape
    groups = -(-keys // BLOCK_N) * (BLOCK_N // group)
    device = rows.queries.device
    maxima = torch.empty(batch, count, groups, dtype=torch.float32, device=device)
    score(rows, "maxima", maxima=maxima, group=group)
    return maxima_bounds(maxima, rows, k, group)


def maxima_bounds(maxima: Tensor, rows: Rows, k: int, group: int) -> Tensor:
    """group_bounds of maxima [batch, row, group] that are there."""
    batch, count, keys, _ = rows.shape
    groups = maxima.shape[2]
    bounds = torch.empty(batch * count, dtype=torch.float32, device=maxima.device)
    block = resident(groups)
    bound_kernel[(batch * count,)](
        maxima, rows.positions, bounds, count, keys, groups, k,
        block_m=tile_shape(rows).block_m, group=group, block_n=BLOCK_N,
        block=block, window=rows.window or 0, causal=rows.positions is not None,
        many=few(batch * count), rest=min(REST, block), num_warps=max(4, block // 512),
    )  # fmt: skip
    return bounds


def resident(count: int) -> int:
    """Values that a bisecting program keeps in registers for rows of about `count`."""
    return min(power_of_two(count, 16), RESIDENT)


def few(rows: int) -> bool:
    """Whether so few rows search at once that they wait for reductions, not for arithmetic."""
    return rows <= FEW_ROWS
