"""The k-th largest logit of each row: with a gather it answers whether a support is exact."""

from __future__ import annotations

import torch
from torch import Tensor

from indexer_kernels.backend import use_triton
from indexer_kernels.deciding import answer
from indexer_kernels.exact_topk import exact_topk_reference
from indexer_kernels.operands import WORKSPACE, Tally, as_rows, check_attention, check_k


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
    rows = as_rows(queries, keys, scale, positions, window)
    values = torch.empty(rows.shape[:2], dtype=torch.float32, device=queries.device)
    answer(rows, k, None, values, workspace, tally)
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
