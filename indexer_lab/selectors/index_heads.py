"""The model's own indexer with a few of its heads."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor

from indexer_lab.backend import Backend
from indexer_lab.errors import InputError
from indexer_lab.selectors.base import Cost, Ranker, need_indexer
from indexer_lab.selectors.channels import check_count, check_most, largest
from indexer_lab.selectors.following import CalibratedFollower
from indexer_lab.selectors.lightning import Lightning, Precision
from indexer_probes.records import IndexerRecord, LayerRecord


@dataclass(frozen=True)
class IndexHeads:
    """The Lightning Indexer's score summed over `heads` of its heads.

    heads: how many, at most those that the indexer has.
    by:    query   anew for each query: the largest |w_j| * |q_j|, which bounds what head j can add
                   to or take from the score of a key of unit length.
           layer   one choice a layer: the largest mean of that over the record's queries; in a
                   live run, that of the first query that selects, kept.
           random  one draw a layer.
    seed:  of the draw.
    precision, backend: of the scores, as `lightning` has them; heads are chosen before rounding.
    """

    ranks_units: ClassVar[bool] = True

    heads: int = 8
    by: Literal["query", "layer", "random"] = "query"
    seed: int = 0
    precision: Precision = "native"
    backend: Backend = "auto"

    def __post_init__(self) -> None:
        check_count("heads", self.heads)

    def fit(self, record: LayerRecord) -> Ranker:
        return self.fitted(record, self.calibrate(record))

    def follow(self) -> CalibratedFollower[Tensor | None]:
        """Along a running sequence: what is chosen once a layer is chosen at its first query."""
        return CalibratedFollower(self)

    def calibrate(self, record: LayerRecord) -> Tensor | None:
        """bool [1, index_head]: the layer's heads; None where each query chooses."""
        if self.by == "query":
            return None
        indexer = self._indexer(record)
        size = _reach(indexer) if self.by == "layer" else self._lots(record, indexer)
        return largest(record, size.mean(0, keepdim=True), self.heads)

    def fitted(self, record: LayerRecord, calibrated: Tensor | None) -> Ranker:
        indexer = self._indexer(record)
        kept = calibrated
        if kept is None:
            kept = largest(record, _reach(indexer), self.heads)
        weights = indexer.weights.float() * kept  # (query, index_head): the others weigh nothing
        subset = replace(record, indexer=replace(indexer, weights=weights))
        return Lightning(self.precision, backend=self.backend).fit(subset)

    def cost(self, record: LayerRecord, budget: int) -> Cost:
        """That of `lightning` with so many heads; its keys are read whole, as heads share them."""
        indexer = self._indexer(record)
        few = replace(indexer, queries=indexer.queries[: self.heads])
        return Lightning(self.precision).cost(replace(record, indexer=few), budget)

    def _indexer(self, record: LayerRecord) -> IndexerRecord:
        indexer = need_indexer(record, "index_heads")
        if indexer.sets > 1:
            raise InputError(
                f"selector 'index_heads': each of the {indexer.sets} index heads of layer "
                f"{record.layer} selects for itself, so none can be left out"
            )
        check_most(record, "index_heads", "heads", self.heads, indexer.queries.shape[0])
        return indexer

    def _lots(self, record: LayerRecord, indexer: IndexerRecord) -> Tensor:
        """float32 [1, index_head]: a lot a head, the same for every record of a layer."""
        draw = torch.Generator().manual_seed(self.seed * 100_003 + record.layer)
        return torch.rand(1, len(indexer.queries), generator=draw).to(indexer.queries.device)


def _reach(indexer: IndexerRecord) -> Tensor:
    """float32 [query, index_head]: |w_j| * |q_j|"""
    return indexer.weights.float().abs() * indexer.queries.float().norm(dim=-1).mT
