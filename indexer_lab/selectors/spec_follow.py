"""SpecAttn along a running sequence: each layer attends to what the last round of drafts read."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from indexer_kernels.topk import topk
from indexer_lab.errors import InputError
from indexer_lab.selectors.base import Ranker, Support, every_key
from indexer_probes.records import LayerRecord

if TYPE_CHECKING:
    from indexer_lab.selectors.spec_attn import SpecAttn


@dataclass
class SpecFollower:
    """The drafts' attention to one sequence, as far as it is known.

    mapped: layer of the model -> layer of the draft, empty until it is known; shared by every
            continuation of the prompt.
    united: layer of the draft -> float32 [query, key], what the queries of the next forward are to
            choose from; -inf outside their round's union.
    """

    settings: SpecAttn
    mapped: list[int] = field(default_factory=list)
    united: dict[int, Tensor] = field(default_factory=dict)

    def again(self) -> SpecFollower:
        return SpecFollower(self.settings, self.mapped)

    def fit(self, record: LayerRecord) -> Ranker:
        if record.layer < self.settings.dense:
            return _EveryKey(record)
        if record.layer >= len(self.mapped):
            raise InputError(f"the layer map {self.mapped} has no entry for layer {record.layer}")
        united = self.united.get(self.mapped[record.layer])
        if united is None or united.shape != (record.rows, record.length):
            made = None if united is None else tuple(united.shape)
            raise InputError(
                f"selector 'spec_attn', layer {record.layer}: {record.rows} queries of "
                f"{record.length} keys, and drafts were made for {made}"
            )
        return _Union(record, united)


@dataclass(frozen=True)
class _Union:
    record: LayerRecord
    united: Tensor

    def scores(self, rows: slice) -> Tensor | None:
        return None

    def top(self, budget: int) -> Support:
        seen = self.record.visible(slice(None))
        return topk(self.united.masked_fill(~seen, float("-inf"))[None], budget)[1]


@dataclass(frozen=True)
class _EveryKey:
    record: LayerRecord

    def scores(self, rows: slice) -> Tensor | None:
        return None

    def top(self, budget: int) -> Support:
        """Every key, whatever the budget."""
        return every_key(self.record)
