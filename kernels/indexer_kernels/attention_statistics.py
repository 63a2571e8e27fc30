"""What a row's attention looks like without storing it: log-sum-exp, entropy, top-1, mass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from indexer_kernels.backend import use_triton
from indexer_kernels.keys_needed import keys_needed
from indexer_kernels.operands import WORKSPACE, as_rows, check_attention, reference_logits
from indexer_kernels.streaming import StatisticsShape, log_sum_exp, streamed
from indexer_kernels.support import check_support, support_mass
from indexer_kernels.topk import HIDDEN, KernelError

__all__ = [
    "SHARES", "AttentionStatistics", "StatisticsShape", "attention_statistics",
    "attention_statistics_reference", "log_sum_exp", "streamed", "support_mass",
]  # fmt: skip

SHARES = (0.90, 0.95, 0.99)


@dataclass(frozen=True)
class AttentionStatistics:
    """Per query head and row, p = softmax of the logits over the visible keys.

    lse:      float32 [head, query], natural log of the sum of exp(logit); -inf where nothing is
              visible.
    entropy:  float32 [head, query], nats; 0 where nothing is visible.
    top1:     int64 [head, query], the lowest position of the largest logit; -1 where all are -inf;
              or None where it was not asked for.
    mass:     float32 [head, query], p summed over the given support, or None without one.
    needed:   int64 [head, query, share], least keys whose p reach each share, or None.
    """

    lse: Tensor
    entropy: Tensor
    top1: Tensor | None
    mass: Tensor | None = None
    needed: Tensor | None = None


def attention_statistics(
    queries: Tensor,
    keys: Tensor,
    *,
    support: Tensor | None = None,
    shares: Sequence[float] | None = None,
    scale: float = 1.0,
    positions: Tensor | None = None,
    window: int | None = None,
    top1: bool = True,
    backend: str | None = None,
    workspace: int = WORKSPACE,
) -> AttentionStatistics:
    """Statistics of softmax(scale * q.k) over the visible keys, sinks left out.

    queries, keys, scale, positions, window, backend: as `exact_topk`.
    support: int64 [set, query, place], distinct positions, -1 pads; set is 1, kv_head or head.
             Places that the query cannot see hold no mass.
    shares:  shares of the mass, each in (0, 1), for `needed`, e.g. SHARES; None leaves it out.
    top1:    whether to look for the largest logit; log-sum-exp and entropy pay nothing for it
             when False.
    returns: AttentionStatistics.
    Raises KernelError for shapes, dtypes or devices that do not fit. A NaN logit, or a +inf one,
    makes its row's statistics meaningless (NaN where the arithmetic passes it on).
    Memory: 16 bytes a row and key split for the pass; `needed` stores float32 logits of as many
    rows as fit `workspace`, at least 16.
    """
    check_attention(queries, keys, positions, window)
    check_support(support, queries, keys)
    check_shares(shares)
    if not use_triton(backend, queries, keys, positions, support):
        return attention_statistics_reference(
            queries, keys, support=support, shares=shares, scale=scale, positions=positions,
            window=window, top1=top1,
        )  # fmt: skip
    rows = as_rows(queries, keys, scale, positions, window)
    lse, entropy, top = streamed(rows, top1=top1)
    assert entropy is not None
    shape = queries.shape[:2]
    mass = None if support is None else support_mass(rows, support, lse, shape[1]).view(shape)
    found = None
    if shares is not None:
        found = keys_needed(rows, lse, shares, workspace).view(*shape, len(shares))
    first = None if top is None else top.view(shape)
    return AttentionStatistics(lse.view(shape), entropy.view(shape), first, mass, found)


def attention_statistics_reference(
    queries: Tensor,
    keys: Tensor,
    *,
    support: Tensor | None = None,
    shares: Sequence[float] | None = None,
    scale: float = 1.0,
    positions: Tensor | None = None,
    window: int | None = None,
    top1: bool = True,
) -> AttentionStatistics:
    """attention_statistics in plain torch, sums in float64. Memory: a few times 64 MiB."""
    check_attention(queries, keys, positions, window)
    check_support(support, queries, keys)
    check_shares(shares)
    parts: list[tuple[Tensor, ...]] = []
    for lines, logits in reference_logits(queries, keys, scale, positions, window):
        p = logits.double().softmax(-1).nan_to_num_(nan=0.0) if _all_numbers(logits) else (
            logits.double().softmax(-1)
        )  # fmt: skip
        entropy = -torch.special.xlogy(p, p).sum(-1)
        top = logits.argmax(-1)
        top = top.masked_fill(logits.amax(-1) == HIDDEN, -1)
        none = torch.empty(0)
        parts.append((
            logits.double().logsumexp(-1).float(), entropy.float(), top,
            none if support is None else _support_mass(p, support[:, lines]),
            none if shares is None else _needed(p, shares),
        ))  # fmt: skip
    lse, entropy, top = (torch.cat([part[i] for part in parts], 1) for i in range(3))
    mass = None if support is None else torch.cat([part[3] for part in parts], 1)
    needed = None if shares is None else torch.cat([part[4] for part in parts], 1)
    return AttentionStatistics(lse, entropy, top if top1 else None, mass, needed)


def _all_numbers(logits: Tensor) -> bool:
    return not bool(logits.isnan().any())


def _support_mass(p: Tensor, support: Tensor) -> Tensor:
    heads = p.shape[0]
    shared = support.repeat_interleave(heads // support.shape[0], 0)
    inside = (shared >= 0) & (shared < p.shape[-1])
    return (p.gather(-1, shared.where(inside, 0)) * inside).sum(-1).float()


def _needed(p: Tensor, shares: Sequence[float]) -> Tensor:
    summed = p.sort(dim=-1, descending=True).values.cumsum(-1)
    wanted = torch.tensor(shares, dtype=torch.float32, device=p.device).double()
    short = (summed[..., None, :] < wanted[:, None]).sum(-1)
    return torch.minimum(short + 1, (p > 0).sum(-1, keepdim=True))


def check_shares(shares: Sequence[float] | None) -> None:
    """Raises KernelError unless each share lies inside (0, 1)."""
    for share in shares or ():
        if not 0.0 < share < 1.0:
            raise KernelError(f"share = {share}: expected a share of the mass inside (0, 1)")
