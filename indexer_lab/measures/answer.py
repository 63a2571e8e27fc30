"""The selector's side of a comparison: one support at one budget, laid on the target."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from indexer_lab.measures.ground import Block, Ground


class Answer:
    """What a selector picked for the rows of a block, beside the exact answer.

    support: int64 [set, row, budget], as the selector gave it.
    scores:  float32 [set, row, key], the selector's own, or None where it has none.

    Query heads, the selector's sets and the target's sets rarely agree in number. `pairs` is the
    finest of the last two; `by_head` repeats a [pair, row] result for the query heads it serves.
    """

    def __init__(self, ground: Ground, support: Tensor, scores: Tensor | None, budget: int):
        self.ground = ground
        self.block: Block = ground.block
        self.budget = budget
        self.given = support
        self.scores = scores
        self.target_sets = ground.target.sets(self.block.record)
        self.pairs = max(support.shape[0], self.target_sets)

    @property
    def places(self) -> Tensor:
        """int64 [row]: min(budget, visible), the denominator of recall"""
        return self.block.visible.clamp(max=self.budget)

    @cached_property
    def repeated(self) -> Tensor:
        """bool [set, row, budget]: a position that an earlier place already holds"""
        ordered, order = self.given.sort(dim=-1, stable=True)
        again = torch.zeros_like(ordered, dtype=torch.bool)
        again[..., 1:] = (ordered[..., 1:] == ordered[..., :-1]) & (ordered[..., 1:] >= 0)
        return torch.zeros_like(again).scatter_(-1, order, again)

    @cached_property
    def valid(self) -> Tensor:
        """bool [set, row, budget]: visible and not repeated: the places that count"""
        return self.block.sees(self.given) & ~self.repeated

    @cached_property
    def safe(self) -> Tensor:
        """int64 [set, row, budget]: the support with 0 where a place does not count"""
        return self.given.masked_fill(~self.valid, 0)

    @cached_property
    def member(self) -> Tensor:
        """bool [set, row, key]: True at the keys that were picked"""
        sets, rows, _ = self.given.shape
        length, device = self.block.record.length, self.given.device
        marks = torch.zeros(sets, rows, length, dtype=torch.uint8, device=device)
        marks.scatter_reduce_(-1, self.safe, self.valid.to(torch.uint8), reduce="amax")
        return marks.bool()

    @cached_property
    def target_values(self) -> Tensor:
        """float32 [pair, row, budget]: the target's value of each counting place, else -inf"""
        values = self.paired(self.ground.values(self.budget))
        picked = values.gather(-1, self.paired(self.safe))
        return picked.masked_fill(~self.paired(self.valid), float("-inf"))

    @cached_property
    def found(self) -> Tensor:
        """int64 [pair, row]: exact keys found; ties at the boundary count up to the places left"""
        top = self.paired(self.ground.top_values(self.budget))[..., : self.budget]
        boundary = top[..., -1:]
        above = (top > boundary).sum(-1)
        left = self.places - above
        tied = (self.target_values == boundary) & (boundary > float("-inf"))
        strict = (self.target_values > boundary).sum(-1)
        return strict + torch.minimum(tied.sum(-1), left)

    @cached_property
    def mass(self) -> Tensor:
        """float32 [head, row]: softmax probability on the places that count"""
        return self.mass_at(self.safe, self.valid)

    def mass_at(self, positions: Tensor, counts: Tensor) -> Tensor:
        """float32 [head, row]: p on positions [set, row, place], without those not counted."""
        kernels = self.block.kernels
        if kernels is not None:
            return kernels.mass(positions.masked_fill(~counts, -1), self.block.rows)
        return self._probs_at(positions, counts).sum(-1)

    def _probs_at(self, positions: Tensor, counts: Tensor) -> Tensor:
        """float32 [head, row, place]: p at positions [set, row, place], 0 where not counted."""
        heads, rows, keys = self.block.probs.shape
        sets = positions.shape[0]
        probs = self.block.probs.view(sets, heads // sets, rows, keys)
        index = positions[:, None].expand(-1, heads // sets, -1, -1)
        picked = probs.gather(-1, index) * counts[:, None]
        return picked.flatten(0, 1)

    def attended(self) -> Tensor | None:
        """float32 [head, row, value_dim]: values weighed by p on the support; None without any"""
        kernels = self.block.kernels
        if kernels is None:
            return self.block.attend(self._kept_probs())
        attended = kernels.attend(self.given.masked_fill(~self.valid, -1), self.block.rows)
        return None if attended is None else attended * self.mass[..., None]

    def _kept_probs(self) -> Tensor:
        """float32 [head, row, key]: p on the support, 0 elsewhere"""
        heads, rows, keys = self.block.probs.shape
        sets = self.member.shape[0]
        probs = self.block.probs.view(sets, heads // sets, rows, keys)
        return (probs * self.member[:, None]).flatten(0, 1)

    def by_head(self, result: Tensor) -> Tensor:
        """[head, row]: a [set or pair, row] result, repeated for the query heads of each."""
        return result.repeat_interleave(self.block.record.heads // result.shape[0], dim=0)

    def paired(self, sets: Tensor) -> Tensor:
        """[pair, row, ...]: selector or target sets lined up, a view where that is possible."""
        times = self.pairs // sets.shape[0]
        return sets[:, None].expand(-1, times, *sets.shape[1:]).flatten(0, 1)
