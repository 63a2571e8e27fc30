"""Tiny random models of any family, to prove on them what a probe reads.

A model keeps what its configuration says about how attention works and loses its size: two to four
layers, a few heads, windows and budgets small enough that 41 tokens reach past all of them.
"""

from __future__ import annotations

from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import nn
from transformers import AutoConfig, AutoModel, PretrainedConfig, PreTrainedModel

from indexer_probes.errors import ProbeError

LAYERS = 4
TOKENS = 41
SEED = 0
MOST_PARAMETERS = 4_000_000
SMALL: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,  # wide enough that attention is far from uniform
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "attention_dropout": 0.0,
    "sliding_window": 7,
    "sliding_window_size": 7,
    "window_size": 7,
    "attention_chunk_size": 7,
    "attn_logit_softcapping": 1.0,
    "use_sliding_window": True,
    "max_window_layers": 2,
    # experts
    "moe_intermediate_size": 16,
    "shared_intermediate_size": 16,
    "dense_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "shared_experts_intermediate_size": 16,
    "n_routed_experts": 4,
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "first_k_dense_replace": 1,
    # latent attention
    "kv_lora_rank": 16,
    "q_lora_rank": 24,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 12,
    "v_head_dim": 8,
    "o_groups": 2,
    "o_lora_rank": 8,
    # indexers
    "index_n_heads": 4,
    "index_head_dim": 16,
    "index_topk": 9,
    "index_kpool": 4,
    "index_block_size": 4,
    "index_topk_blocks": 3,
    "index_local_blocks": 1,
    "indexer_n_heads": 4,
    "indexer_kv_heads": 1,
    "indexer_head_dim": 16,
    "indexer_budget": 8,
    "indexer_compress_ratio": 4,
    # other layers
    "linear_head_dim": 8,
    "linear_num_heads": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "hc_lowrank": 8,
    "hc_count": 2,
    "hc_mult": 2,
    "rotary_dim": 4,
}
"""Sizes by the names that transformers' configurations give them; others are left as they are."""

LATENT = {"num_key_value_heads": 4}  # latents are expanded for every head
ALTERNATE = ["full", "shared", "full", "shared"]
ONLY: dict[str, dict[str, Any]] = {
    "deepseek_v4": {
        "num_key_value_heads": 1,
        "head_dim": 16,
        "layer_types": [
            "sliding_attention",
            "compressed_sparse_attention",
            "heavily_compressed_attention",
            "compressed_sparse_attention",
        ],
        "compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 6},
        "index_topk": 3,
        "partial_rotary_factor": 0.5,
        "mlp_layer_types": ["hash_moe", "moe", "moe", "moe"],
    },
    "dots3_note_text": {
        "layer_types": ["full_attention", "sliding_attention"] * 2,
        "swa_num_attention_heads": 4,
        "swa_num_key_value_heads": 4,
        "swa_q_lora_rank": 24,
        "swa_kv_lora_rank": 16,
        "swa_head_dim": 16,
        "swa_qk_nope_head_dim": 8,
        "swa_v_head_dim": 8,
        "head_dim": 20,
    },
    "glm5_next_text": {
        "qk_rope_head_dim": 0,
        "index_topk": 8,
        "layer_types": ["linear_attention", *["full_attention"] * 3],
        "indexer_types": ["full", "full", "shared", "full"],
        "mlp_layer_types": ["dense", "dense", "sparse", "sparse"],
    },
    "glm_moe_dsa": {"indexer_types": ALTERNATE},
    "hy_v4": {"indexer_types": ALTERNATE},
    "minimax_m3_vl_text": {
        "index_n_heads": 2,
        "layer_types": ["full_attention", *["minimax_m3_sparse"] * 3],
        "head_dim": 16,
        "rotary_dim": 8,
    },
    "mistral_large4_text": {
        "indexer_types": ["full", "shared", "full", "full"],
        "kv_source_layers": [0, 0, 2, 2],
        "no_rope_layers": [1, 1, 0, 0],
    },
    "qwen4_exp_text": {
        "layer_types": ["linear_attention", *["full_attention"] * 3],
        "head_dim": 16,
    },
}
"""What a family needs beside SMALL, by the model type of its text part."""


