"""How concentrated the exact attention is: facts of a row, whatever was selected."""

from __future__ import annotations

from torch import Tensor

from indexer_lab.measures.answer import Answer
from indexer_lab.measures.ground import Block


def entropy(block: Block) -> Tensor:
    """Entropy of p over the visible keys, nats."""
    return block.entropy


def effective_support(block: Block) -> Tensor:
    """e^entropy: how many equally likely keys would have this entropy."""
    return block.entropy.exp()


def keys_90(block: Block) -> Tensor:
    """Keys needed for 90 % of the mass."""
    return block.needed(0.90)


def keys_95(block: Block) -> Tensor:
    """Keys needed for 95 % of the mass."""
    return block.needed(0.95)


def keys_99(block: Block) -> Tensor:
    """Keys needed for 99 % of the mass."""
    return block.needed(0.99)


def boundary_gap(answer: Answer) -> Tensor:
    """The target's budget-th value minus the next: how clear the cut is; NaN without a next."""
    values = answer.paired(answer.ground.top_values(answer.budget))
    last, following = values[..., answer.budget - 1], values[..., answer.budget]
    gap = (last - following).masked_fill(following == float("-inf"), float("nan"))
    return answer.by_head(gap)
