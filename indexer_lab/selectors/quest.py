"""Pages of keys by the largest logit that their channel bounds allow."""

from __future__ import annotations

from dataclasses import dataclass

from indexer_lab.selectors.base import Cost, Ranker
from indexer_lab.selectors.blocks import Blocks, bound_asks, bounds, check_size
from indexer_probes.records import LayerRecord


@dataclass(frozen=True)
class Quest:
    """Pages of keys by an upper bound of their logits, from each channel's minimum and maximum.

    score[page] = sum_i max(q_i * min_i, q_i * max_i), each query head for itself.

    page:  keys a page.
    local: true puts the query's own page first.
    Pages come whole, best first; a budget that ends inside a page takes its first visible keys, so
    that every budget is filled. The query's own page is bounded by its keys up to the query.
    Keys of latent attention are bounded as the heads see them, after the up-projection.
    Source: Quest (arXiv 2406.10774), pages of 16.
    """

    page: int = 16
    local: bool = False

    def __post_init__(self) -> None:
        check_size("page", self.page)

    def fit(self, record: LayerRecord) -> Ranker:
        return self._blocks(record).ranker()

    def cost(self, record: LayerRecord, budget: int) -> Cost:
        """Both bounds of every page once a key head; two multiply-adds a query head, page and
        dimension."""
        return self._blocks(record).cost()

    def _blocks(self, record: LayerRecord) -> Blocks:
        return Blocks(record, self.page, bound_asks(record.queries), bounds, self.local)
