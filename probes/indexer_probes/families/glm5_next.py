"""GLM-5.3-Flash: its indexer selects whole pools of tokens; the started pool is always attended."""

from __future__ import annotations

from torch import Tensor, nn

from indexer_probes import units
from indexer_probes.families.base import Attention
from indexer_probes.families.latent import Latent
from indexer_probes.records import Layout


class Glm5Next(Latent):
    reads_mask = False
    folds = True
    selects_units = True

    def layout(self, attention: Attention, indexer: nn.Module) -> Layout:
        return Layout(tail=bool(indexer.index_kpool_always_select_tail))

    def spans(self, indexer: nn.Module, units_scored: int, keys: Tensor) -> Tensor:
        size = int(indexer.index_kpool)  # type: ignore[arg-type]
        return units.tiled(units_scored * size, size, whole=True, device=keys.device)


FAMILY = Glm5Next("latent keys, native indexer over pools of keys, linear layers between")
