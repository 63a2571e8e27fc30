"""Exact top-k of stored scores: what the scoring kernels that must sum over heads end in."""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
from torch import Tensor

from indexer_kernels.backend import jit, tl, use_triton
from indexer_kernels.operands import MAX_K, Tally, check_k
from indexer_kernels.row_select import NOT_A_NUMBER, group_of, select_stored
from indexer_kernels.topk import KernelError, topk

READ = 8192  # scores that a program takes maxima of
REPAIRED = 64  # rows answered again at a time


@jit
def row_maxima_kernel(
    scores, maxima, stride, keys, groups, block: tl.constexpr, group: tl.constexpr,
):  # fmt: skip
    """Maxima of neighbouring scores, NaN where a group holds one; grid (rows, blocks of groups)."""
    row = tl.program_id(0).to(tl.int64)
    slot = tl.program_id(1) * block + tl.arange(0, block)
    col = slot[:, None] * group + tl.arange(0, group)[None, :]
    value = tl.load(scores + row * stride + col, mask=col < keys, other=float("-inf"))
    best = tl.max(value, 1)
    bad = tl.max((value != value).to(tl.int32), 1)
    tl.store(maxima + row * groups + slot, tl.where(bad > 0, float("nan"), best),
             mask=slot < groups)  # fmt: skip


def row_topk(
    scores: Tensor, k: int, *, ordered: bool = True, backend: str | None = None,
    tally: Tally | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The k largest scores of each row: `topk`, for long rows on a GPU.

    scores:  float32 [row, key], last axis contiguous; -inf hides a key.
    k:       1 to 8192; may exceed the keys.
    ordered: largest first, equal scores by lowest position; False leaves the order open.
    backend: "triton" or "torch"; None takes Triton for CUDA tensors.
    returns: float32 values and int64 positions [row, k]; free places hold -inf and -1.
    Raises KernelError for shape, dtype or k out of bounds, and when a score is NaN.
    Memory: 8 * key / 16 + 8 * min(key, max(4 * k, 1024)) bytes a row beside the scores.
    """
    if scores.ndim != 2 or scores.dtype != torch.float32:
        raise KernelError(f"scores are {scores.dtype} {tuple(scores.shape)}: expected float32 2-D")
    check_k(k, MAX_K)
    if not use_triton(backend, scores):
        return row_topk_reference(scores, k)
    values, positions = stored_topk(scores, k, tally)
    return largest_first(values, positions) if ordered else (values, positions)


def row_topk_reference(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """row_topk in plain torch."""
    return topk(scores, k)


def select_rows(
    scores: Tensor, maxima: Tensor, group: int, k: int, *,
    values: Tensor, chosen: Tensor, tally: Tally | None = None,
) -> None:  # fmt: skip
    """Fills values float32 and chosen int64 [row, k] with row_topk's answer, order left open.

    maxima: float32 [row, group] of each `group` neighbouring scores, NaN where one is NaN. Waits
    for the device once.
    """
    lines, keys = scores.shape
    state = torch.empty(lines, dtype=torch.int8, device=scores.device)
    select_stored(scores, maxima, k, group, candidate_room(keys, k), chosen, values, state)
    unsettled = state.nonzero()[:, 0]
    if len(unsettled) and bool((state == NOT_A_NUMBER).any()):
        raise KernelError("scores hold NaN: no order of keys exists; look for it in the operands")
    if tally is not None:
        tally.rows += lines
        tally.repaired += len(unsettled)
    for some in unsettled.split(REPAIRED):
        again = torch.empty_like(values[some]), torch.empty_like(chosen[some])
        select_stored(
            scores[some], maxima[some], k, group, keys, again[1], again[0], state[: len(some)]
        )
        values[some], chosen[some] = again


def stored_topk(scores: Tensor, k: int, tally: Tally | None = None) -> tuple[Tensor, Tensor]:
    """row_topk's values and positions [row, k], order left open."""
    scores = scores if scores.stride(1) == 1 else scores.contiguous()
    lines, keys = scores.shape
    values = torch.empty(lines, k, dtype=torch.float32, device=scores.device)
    chosen = torch.empty(lines, k, dtype=torch.int64, device=scores.device)
    group = group_of(keys)
    maxima = row_maxima(scores, group)
    select_rows(scores, maxima, group, k, values=values, chosen=chosen, tally=tally)
    return values, chosen


def row_maxima(scores: Tensor, group: int) -> Tensor:
    """float32 [row, group]: the largest of each `group` neighbouring scores, NaN if one is NaN."""
    rows, keys = scores.shape
    groups = -(-keys // group)
    maxima = torch.empty(rows, groups, dtype=torch.float32, device=scores.device)
    block = READ // group
    row_maxima_kernel[(rows, -(-groups // block))](
        scores, maxima, scores.stride(0), keys, groups, block=block, group=group, num_warps=8,
    )  # fmt: skip
    return maxima


def candidate_room(keys: int, k: int) -> int:
    """Candidates a row that may reach the bound before the row is answered again with room for all.

    At most group * (k - 1) of its scores exceed it on any data, some 1.2 k on independent ones.
    """
    return min(keys, max(4 * k, 1024))


def stored_row_bytes(keys: int, k: int) -> int:
    """Bytes of a row of stored scores with what `select_rows` needs beside them."""
    return 4 * keys + 8 * -(-keys // group_of(keys)) + 8 * candidate_room(keys, k)


def largest_first(values: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
    """values float32 and positions [rows, k], largest first, then lowest position, pads last.

    One sort of integers that order as value and position do (bits.py, `packed`): no two are equal.
    A pad, -1, has the lowest value and comes out as it went in.
    """
    bits = (values + 0.0).view(torch.int32)
    packed = bits.where(bits >= 0, bits ^ 0x7FFFFFFF).long() << 32
    packed = (packed | (0x7FFFFFFF - positions)).sort(-1, descending=True).values
    bits = (packed >> 32).int()
    positions = 0x7FFFFFFF - (packed & 0xFFFFFFFF)
    return bits.where(bits >= 0, bits ^ 0x7FFFFFFF).view(torch.float32), positions
