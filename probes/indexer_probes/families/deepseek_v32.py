"""DeepSeek-V3.2 and the clones whose indexers select tokens, some of them in some layers only."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from indexer_probes.families.latent import Latent


class HalfSplit(Latent):
    """The indexer turns pairs (i, i + half) of its first dimensions, unlike the attention itself.

    Source: the indexers of deepseek_v32 and axk2 in transformers.
    """

    def turns(self, indexer: nn.Module) -> Tensor | None:
        reader: Any = indexer
        asked = reader.config.rope_parameters
        dim, kind = reader.qk_rope_head_dim, asked.get("rope_type", "default")
        if kind == "default":
            steps = torch.arange(0, dim, 2, dtype=torch.float32) / dim
            return 1.0 / asked["rope_theta"] ** steps
        if kind not in FIXED:
            return None
        from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

        turns: Tensor = ROPE_INIT_FUNCTIONS[kind](reader.config)[0]
        return turns if len(turns) == dim // 2 else None


FIXED = ("linear", "llama3", "yarn")
"""Rotary scalings whose turns do not change with the length of the text."""

FAMILY = HalfSplit("latent keys, native indexer over tokens")
SHARING = Latent("latent keys, native indexer over tokens, shared by the layers that follow")
WINDOWED = Latent("latent keys, native indexer over tokens in some layers, a window in the others")
