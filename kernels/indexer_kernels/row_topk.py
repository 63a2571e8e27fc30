"""Exact top-k of stored scores: what the scoring kernels that must sum over heads end in."""
# mypy: disable-error-code="no-untyped-def"

from __future__ import annotations

import torch
from torch import Tensor

from indexer_kernels import selection
from indexer_kernels.backend import jit, tl, use_triton
from indexer_kernels.exact_topk import Tally, group_size
from indexer_kernels.operands import MAX_K, check_k
from indexer_kernels.selection import Candidates, bound_kernel
from indexer_kernels.tiles import BLOCK_N
from indexer_kernels.topk import HIDDEN, KernelError, topk


@jit
def row_maxima_kernel(
    scores, maxima, nans, stride, keys, groups,
    block: tl.constexpr, group: tl.constexpr,
):  # fmt: skip
    """Maxima of neighbouring groups; grid (rows, blocks). A block that holds NaN sets nans[row]."""
    row = tl.program_id(0).to(tl.int64)
    start = tl.program_id(1) * block
    slot = start + tl.arange(0, block)
    seen = slot < groups
    best = tl.full([block], float("-inf"), tl.float32)
    bad = tl.full([block], 0, tl.int32)
    for offset in tl.static_range(group):
        # group g holds keys g, g + groups, ...: loads stay contiguous and runs are spread out
        col = slot + offset * groups
        value = tl.load(scores + row * stride + col, mask=seen & (col < keys), other=float("-inf"))
        bad = bad | (value != value).to(tl.int32)
        best = tl.maximum(best, value)
    tl.store(maxima + row * groups + slot, best, mask=seen)
    if tl.max(bad, 0) > 0:
        tl.store(nans + row, 1)


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
    Memory: 4 * key / 16 + 8 * min(key, 16 * k) bytes a row beside the scores.
    """
    if scores.ndim != 2 or scores.dtype != torch.float32:
        raise KernelError(f"scores are {scores.dtype} {tuple(scores.shape)}: expected float32 2-D")
    check_k(k, MAX_K)
    if not use_triton(backend, scores):
        return row_topk_reference(scores, k)
    scores = scores if scores.stride(1) == 1 else scores.contiguous()
    found, nans = stored_candidates(scores, k)
    values, positions = selection.cut(found, k, 2 * k)
    if bool(nans.any()):
        raise KernelError("scores hold NaN: no order of keys exists; look for it in the operands")
    failed = found.failed(k).nonzero()[:, 0]
    if tally is not None:
        tally.rows += len(scores)
        tally.repaired += len(failed)
    for lines in failed.split(64):
        picked = scores[lines]
        bounds = torch.full_like(picked[:, 0], HIDDEN)
        again = selection.from_scores(picked, bounds, picked.shape[1])
        values[lines], positions[lines] = selection.cut(again, k, 2 * k)
    return selection.largest_first(values, positions) if ordered else (values, positions)


def row_topk_reference(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """row_topk in plain torch."""
    return topk(scores, k)


def stored_candidates(scores: Tensor, k: int) -> tuple[Candidates, Tensor]:
    """Candidates of each row and int32 [row] flags of rows that hold NaN; nothing is awaited."""
    rows, keys = scores.shape
    device = scores.device
    nans = torch.zeros(rows, dtype=torch.int32, device=device)
    group = group_size(keys, k)
    tiles = -(-keys // BLOCK_N)
    groups = tiles * (BLOCK_N // (group or 1))
    maxima = torch.empty(rows, groups, dtype=torch.float32, device=device)
    block = 512
    row_maxima_kernel[(rows, -(-groups // block))](
        scores, maxima, nans, scores.stride(0), keys, groups,
        block=block, group=group or 1, num_warps=4,
    )  # fmt: skip
    if group is None:
        bounds = torch.full((rows,), HIDDEN, dtype=torch.float32, device=device)
        return selection.from_scores(scores, bounds, keys), nans
    bounds = torch.empty(rows, dtype=torch.float32, device=device)
    bound_kernel[(rows,)](
        maxima, None, bounds, rows, keys, groups, k,
        block_m=16, group=group, block_n=BLOCK_N, block=selection.resident(groups),
        window=0, causal=False, whole=groups <= selection.RESIDENT,
        many=selection.few(rows), num_warps=16,
    )  # fmt: skip
    return selection.from_scores(scores, bounds, min(keys, group * k)), nans
