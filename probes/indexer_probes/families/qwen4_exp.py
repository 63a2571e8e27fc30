"""Qwen4-Exp: its indexer selects whole blocks of tokens by their mean index key."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from indexer_probes import units
from indexer_probes.families.base import Attention, Family
from indexer_probes.records import Layout

if TYPE_CHECKING:
    from indexer_probes.indexer import Watch


class Qwen4Exp(Family):
    reads_mask = True
    folds = True
    selects_units = True

    def indexer(self, attention: Attention) -> nn.Module | None:
        indexer: nn.Module = attention.indexer
        return indexer

    def watch(self, indexer: Any, layer: int) -> Watch:
        from indexer_probes.variants import QueryWatch

        return QueryWatch(layer)

    def layout(self, attention: Attention, indexer: Any) -> Layout:
        return Layout(tail=True)

    def spans(self, indexer: Any, units_scored: int, keys: Tensor) -> Tensor:
        size = int(indexer.compress_ratio)
        return units.tiled(units_scored * size, size, whole=True, device=keys.device)


FAMILY = Qwen4Exp("grouped key heads, native indexer over blocks of keys, linear layers between")