_NOT_SETTINGS = ("architectures", "auto_map", "dtype", "model_type", "quantization_config",
                 "torch_dtype", "transformers_version")  # fmt: skip
_OPTIONAL = ("sliding_window", "attn_logit_softcapping", "attention_chunk_size",
             "pad_token_id", "bos_token_id", "eos_token_id")  # fmt: skip
_REFUSED = (
    StrictDataclassError,
    ValueError,
    TypeError,
    KeyError,
    AttributeError,
    IndexError,
    ZeroDivisionError,
)


def tiny_config(model_type: str) -> PretrainedConfig:
    """A small configuration of this model type. Raises ProbeError when transformers refuses it."""
    return shrunk(_default(model_type), fresh=True)


def shrunk(config: PretrainedConfig, fresh: bool = False) -> PretrainedConfig:
    """This configuration's text part made small; what is no size stays as it is.

    fresh: a default configuration, of which only the sizes are taken over.
    Lists with a value for each layer keep one layer of each kind that they tell apart, in order.
    Raises ProbeError when transformers refuses the result.
    """
    text: Any = config.get_text_config()
    kind = text.model_type
    only = ONLY.get(kind, {})
    known = text.to_dict()
    named = {*known, *text.attribute_map}
    small = {name: value for name, value in SMALL.items() if name in named}
    for name in _OPTIONAL:
        if known.get(name) is None:
            small.pop(name, None)  # what a model does not have it does not get
    wanted = {**small, **(LATENT if "kv_lora_rank" in known else {}), **only}
    if not fresh:
        wanted = {**_of_layers(known), **wanted}
    try:
        made: PretrainedConfig = AutoConfig.for_model(kind, **wanted)
        return made
    except _REFUSED as error:
        line = (str(error).strip().splitlines() or [type(error).__name__])[-1][:200]
        raise ProbeError(f"no small {kind} could be configured: {line}") from error


def _of_layers(known: dict[str, Any]) -> dict[str, Any]:
    """The settings of a configuration, its lists over layers cut to those of `_kinds`."""
    settings = {name: value for name, value in known.items() if name not in _NOT_SETTINGS}
    count = known.get("num_hidden_layers")
    lists = {
        name: value
        for name, value in settings.items()
        if isinstance(value, list) and len(value) == count
    }
    if not lists:
        return settings
    kept = _kinds(list(zip(*lists.values(), strict=True)))
    return {**settings, **{name: [value[i] for i in kept] for name, value in lists.items()}}


def _kinds(layers: list[tuple[Any, ...]]) -> list[int]:
    """LAYERS layer numbers, increasing: the first of each kind, then the earliest others."""
    first: dict[str, int] = {}
    for number, layer in enumerate(layers):
        first.setdefault(repr(layer), number)
    kept = sorted(first.values())[:LAYERS]
    rest = [number for number in range(len(layers)) if number not in kept]
    return sorted(kept + rest[: LAYERS - len(kept)])


def _default(model_type: str) -> PretrainedConfig:
    try:
        config: PretrainedConfig = AutoConfig.for_model(model_type)
        return config
    except _REFUSED as error:
        raise ProbeError(f"transformers has no default configuration of {model_type}") from error


def tiny_model(config: PretrainedConfig) -> PreTrainedModel:
    """A random model without a language head, in eval mode, the same for the same configuration.

    Raises ProbeError for one that would not be small: its sizes have other names.
    """
    with torch.device("meta"):
        size = AutoModel.from_config(config, dtype=torch.float32).num_parameters()
    if size > MOST_PARAMETERS:
        raise ProbeError(f"a {config.model_type} cannot be made small by the names of its settings")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        model = AutoModel.from_config(config, dtype=torch.float32)
        for name, parameter in model.named_parameters():
            if name.endswith("sinks"):
                nn.init.normal_(parameter, std=2.0)
    return model.eval().requires_grad_(False)


def tiny_tokens() -> torch.Tensor:
    """int64 [1, TOKENS]"""
    return torch.randint(3, 64, (1, TOKENS), generator=torch.Generator().manual_seed(SEED + 1))
