"""Multi-head latent attention with or without an indexer over tokens: DeepSeek-V3.2 and its clones.

The latents are what the model hands to its up-projection, so scales, norms and a cache's older
tokens are the model's own. What differs between clones (where RoPE sits, where a scale goes, which
layers have an indexer, a window or sinks) is read off the module or proved on its own numbers.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from indexer_probes.families.base import Attention, AttentionCall, Family, local, own, weight_of
from indexer_probes.records import LatentKeys, MaskRule, PlainKeys


class Latent(Family):
    """Keys are kept as latents; where older ones cannot be heard, as expanded keys."""

    reads_mask = True

    def is_attention(self, module: nn.Module) -> bool:
        return hasattr(module, "kv_b_proj")

    def refusal(self, attention: Attention) -> str | None:
        projection = attention.kv_b_proj
        weight = getattr(projection, "weight", None)
        if weight is not None and weight.element_size() == 1:
            return (
                f"its kv_b_proj is stored as {str(weight.dtype).removeprefix('torch.')}, and the "
                "keys cannot be rebuilt from a quantised up-projection; load a bfloat16 copy of "
                "the weights"
            )
        if type(projection) is nn.Linear and getattr(projection, "bias", None) is None:
            return None
        return (  # an adapter adds to its output what its weight does not hold
            f"its kv_b_proj is a {type(projection).__name__} and not a plain linear layer, so its "
            "weight alone does not give the keys; merge adapters into the weights first"
        )

    def mask(self, attention: Attention) -> MaskRule:
        sinks = getattr(attention, "sinks", None)
        return MaskRule(
            window=getattr(attention, "sliding_window", None),
            sinks=None if sinks is None else local(sinks).detach().float().clone(),
        )

    def indexer(self, attention: Attention) -> nn.Module | None:
        indexer: nn.Module | None = getattr(attention, "indexer", None)
        return indexer

    def reuses(self, attention: Attention) -> bool:
        return bool(getattr(attention, "skip_topk", False))

    def fed(self, attention: Attention) -> dict[str, nn.Module]:
        return {"latent": attention.kv_b_proj}

    def keys(
        self, call: AttentionCall, heard: Mapping[str, Tensor], values: bool
    ) -> PlainKeys | LatentKeys:
        latent = heard["latent"].flatten(0, -2)  # (key, rank)
        if len(latent) != call.length:  # a cache of expanded keys brought what was not heard here
            return super().keys(call, heard, values)
        up_keys, up_values = _split(call.attention)
        rope = call.keys[0, 0, :, up_keys.shape[1] :]  # the model gives every head the same
        return LatentKeys(own(latent), own(rope), own(up_keys), own(up_values) if values else None)


def _split(attention: Attention) -> tuple[Tensor, Tensor]:
    """[head, nope_dim, rank] and [head, value_dim, rank] of the shared up-projection."""
    nope, value = attention.qk_nope_head_dim, attention.v_head_dim
    weight = weight_of(attention.kv_b_proj)
    by_head = weight.view(-1, nope + value, weight.shape[-1])
    return by_head[:, :nope], by_head[:, nope:]
