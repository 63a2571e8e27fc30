"""Blocks of keys by the product of the query and their mean key."""

from __future__ import annotations

from dataclasses import dataclass

from indexer_lab.selectors.base import Cost, Ranker
from indexer_lab.selectors.blocks import Blocks, check_size, mean
from indexer_probes.records import LayerRecord


@dataclass(frozen=True)
class BlockMean:
    """Blocks of keys by q . (mean of their keys), each query head for itself.

    block: keys a block.
    local: true puts the query's own block first, as MoBA does.
    Blocks come whole, best first; a budget that ends inside a block takes its first visible keys,
    so that every budget is filled. The mean of the query's own block ends at the query.
    Keys of latent attention are averaged as the heads see them, after the up-projection.
    Source: the gate of MoBA (arXiv 2502.13189).
    """

    block: int = 64
    local: bool = False

    def __post_init__(self) -> None:
        check_size("block", self.block)

    def fit(self, record: LayerRecord) -> Ranker:
        return self._blocks(record).ranker()

    def cost(self, record: LayerRecord, budget: int) -> Cost:
        """Every block's mean once a key head; a multiply-add a query head, block and dimension."""
        return self._blocks(record).cost()

    def _blocks(self, record: LayerRecord) -> Blocks:
        return Blocks(record, self.block, record.queries.float(), mean, self.local)
