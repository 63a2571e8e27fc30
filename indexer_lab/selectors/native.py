"""What the model itself picked while it was captured."""

from __future__ import annotations

from dataclasses import dataclass

from indexer_lab.selectors.base import Cost, NativeRanker, Ranker, index_cost, token_indexer
from indexer_probes.records import LayerRecord


@dataclass(frozen=True)
class Native:
    """The selection that the model itself made, as its capture stored it."""

    def fit(self, record: LayerRecord) -> Ranker:
        return NativeRanker(token_indexer(record, "native").native)

    def cost(self, record: LayerRecord, budget: int) -> Cost:
        """The indexer's own reading of its keys, in the dtype that the capture holds."""
        indexer = token_indexer(record, "native")
        return index_cost(indexer, bits=8 * indexer.keys.element_size())
