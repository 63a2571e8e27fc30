"""The arithmetic of one prompt's capture, by the configuration alone."""

from __future__ import annotations

from typing import Any

from indexer_lab.planning.weights import head_dim, weights_of


def flops(config: Any, length: int, layers: int, kernels: bool) -> float:
    """Floating-point operations of a prompt's forward through the model's first `layers` layers.

    A weight that a token meets counts 2, as does each product of a query's and a key's number.
    Where kernels answer, attention is counted on latents and on the selected keys alone.
    """
    text = config.get_text_config()
    linear = 2.0 * length * sum(weights_of(config).active[:layers])
    pairs = length * (length + 1) / 2
    return linear + layers * (_index_flops(text, pairs) + _attention(text, length, pairs, kernels))


def _index_flops(text: Any, pairs: float) -> float:
    heads, dim = getattr(text, "index_n_heads", None), getattr(text, "index_head_dim", None)
    return 2.0 * pairs * heads * dim if heads and dim else 0.0


def _attention(text: Any, length: int, pairs: float, kernels: bool) -> float:
    heads = text.num_attention_heads
    if kernels and getattr(text, "index_topk", None) and getattr(text, "kv_lora_rank", None):
        seen = min(pairs, float(length) * text.index_topk)
        return 2.0 * seen * heads * (2 * text.kv_lora_rank + text.qk_rope_head_dim)
    values = getattr(text, "v_head_dim", None) or head_dim(text)
    return 2.0 * pairs * heads * (head_dim(text) + values)
