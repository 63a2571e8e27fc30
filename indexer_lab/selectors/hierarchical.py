"""Blocks first, then single tokens by their exact logits, inside the chosen blocks alone."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Literal

import torch
from torch import Tensor

from indexer_kernels.topk import topk
from indexer_lab.selectors.base import BudgetRanker, Cost, Ranker, Support
from indexer_lab.selectors.blocks import Blocks, bound_asks, bounds, check_size, mean
from indexer_probes.records import LayerRecord


@dataclass(frozen=True)
class Hierarchical:
    """Blocks by a score of their keys, then tokens by exact logits inside the chosen blocks.

    block:   keys a block.
    opens:   blocks are opened, best first, until they show the query `opens * budget` visible keys
             (rounded up), the last one whole; 1 or more. Tokens compete inside the open blocks.
    summary: bounds  Quest's score, sum_i max(q_i * min_i, q_i * max_i).
             mean    q . (mean key).
    Each query head opens its own blocks. Budgets are not nested: a larger one opens more blocks.
    Source: Quest (arXiv 2406.10774) or MoBA (arXiv 2502.13189) for the blocks; the second stage is
    the exact top-k of what is left.
    """

    block: int = 16
    opens: float = 2.0
    summary: Literal["bounds", "mean"] = "bounds"

    def __post_init__(self) -> None:
        check_size("block", self.block)
        if not 1 <= self.opens < float("inf"):
            raise ValueError(f"opens = {self.opens}; expected 1 or more times the budget")

    def fit(self, record: LayerRecord) -> Ranker:
        blocks = self._blocks(record)
        opening = _Opening(self, record, blocks)
        return BudgetRanker(record, opening.rows, blocks.width + 2 * record.heads)

    def cost(self, record: LayerRecord, budget: int) -> Cost:
        """The blocks' summaries, then the keys of the open blocks: at most `block - 1` more than
        `opens * budget` for each query head, and no key of a key head twice; one multiply-add a
        query head, open key and dimension."""
        blocks, dim = self._blocks(record).cost(), record.queries.shape[-1]
        opened = min(record.length, self.needed(budget) + self.block - 1)
        read = min(record.heads * opened, record.keys.heads * record.length)
        return Cost(
            bytes_read=blocks.bytes_read + read * dim * record.queries.element_size(),
            multiply_adds=blocks.multiply_adds + record.heads * opened * dim,
        )

    def needed(self, budget: int) -> int:
        """Visible keys that the open blocks must show."""
        return ceil(self.opens * budget)

    def _blocks(self, record: LayerRecord) -> Blocks:
        if self.summary == "mean":
            return Blocks(record, self.block, record.queries.float(), mean)
        return Blocks(record, self.block, bound_asks(record.queries), bounds)


@dataclass(frozen=True)
class _Opening:
    """Blocks of one record, opened for a budget."""

    settings: Hierarchical
    record: LayerRecord
    blocks: Blocks

    def rows(self, rows: slice, budget: int) -> Support:
        """int64 [head, row, budget]"""
        opened = self._opened(rows, self.settings.needed(budget))
        inside = opened.repeat_interleave(self.blocks.size, dim=-1)[..., : self.record.length]
        return topk(self.record.logits(rows).masked_fill(~inside, float("-inf")), budget)[1]

    def _opened(self, rows: slice, needed: int) -> Tensor:
        """bool [head, row, block]: the best blocks, as many as show `needed` visible keys."""
        visible = self.blocks.visible(rows)
        scores = self.blocks.scores(rows).masked_fill(visible == 0, float("-inf"))
        order = scores.sort(dim=-1, descending=True, stable=True).indices
        shown = visible.expand_as(order).gather(-1, order)
        before = shown.cumsum(-1) - shown
        return torch.zeros_like(order, dtype=torch.bool).scatter_(-1, order, before < needed)
