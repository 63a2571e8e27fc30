"""gpt-oss: a learned sink logit per head, and a window in every other layer."""

from __future__ import annotations

from indexer_probes.families.base import Attention, Family, local
from indexer_probes.records import MaskRule


class GptOss(Family):
    def mask(self, attention: Attention) -> MaskRule:
        sinks = local(attention.sinks).detach().float().clone()
        return MaskRule(window=attention.sliding_window, sinks=sinks)


FAMILY = GptOss("dense, sinks, window in alternate layers")
