"""Qwen2 and Qwen3: dense, with a sliding window in the layers that the configuration names."""

from __future__ import annotations

from indexer_probes.families.base import Attention, Family
from indexer_probes.records import MaskRule


class Qwen(Family):
    def mask(self, attention: Attention) -> MaskRule:
        return MaskRule(window=attention.sliding_window)


FAMILY = Qwen("dense, grouped key heads, optional window per layer")
