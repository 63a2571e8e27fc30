"""What an earlier layer picked, taken over by later ones."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor

from indexer_lab.errors import InputError
from indexer_lab.selectors.base import Cost, Ranker, Selector, Support
from indexer_lab.selectors.exact import Exact
from indexer_lab.selectors.following import Follower, follower
from indexer_lab.selectors.lightning import Lightning
from indexer_lab.unit_level import UnitRecord, unit_record
from indexer_probes.records import LayerRecord


@dataclass(frozen=True)
class Reuse:
    """The selection that an earlier layer of the same sample made, by the same query positions.

    layer:  every later layer takes this layer's selection; it and those before select themselves.
    every:  layers 0, every, 2 * every ... select; each other layer takes the last one's selection.
    of:     what selects: exact, the exact top-k of `target`, or lightning, the model's indexer.
    target: of exact, see `ls targets`.
    Set one of layer and every. A query head takes the set of the head of the same number. Keys that
    a layer's own window hides are dropped, and a narrower window where the keys were picked shows
    fewer of them: such places stay empty.
    A capture must hold the layers that select. In a live run they select in the same forward; where
    one layer is swapped at a time, they are read but stay dense.
    Source: adjacent layers pick much the same keys: IndexCache for DeepSeek's indexer, and models
    whose "shared" layers have no indexer of their own.
    """

    ranks_units: ClassVar[bool] = True

    layer: int | None = None
    every: int | None = None
    of: Literal["exact", "lightning"] = "exact"
    target: str = "per_head"

    def __post_init__(self) -> None:
        if (self.layer is None) == (self.every is None):
            raise ValueError("set one of layer=… and every=…: which layers select?")
        if self.layer is not None and self.layer < 0:
            raise ValueError(f"layer = {self.layer}; expected 0 or more")
        if self.every is not None and self.every < 1:
            raise ValueError(f"every = {self.every}; expected 1 or more")

    def source(self, layer: int) -> int:
        """The layer whose selection this layer attends to."""
        if self.layer is not None:
            return min(layer, self.layer)
        assert self.every is not None
        return layer - layer % self.every

    def fit(self, record: LayerRecord) -> Ranker:
        source = self.source(record.layer)
        if source == record.layer:
            return self._own().fit(record)
        of_tokens = record.base if isinstance(record, UnitRecord) else record
        if of_tokens.layers is None:
            raise InputError(_absent(record.layer, source, "was not handed over with it"))
        other = of_tokens.other(source)
        if isinstance(record, UnitRecord):
            other = unit_record(other)
        return _Taken(record, self._own().fit(other), source)

    def follow(self) -> ReuseFollower:
        """Along a running sequence: the ranker of each layer that selects is kept for the layers
        after it in the same forward."""
        return ReuseFollower(self, follower(self._own()))

    def cost(self, record: LayerRecord, budget: int) -> Cost:
        """What selecting costs in a layer that selects; nothing in the others."""
        if self.source(record.layer) == record.layer:
            return self._own().cost(record, budget)
        return Cost(bytes_read=0.0, multiply_adds=0.0)

    def _own(self) -> Selector:
        return Lightning() if self.of == "lightning" else Exact(self.target)


def source(selector: Selector, layer: int) -> int:
    """The layer whose selection a layer attends to under any selector: with most, its own."""
    own = getattr(selector, "source", None)
    return layer if own is None else int(own(layer))


@dataclass(frozen=True)
class ReuseFollower:
    """One sequence, all layers.

    own:     selects where a layer selects for itself.
    latest:  layer -> its positions and its ranker in the latest forward.
    """

    reuse: Reuse
    own: Follower
    latest: dict[int, tuple[Tensor, Ranker]] = field(default_factory=dict)

    def fit(self, record: LayerRecord) -> Ranker:
        source = self.reuse.source(record.layer)
        if source == record.layer:
            ranker = self.own.fit(record)
            self.latest[source] = record.positions, ranker
            return ranker
        if source in self.latest:
            positions, ranker = self.latest[source]
            if positions.equal(record.positions):
                return _Taken(record, ranker, source)
        raise InputError(_absent(record.layer, source, "selected nothing in this forward"))

    def again(self) -> ReuseFollower:
        return ReuseFollower(self.reuse, self.own.again())


def _absent(layer: int, source: int, why: str) -> str:
    return f"selector 'reuse': layer {layer} takes layer {source}'s selection, and that layer {why}"


@dataclass(frozen=True)
class _Taken:
    """Another layer's ranking, less what this layer's mask hides."""

    record: LayerRecord
    ranker: Ranker
    source: int

    def scores(self, rows: slice) -> Tensor | None:
        scores = self.ranker.scores(rows)
        if scores is None:
            return None
        return scores.masked_fill(~self.record.visible(rows), float("-inf"))

    def top(self, budget: int) -> Support:
        support = self.ranker.top(budget)
        if self.record.heads % len(support):
            raise InputError(
                f"selector 'reuse': layer {self.source} picks {len(support)} sets, which the "
                f"{self.record.heads} heads of layer {self.record.layer} cannot share evenly"
            )
        chunks = self.record.chunks(len(support))
        hidden = torch.cat([self._hidden(rows, support[:, rows]) for rows in chunks], dim=1)
        order = hidden.int().argsort(dim=-1, stable=True)
        return support.masked_fill(hidden, -1).gather(-1, order)

    def _hidden(self, rows: slice, support: Support) -> Tensor:
        """bool like the support of these rows: pads, and keys that this layer's mask hides."""
        seen = self.record.visible(rows).expand(len(support), -1, -1)
        return (support < 0) | ~seen.gather(-1, support.clamp(min=0))
