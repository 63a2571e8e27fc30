"""What a probe must know of a model family, and how a plain dense family answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from indexer_probes.records import LatentKeys, MaskRule, PlainKeys

Attention = Any
"""An attention module of transformers; they share no base class that names their attributes."""


@dataclass(frozen=True)
class AttentionCall:
    """One call of an attention function, as the model made it.

    attention: the attention module.
    queries:   [1, head, query, dim], after RoPE.
    keys:      [1, kv_head, key, dim], after RoPE, those of a cache included.
    values:    [1, kv_head, key, value_dim]
    scale:     factor on q.k
    indices:   int [1, query, k], the native selection; None for a dense layer.
    extra:     what else the model handed over, for its own eager function.
    sequence:  which sequence of the model's batch this is.
    """

    attention: Attention
    queries: Tensor
    keys: Tensor
    values: Tensor
    scale: float
    indices: Tensor | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    sequence: int = 0

    @property
    def length(self) -> int:
        """Keys, which equals the tokens seen so far."""
        return self.keys.shape[2]

    @property
    def rows(self) -> int:
        return self.queries.shape[2]

    @property
    def first(self) -> int:
        """Position of the first query."""
        return self.length - self.rows


class Family:
    """A dense family that attends to every earlier token; the others override what differs.

    reads_mask: the model looks into its attention mask itself, so it must be given one.
    by_chunks:  its decoder layers take a prompt some rows at a time: but for attention they treat
                each token for itself, they return hidden states alone, and `latent` is known.
    """

    reads_mask = False
    by_chunks = False

    def __init__(self, note: str):
        self.note = note

    def refusal(self, attention: Attention) -> str | None:
        """Why this attention module cannot be captured, or None when it can."""
        return None

    def mask(self, attention: Attention) -> MaskRule:
        return MaskRule()

    def indexer(self, attention: Attention) -> nn.Module | None:
        """The module that selects keys, or None in a dense layer."""
        return None

    def overheard(self, attention: Attention) -> dict[str, nn.Module]:
        """Modules whose outputs `keys` wants, by the name under which it reads them."""
        return {}

    def latent(self, call: AttentionCall, heard: Mapping[str, Tensor]) -> LatentKeys:
        """The latents of this call's own tokens, the model's tensors themselves."""
        raise NotImplementedError

    def keys(
        self, call: AttentionCall, heard: Mapping[str, Tensor], values: bool
    ) -> PlainKeys | LatentKeys:
        """Own copies of the keys, and of the values when asked for."""
        return PlainKeys(own(call.keys[0]), own(call.values[0]) if values else None)


def own(tensor: Tensor) -> Tensor:
    """A detached, contiguous copy that holds no activation alive."""
    return tensor.detach().clone(memory_format=torch.contiguous_format)
