"""Mistral: one sliding window for all layers, or none."""

from __future__ import annotations

from indexer_probes.families.base import Attention, Family
from indexer_probes.records import MaskRule


class Mistral(Family):
    def mask(self, attention: Attention) -> MaskRule:
        return MaskRule(window=getattr(attention.config, "sliding_window", None))


FAMILY = Mistral("dense, grouped key heads, one window for all layers")
