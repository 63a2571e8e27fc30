"""Exact, deterministic top-k of a score tensor: the lowest position wins a tie."""

from __future__ import annotations

import torch
from torch import Tensor

from indexer_kernels.topk_cpu import topk_cpu

HIDDEN = float("-inf")


class KernelError(ValueError):
    """Operands that the function cannot answer for: says which, and what was expected."""


def topk(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest scores of each row, largest first, equal scores by lowest position.

    scores:  float [..., key]; -inf hides a key.
    k:       places per row, 1 or more; may exceed the keys.
    returns: values [..., k] in the scores' dtype and int64 positions [..., k]; places beyond the
             keys that are not hidden hold -inf and -1.
    Raises KernelError when k < 1 or a score is NaN.
    Memory beyond the scores: a fixed block on CPU; elsewhere about two [..., key] copies of the
    rows whose order equal scores leave open.
    """
    if k < 1:
        raise KernelError(f"k = {k}: a top-k needs at least one place")
    keys = scores.shape[-1]
    rows = scores.detach().reshape(scores.shape[:-1].numel(), keys)
    if rows.numel() and bool(rows.amax().isnan()):  # a maximum passes NaN on
        raise KernelError(
            "scores hold NaN: no order of keys exists; look for it in queries or keys"
        )
    take = min(k, keys)
    # float64 keeps torch's selection: its bits do not fit into one integer beside a position
    on_cpu = rows.device.type == "cpu" and rows.dtype != torch.float64
    values, positions = topk_cpu(rows, take) if on_cpu else _topk_torch(rows, take)
    positions.masked_fill_(values == HIDDEN, -1)
    if take < k:
        values = torch.nn.functional.pad(values, (0, k - take), value=HIDDEN)
        positions = torch.nn.functional.pad(positions, (0, k - take), value=-1)
    shape = (*scores.shape[:-1], k)
    return values.view(shape), positions.view(shape)


def _topk_torch(rows: Tensor, take: int) -> tuple[Tensor, Tensor]:
    values, positions = rows.topk(take, dim=-1)
    _settle_ties(rows, values, positions)
    return values, positions


def _settle_ties(rows: Tensor, values: Tensor, positions: Tensor) -> None:
    """Rewrites, in place, the rows in which equal values sit in an undefined order."""
    take, keys = values.shape[-1], rows.shape[-1]
    tied = torch.zeros(len(values), dtype=torch.bool, device=rows.device)
    if take > 1:
        equal = (values[:, 1:] == values[:, :-1]) & (values[:, 1:] > HIDDEN)
        tied |= equal.any(-1)
    if 0 < take < keys:  # a key left out may equal the last one taken
        last = values[:, -1:]
        tied |= ((rows == last).sum(-1) > (values == last).sum(-1)) & (last[:, 0] > HIDDEN)
    where = tied.nonzero()[:, 0]
    if len(where):
        ordered, order = rows[where].sort(dim=-1, descending=True, stable=True)
        values[where], positions[where] = ordered[:, :take], order[:, :take]
