"""Heads that start by looking at one token before the query.

Looking up a value needs such heads below; from random weights they are found late, and on a CPU
that is most of the training. Only the start differs: every weight stays trainable.

A head that goes by position alone needs a constant to rotate, which a model without biases lacks:
the first dimension of every embedding is made one. The constants are chosen for the logit of the
wanted token to stand some units above its neighbours'.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

CONSTANT = 0.3  # of the embedding's first dimension; the others start near 0.04
PAIRS = 8  # the fastest rotations tell neighbours apart; a plain head keeps the others free


@torch.no_grad()
def look_back(model: Any, layer: int, offsets: Sequence[int]) -> None:
    """Starts the first heads of a layer, one an offset, as heads that see so many tokens back.

    model: a deepseek_v32 or llama-like transformers model with tied embeddings, freshly made.
    """
    model.model.embed_tokens.weight[:, 0] = CONSTANT
    attention = model.model.layers[layer].self_attn
    if hasattr(attention, "kv_a_proj_with_mqa"):
        _latent(model.config, attention, offsets)
    else:
        _plain(model.config, attention, offsets)


def _rates(theta: float, dim: int) -> Tensor:
    """Radians a token of each pair, fastest first."""
    return theta ** (-torch.arange(0, dim, 2) / dim)


def _latent(config: Any, attention: Any, offsets: Sequence[int]) -> None:
    """Multi-head latent attention: pairs lie side by side, one rotated key serves every head."""
    rates = _rates(config.rope_parameters["rope_theta"], config.qk_rope_head_dim)
    rotated = attention.kv_a_proj_with_mqa.weight[config.kv_lora_rank :]  # (2 · pair, width)
    rotated[0::2, 0] += 1.3
    attention.q_a_proj.weight[0, 0] = 0.7
    heads = attention.q_b_proj.weight.unflatten(0, (config.num_attention_heads, -1))
    for head, offset in enumerate(offsets):
        turned = heads[head, config.qk_nope_head_dim :, 0]  # a view: (2 · pair)
        turned[0::2] = 1.2 * torch.cos(rates * offset)
        turned[1::2] = -1.2 * torch.sin(rates * offset)


def _plain(config: Any, attention: Any, offsets: Sequence[int]) -> None:
    """Grouped queries: a pair is (i, i + half), and the keys of a group share their constant."""
    dim = attention.head_dim
    rates = _rates(config.rope_parameters["rope_theta"], dim)[:PAIRS]
    keys = attention.k_proj.weight.unflatten(0, (config.num_key_value_heads, dim))
    queries = attention.q_proj.weight.unflatten(0, (config.num_attention_heads, dim))
    for head, offset in enumerate(offsets):
        keys[head // attention.num_key_value_groups, :PAIRS, 0] = 1.1
        queries[head, :PAIRS, 0] = 1.1 * torch.cos(rates * offset)
        queries[head, dim // 2 : dim // 2 + PAIRS, 0] = -1.1 * torch.sin(rates * offset)
