"""How well a selector's order agrees with the target's, where the selector has scores."""

from __future__ import annotations

import torch
from torch import Tensor

from indexer_lab.measures.answer import Answer


def rank_correlation(answer: Answer) -> Tensor:
    """Spearman's rho over all visible keys, equal scores sharing their mean rank; NaN without
    scores, with fewer than two visible keys or where either side is constant."""
    if answer.scores is None:
        return torch.full_like(answer.block.on_keys, float("nan"))
    visible = answer.block.visible
    theirs = _centred_ranks(answer.scores, visible)
    exact = _centred_ranks(answer.ground.values(answer.budget), visible)
    theirs, exact = answer.paired(theirs), answer.paired(exact)
    covariance = (theirs * exact).sum(-1)
    spread = (theirs.square().sum(-1) * exact.square().sum(-1)).sqrt()
    return answer.by_head(covariance / spread)


def ndcg(answer: Answer) -> Tensor:
    """Normalised discounted cumulative gain of the support's order at this budget.

    A key's gain is its target value, for `per_head` its softmax probability; places are discounted
    by log2(place + 1). NaN without scores, since a support alone has no order.
    """
    if answer.scores is None:
        return torch.full_like(answer.block.on_keys, float("nan"))
    gains, best = answer.target_values, answer.ground.top_values(answer.budget)
    best = answer.paired(best)[..., : answer.budget]
    if answer.ground.target.name == "per_head":
        total = answer.paired(answer.ground.values(answer.budget)).logsumexp(-1, keepdim=True)
        gains, best = (gains - total).exp(), (best - total).exp()
    gains, best = (part.clamp(min=0.0) for part in (gains, best))  # a place not counted gains 0
    places = torch.arange(2, answer.budget + 2, dtype=torch.float32, device=gains.device)
    discount = places.log2()
    return answer.by_head((gains / discount).sum(-1) / (best / discount).sum(-1))


def _centred_ranks(scores: Tensor, visible: Tensor) -> Tensor:
    """float32 [set, row, key]: mean-shared ranks of the visible keys minus their mean, 0 where
    hidden. visible: int64 [row]."""
    ordered, order = scores.sort(dim=-1, descending=True, stable=True)
    place = torch.arange(scores.shape[-1], dtype=torch.float32, device=scores.device)
    place = place.expand_as(ordered)
    fresh = torch.ones_like(ordered, dtype=torch.bool)
    fresh[..., 1:] = ordered[..., 1:] != ordered[..., :-1]
    run = fresh.cumsum(-1) - 1  # (set, row, key): which run of equal scores
    size = torch.zeros_like(ordered).scatter_add_(-1, run, torch.ones_like(ordered))
    total = torch.zeros_like(ordered).scatter_add_(-1, run, place)
    shared = (total / size.clamp(min=1)).gather(-1, run)
    centred = shared - (visible[:, None] - 1) / 2
    hidden = ordered == float("-inf")
    return torch.zeros_like(ordered).scatter_(-1, order, centred.masked_fill(hidden, 0.0))
