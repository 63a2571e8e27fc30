"""What the missed keys were worth: probability left out and the change of the attention output."""

from __future__ import annotations

import torch
from torch import Tensor

from indexer_lab.measures.answer import Answer
from indexer_lab.measures.ground import Block


def mass(answer: Answer) -> Tensor:
    """Softmax probability on the support."""
    return answer.mass


def mass_ratio(answer: Answer) -> Tensor:
    """Mass over the mass of the exact support at the same budget."""
    exact = answer.ground.support(answer.budget)
    return answer.mass / answer.mass_at(exact.clamp(min=0), exact >= 0)


def kl(answer: Answer) -> Tensor:
    """KL(p_S || p) = -log(mass), p_S being p renormalised on the support; nats."""
    return -answer.mass.clamp(max=1.0).log()


def output_error(answer: Answer) -> Tensor:
    """|o_S - o| / |o| in the 2-norm, o_S from p renormalised on the support; NaN without values.

    Attention sinks stay in both softmaxes: the share they take from the keys grows when keys leave.
    """
    block = answer.block
    exact, kept = block.output, answer.attended()
    if exact is None or kept is None:
        return torch.full_like(block.on_keys, float("nan"))
    weight = block.on_keys * answer.mass
    total = weight + (1 - block.on_keys)  # what is left of the softmax's denominator
    sparse = kept * (block.on_keys / total)[..., None]
    sparse = sparse.masked_fill((weight <= 0)[..., None], 0.0)  # a softmax of nothing gives nothing
    return (sparse - exact).norm(dim=-1) / exact.norm(dim=-1)


def output_bound(answer: Answer) -> Tensor:
    """2 (1 - mass) max|v| / |o|: no set of this mass can err by more; NaN without values."""
    block = answer.block
    exact, values = block.output, block.record.float_values
    if exact is None or values is None:
        return torch.full_like(block.on_keys, float("nan"))
    largest = _largest_norm(block).repeat_interleave(block.record.group, dim=0)
    missed = (1 - answer.mass).clamp(min=0)
    return 2 * missed * largest / exact.norm(dim=-1)


def _largest_norm(block: Block) -> Tensor:
    """float32 [kv_head, row]: the largest |v| among the keys up to each row's position."""
    values = block.record.float_values
    assert values is not None
    running = values.norm(dim=-1).cummax(dim=-1).values  # (kv_head, key)
    return running[:, block.positions]
