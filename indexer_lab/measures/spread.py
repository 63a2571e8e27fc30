"""How concentrated the exact attention is: facts of a row, whatever was selected."""

from __future__ import annotations

import torch
from torch import Tensor

from indexer_lab.measures.answer import Answer
from indexer_lab.measures.ground import Block


def entropy(block: Block) -> Tensor:
    """Entropy of p over the visible keys, nats."""
    return entropy_of(block.probs)


def effective_support(block: Block) -> Tensor:
    """e^entropy: how many equally likely keys would have this entropy."""
    return entropy(block).exp()


def keys_90(block: Block) -> Tensor:
    """Keys needed for 90 % of the mass."""
    return _keys_for(block, 0.90)


def keys_95(block: Block) -> Tensor:
    """Keys needed for 95 % of the mass."""
    return _keys_for(block, 0.95)


def keys_99(block: Block) -> Tensor:
    """Keys needed for 99 % of the mass."""
    return _keys_for(block, 0.99)


def boundary_gap(answer: Answer) -> Tensor:
    """The target's budget-th value minus the next: how clear the cut is; NaN without a next."""
    values = answer.paired(answer.ground.top_values(answer.budget))
    last, following = values[..., answer.budget - 1], values[..., answer.budget]
    gap = (last - following).masked_fill(following == float("-inf"), float("nan"))
    return answer.by_head(gap)


def entropy_of(probs: Tensor) -> Tensor:
    """float32 [...]: entropy in nats of probabilities [..., key]."""
    return torch.special.entr(probs).sum(-1)


def keys_needed(descending: Tensor, visible: Tensor, share: float) -> Tensor:
    """float32 [...]: how many of probabilities [..., key], largest first, reach that share.

    visible: keys there are, broadcast to [...]: the answer where rounding leaves the sum a hair
             under the share.
    """
    reached = descending.cumsum(-1) >= share
    short = ~reached.any(-1)
    return torch.where(short, visible, reached.int().argmax(-1) + 1).float()


def _keys_for(block: Block, share: float) -> Tensor:
    return keys_needed(block.descending, block.visible, share)
