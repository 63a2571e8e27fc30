"""What the model itself picked while it was captured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from indexer_lab.selectors.base import Cost, NativeRanker, Ranker, index_cost, need_indexer
from indexer_lab.selectors.expanded import Expanded
from indexer_lab.unit_level import has_units
from indexer_probes.records import LayerRecord


@dataclass(frozen=True)
class Native:
    """The selection that the model itself made, as its capture stored it.

    Where it selects units, their tokens; where a layer reuses another one's selection, that one.
    """

    ranks_units: ClassVar[bool] = True

    def fit(self, record: LayerRecord) -> Ranker:
        native = need_indexer(record, "native").native
        ranker = NativeRanker(native)
        return Expanded(ranker, record, native.shape[-1]) if has_units(record) else ranker

    def cost(self, record: LayerRecord, budget: int) -> Cost:
        """The indexer's own reading of its keys, in the dtype that the capture holds."""
        indexer = need_indexer(record, "native")
        return index_cost(indexer, bits=8 * indexer.keys.element_size())
