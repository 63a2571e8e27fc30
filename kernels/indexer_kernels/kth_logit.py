"""The k-th largest logit of each row: with a gather it answers whether a support is exact."""

from __future__ import annotations

import torch
from torch import Tensor

from indexer_kernels import selection
from indexer_kernels.backend import use_triton
from indexer_kernels.exact_topk import (
    Tally,
    candidates,
    chunks,
    every_candidate,
    exact_topk_reference,
    refuse_nan,
    repairs,
)
from indexer_kernels.operands import WORKSPACE, as_rows, check_attention, check_k


def kth_logit(
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
    """The k-th largest logit of each query head and row, duplicates counted.

    Arguments, errors, exactness and memory as `exact_topk`, of which this is the last value.
    returns: float32 [head, query]; -inf where fewer than k keys are visible.
    """
    check_attention(queries, keys, positions, window)
    check_k(k)
    if not use_triton(backend, queries, keys, positions):
        return kth_logit_reference(
            queries, keys, k, scale=scale, positions=positions, window=window
        )
    refuse_nan(queries, keys, scale, positions, window)
    rows = as_rows(queries, keys, scale, positions, window)
    values = torch.empty(rows.shape[:2], dtype=torch.float32, device=queries.device)
    failed = torch.empty(rows.shape[:2], dtype=torch.bool, device=queries.device)
    for heads, lines, part in chunks(rows, k, workspace):
        found = candidates(part, k, workspace)
        selection.cut_value(found, k, 2 * k, values[heads, lines])
        failed[heads, lines] = found.failed(k).view(part.shape[:2])
    for one, lost in repairs(rows, failed, tally):
        values[one, lost] = selection.cut_value(every_candidate(rows.picked(one, lost)), k, 2 * k)
    return values.view(queries.shape[:2])


def kth_logit_reference(
    queries: Tensor,
    keys: Tensor,
    k: int,
    *,
    scale: float = 1.0,
    positions: Tensor | None = None,
    window: int | None = None,
) -> Tensor:
    """kth_logit in plain torch, as the last value of `exact_topk_reference`."""
    values, _ = exact_topk_reference(
        queries, keys, k, scale=scale, positions=positions, window=window
    )
    return values[..., -1]
