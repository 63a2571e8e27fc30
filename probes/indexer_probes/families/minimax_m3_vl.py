"""MiniMax-M3: each index head selects blocks of tokens for one key head; its own is forced."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from indexer_probes import units
from indexer_probes.families.base import Attention, AttentionCall, Family
from indexer_probes.records import Layout

if TYPE_CHECKING:
    from indexer_probes.indexer import Watch


class MiniMaxM3(Family):
    selects_units = True

    def indexer(self, attention: Attention) -> nn.Module | None:
        indexer: nn.Module | None = attention.indexer
        return indexer

    def watch(self, indexer: Any, layer: int) -> Watch:
        from indexer_probes.variants import BlockWatch

        return BlockWatch(layer)

    def layout(self, attention: Attention, indexer: Any) -> Layout:
        forced = int(indexer.local_blocks)
        return Layout(whole=False, forced=forced, per_head=True, pooled=True)

    def spans(self, indexer: Any, units_scored: int, keys: Tensor) -> Tensor:
        return units.tiled(len(keys), int(indexer.block_size), whole=False, device=keys.device)

    def read(self, call: AttentionCall, mask: Tensor | None) -> AttentionCall:
        blocks = call.extra.get("block_indices")
        if blocks is None:
            return call
        return replace(call, indices=blocks[0], width=int(call.attention.indexer.block_size))


FAMILY = MiniMaxM3("grouped key heads, native indexer over blocks for each, local blocks forced")
