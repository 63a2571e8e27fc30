"""The fewest keys that hold a share of the attention, found without sorting."""

from __future__ import annotations

import torch
from torch import Tensor


def nucleus(weights: Tensor, share: float, rounds: int = 10) -> Tensor:
    """bool [..., key]: the keys of weight theta or more, theta as large as their mass allows.

    weights: float32 [..., key], not below 0; -inf hides a key.
    share:   of the whole mass that must stay, 0..1.
    rounds:  of bisection between 0 and the largest weight. The mass kept is never under the share;
             what is kept beyond it lies within max(weights) / 2^rounds of the threshold.
    Source: SpecAttn (arXiv 2510.27641), 10 rounds.
    """
    masses = weights.clamp(min=0)
    wanted = share * masses.sum(-1, keepdim=True)
    low = torch.zeros_like(wanted)
    high = masses.amax(-1, keepdim=True)
    for _ in range(rounds):
        middle = (low + high) / 2
        kept = masses.masked_fill(masses < middle, 0).sum(-1, keepdim=True)
        enough = kept >= wanted
        low = torch.where(enough, middle, low)
        high = torch.where(enough, high, middle)
    return (masses >= low) & (weights > float("-inf"))
