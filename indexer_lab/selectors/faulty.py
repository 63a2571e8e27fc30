"""The Lightning Indexer with a bug that really shipped, injected into its captured operands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from indexer_kernels.topk import topk
from indexer_lab.errors import InputError
from indexer_lab.selectors import faulty_operands as operands
from indexer_lab.selectors.base import (
    BudgetRanker,
    Cost,
    Ranker,
    ScoreRanker,
    Support,
    index_cost,
    token_indexer,
)
from indexer_lab.selectors.following import Anew, Follower
from indexer_probes.records import IndexerRecord, LayerRecord

NARROW = {"bf16": torch.bfloat16, "fp8": torch.float8_e4m3fn}


@dataclass(frozen=True)
class Faulty:
    """The model's indexer, rescored in float32 with one bug; without it, it is `lightning`.

    bug: rope      interleaved pairs turned in the place of half-split ones, as in DeepSeek-V3.2's
                   first release.
         relu      ReLU left out of the score.
         weights   head weights rounded to `form`.
         zero      every score 0, so that the lowest positions win.
         layer     each layer selects by the indexer of the layer before it, as where layers that
                   share a selection are numbered wrongly; the first one by its own.
         scale     e4m3 keys whose scales are dropped.
         overflow  scores compared as bfloat16, and -1 in the places that ties at the k-th value
                   overflow.
         future    an off-by-one mask that shows each query the next key as well.
         self      an off-by-one mask that hides each query's own key.
    form:     bf16, or fp8 (e4m3, no scale), of bug=weights.
    rope_dim, theta: of a half-split rotary embedding over the first dimensions, for bug=rope on a
              capture that does not keep it.
    """

    bug: Literal["rope", "relu", "weights", "zero", "layer", "scale", "overflow", "future", "self"]
    form: Literal["bf16", "fp8"] = "bf16"
    rope_dim: int | None = None
    theta: float | None = None

    def fit(self, record: LayerRecord) -> Ranker:
        if self.source(record.layer) != record.layer:
            before = _layer_before(record)
            return _ranker("layer", record, token_indexer(before, "faulty"))
        indexer = self._broken(record, token_indexer(record, "faulty"))
        return _ranker(self.bug, record, indexer)

    def cost(self, record: LayerRecord, budget: int) -> Cost:
        """The indexer's own reading of its keys, in the dtype that the capture holds."""
        indexer = token_indexer(record, "faulty")
        return index_cost(indexer, bits=8 * indexer.keys.element_size())

    def source(self, layer: int) -> int:
        """The layer whose indexer this layer selects by."""
        return layer - 1 if self.bug == "layer" and layer else layer

    def follow(self) -> Follower:
        return _OneBehind() if self.bug == "layer" else Anew(self)

    def _broken(self, record: LayerRecord, indexer: IndexerRecord) -> IndexerRecord:
        if self.bug == "rope":
            return operands.interleaved(record, indexer, self.rope_dim, self.theta)
        if self.bug == "relu":
            return operands.without_relu(indexer)
        if self.bug == "weights":
            return operands.coarse_weights(indexer, NARROW[self.form])
        if self.bug == "zero":
            return operands.zeroed(indexer)
        return operands.unscaled_keys(indexer) if self.bug == "scale" else indexer


def _layer_before(record: LayerRecord) -> LayerRecord:
    """Raises InputError for a record that stands alone."""
    if record.layers is None:
        raise InputError(
            f"faulty:bug=layer: layer {record.layer} selects by the layer before it, and that was "
            "not handed over with it"
        )
    return record.other(record.layer - 1)


@dataclass
class _OneBehind:
    """bug=layer, live: the indexer that the layer before just used."""

    last: dict[int, IndexerRecord] = field(default_factory=dict)

    def again(self) -> Follower:
        return _OneBehind()

    def fit(self, record: LayerRecord) -> Ranker:
        own = token_indexer(record, "faulty")
        before = own if record.layer == 0 else self.last.get(record.layer - 1)
        if before is None or before.weights.shape != own.weights.shape:
            raise InputError(
                f"faulty:bug=layer: layer {record.layer - 1} did not select in this forward, so "
                f"layer {record.layer} has nothing to take from it; let all layers select"
            )
        self.last = {record.layer: own}
        return _ranker("layer", record, before)


def _ranker(bug: str, record: LayerRecord, indexer: IndexerRecord) -> Ranker:
    width = 2 * indexer.queries.shape[0]

    def score(rows: slice) -> Tensor:
        return indexer.scores(rows)[None]

    right = ScoreRanker(record, score, 1, width=width)
    return _Misjudging(right, MISJUDGED[bug]) if bug in MISJUDGED else right


Pick = Callable[[ScoreRanker, slice, int], Support]
"""A ranker with right scores, query rows and a budget -> int64 [set, row, budget]."""


class _Misjudging(BudgetRanker):
    """Scores are right, what is picked by them is not."""

    def __init__(self, right: ScoreRanker, pick: Pick):
        super().__init__(right.record, lambda rows, k: pick(right, rows, k), right.width)
        self._right = right

    def scores(self, rows: slice) -> Tensor:
        return self._right.scores(rows)


def _one_place_later(right: ScoreRanker, rows: slice, budget: int) -> Support:
    """The mask of a query one position later."""
    record = right.record
    shown = record.mask.visible(record.positions[rows] + 1, record.length)
    return topk(right.score(rows).masked_fill(~shown, float("-inf")), budget)[1]


def _without_itself(right: ScoreRanker, rows: slice, budget: int) -> Support:
    """The mask of a query that is not its own key."""
    own = right.record.positions[rows][None, :, None]
    return topk(right.scores(rows).scatter(-1, own, float("-inf")), budget)[1]


def _overflowing(right: ScoreRanker, rows: slice, budget: int) -> Support:
    """Ties at the k-th value that are more than the places left for them get none."""
    values, picked = topk(right.scores(rows).bfloat16().float(), budget + 1)
    boundary, beyond = values[..., budget - 1, None], values[..., budget, None]
    lost = (beyond == boundary) & (values[..., :budget] == boundary)
    return picked[..., :budget].masked_fill(lost, -1)


MISJUDGED: dict[str, Pick] = {
    "overflow": _overflowing,
    "future": _one_place_later,
    "self": _without_itself,
}
