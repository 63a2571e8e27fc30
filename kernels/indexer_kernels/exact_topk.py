"""Exact per-head top-k of scaled q.k without storing the scores.

One pass over the tiles stores the keys that reach a gate guessed from a sample; the cut among them
proves the guess (harvest.py). Few rows store their logits and select from them (stored.py).
"""

from __future__ import annotations

import torch
from torch import Tensor

from indexer_kernels.backend import use_triton
from indexer_kernels.deciding import DESIGNS, answer, design_for
from indexer_kernels.operands import (
    WORKSPACE,
    Rows,
    Tally,
    as_rows,
    check_attention,
    check_k,
    reference_logits,
)
from indexer_kernels.row_topk import largest_first
from indexer_kernels.topk import topk
from indexer_kernels.written import logits_at

__all__ = ["Tally", "exact_support", "exact_topk", "exact_topk_reference"]


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

    Exactness: the set is exact for the logits as accumulated in float32, products added as a binary
    tree of neighbours, the lowest position winning a tie. Set and values depend on the operands
    alone, not on the workspace or on other rows. Against float64 only keys within
    2 * dim * 2**-23 * scale * |q| * max|key| of the k-th logit may differ.
    Memory: 12 to 13 * key bytes for each of up to 512 rows in all, or rows of few keys; for more
    rows key / 4 + 8 * room bytes, room being 2 to 4 times the expected candidates (about 3 k for
    k in the thousands); in chunks of rows of about `workspace` bytes and at least 16.
    Operands whose |q| * max|key| overflows float32 are answered, by a repair of 12 * key bytes.
    CUDA graphs: the unordered call can be captured. Nothing is awaited then, so no row is repaired
    and NaN is not refused: a row without its proof holds -inf and -1. On up to 512 rows that is
    only where |q| * max|key| overflows or is NaN.
    """
    check_attention(queries, keys, positions, window)
    check_k(k)
    if not use_triton(backend, queries, keys, positions):
        return exact_topk_reference(
            queries, keys, k, scale=scale, positions=positions, window=window
        )
    rows = as_rows(queries, keys, scale, positions, window)
    values, chosen = rows_topk(rows, k, workspace, tally)
    if ordered:
        values, chosen = largest_first(values.view(-1, k), chosen.view(-1, k))
    shape = (queries.shape[0], queries.shape[1], k)
    return values.view(shape), chosen.view(shape)


def rows_topk(
    rows: Rows, k: int, workspace: int = WORKSPACE, tally: Tally | None = None,
    design: str | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """exact_topk in kernel layout, [batch, row, k], its order left open; design: one of DESIGNS."""
    shape, device = (*rows.shape[:2], k), rows.queries.device
    values = torch.empty(shape, dtype=torch.float32, device=device)
    chosen = torch.empty(shape, dtype=torch.int64, device=device)
    if DESIGNS[design or design_for(rows, k)].valued:
        answer(rows, k, chosen, values, workspace, tally, design)
    else:
        answer(rows, k, chosen, None, workspace, tally, design)
        logits_at(rows, chosen, values)
    return values, chosen


def exact_support(
    queries: Tensor,
    keys: Tensor,
    k: int,
    *,
    scale: float = 1.0,
    positions: Tensor | None = None,
    window: int | None = None,
    backend: str | None = None,
    workspace: int = WORKSPACE,
    tally: Tally | None = None,
) -> Tensor:
    """The positions of `exact_topk` without its values, which spares a gather of k keys a row.

    Arguments, errors, exactness and memory as `exact_topk`.
    returns: int64 [head, query, k] in an order that is left open, -1 in free places (last).
    """
    check_attention(queries, keys, positions, window)
    check_k(k)
    if not use_triton(backend, queries, keys, positions):
        return exact_topk_reference(
            queries, keys, k, scale=scale, positions=positions, window=window
        )[1]
    rows = as_rows(queries, keys, scale, positions, window)
    chosen = torch.empty(*rows.shape[:2], k, dtype=torch.int64, device=queries.device)
    answer(rows, k, chosen, None, workspace, tally)
    return chosen.view(queries.shape[0], queries.shape[1], k)


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
