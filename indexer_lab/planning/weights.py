"""How many numbers a model's weights hold, layer by layer, by its configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from indexer_lab.errors import InputError

COUNTED = ("deepseek_v32", "gpt_oss", "llama", "mistral", "qwen2", "qwen3")
"""Model types whose weights are counted to the number; tests hold each against a model."""


@dataclass(frozen=True)
class Weights:
    """Numbers in a model. layers: of each decoder layer; active: those that one token meets there;
    trunk: embedding, output and last norm."""

    layers: tuple[int, ...]
    active: tuple[int, ...]
    trunk: int

    @property
    def total(self) -> int:
        return sum(self.layers) + self.trunk


def weights_of(config: Any) -> Weights:
    """The weights of a model with this transformers configuration.

    Raises InputError for a model type that is not COUNTED: a guess would look like a count.
    """
    text = config.get_text_config()
    if text.model_type not in COUNTED:
        raise InputError(
            f"no plan for model type {text.model_type!r}: how many weights it has is known for "
            f"{', '.join(COUNTED)} alone; capture works without a plan"
        )
    hidden, vocabulary = text.hidden_size, text.vocab_size
    shared = attention_weights(text) + indexer_weights(text) + 2 * hidden
    held, met = [], []
    for layer in range(text.num_hidden_layers):
        whole, active = _feed_forward(text, layer)
        held.append(shared + whole)
        met.append(shared + active)
    tables = 1 if getattr(config, "tie_word_embeddings", False) else 2
    return Weights(tuple(held), tuple(met), tables * hidden * vocabulary + hidden)


def head_dim(text: Any) -> int:
    """Numbers of a query head."""
    if getattr(text, "kv_lora_rank", None):
        return int(text.qk_nope_head_dim + text.qk_rope_head_dim)
    return int(getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)


def key_heads(text: Any) -> int:
    return int(getattr(text, "num_key_value_heads", None) or text.num_attention_heads)


def attention_weights(text: Any) -> int:
    """Numbers in one layer's attention, an indexer left out."""
    hidden, heads, dim = text.hidden_size, text.num_attention_heads, head_dim(text)
    rank = getattr(text, "kv_lora_rank", None)
    if not rank:
        wide, narrow = heads * dim, key_heads(text) * dim
        biases = wide + 2 * narrow if _has_biases(text) else 0
        norms = 2 * dim if text.model_type.startswith("qwen3") else 0
        if text.model_type == "gpt_oss":
            norms = heads + hidden  # sinks, and the bias of its output
        return int(2 * hidden * wide + 2 * hidden * narrow + biases + norms)
    low = getattr(text, "q_lora_rank", None)
    queries = low * (hidden + heads * dim + 1) if low else hidden * heads * dim
    latent = hidden * (rank + text.qk_rope_head_dim) + rank
    up = rank * heads * (text.qk_nope_head_dim + text.v_head_dim)
    return int(queries + latent + up + heads * text.v_head_dim * hidden)


def indexer_weights(text: Any) -> int:
    """Numbers in one layer's Lightning Indexer; 0 without one."""
    heads, dim = getattr(text, "index_n_heads", None), getattr(text, "index_head_dim", None)
    if not heads or not dim:
        return 0
    hidden = text.hidden_size
    return int(text.q_lora_rank * heads * dim + hidden * dim + 2 * dim + hidden * heads)


def intermediate(text: Any, layer: int) -> int:
    """Widest numbers that a token has inside this layer's feed-forward part, one expert's."""
    if not _is_mixture(text, layer):
        return int(text.intermediate_size)
    one = getattr(text, "moe_intermediate_size", None) or text.intermediate_size
    return int(one * max(1, getattr(text, "num_experts_per_tok", 1)))


def _feed_forward(text: Any, layer: int) -> tuple[int, int]:
    """Numbers in a layer's feed-forward part, and those that one token meets."""
    hidden = text.hidden_size
    if not _is_mixture(text, layer):
        plain = 3 * hidden * text.intermediate_size
        return plain, plain
    one = getattr(text, "moe_intermediate_size", None) or text.intermediate_size
    count = experts(text)
    expert = 3 * hidden * one
    router = count * hidden
    if text.model_type == "gpt_oss":
        expert += 2 * one + hidden  # biases of its experts
        router += count
    always = expert * (getattr(text, "n_shared_experts", 0) or 0) + router
    return count * expert + always, text.num_experts_per_tok * expert + always


def experts(text: Any) -> int:
    """Routed experts of a layer; 0 in a dense model."""
    names = ("n_routed_experts", "num_local_experts", "num_experts")
    return next((int(count) for name in names if (count := getattr(text, name, None))), 0)


def _is_mixture(text: Any, layer: int) -> bool:
    kinds = getattr(text, "mlp_layer_types", None)
    if kinds:
        return bool(kinds[layer] == "sparse")
    return bool(experts(text)) and layer >= (getattr(text, "first_k_dense_replace", 0) or 0)


def _has_biases(text: Any) -> bool:
    return bool(getattr(text, "attention_bias", False)) or text.model_type == "qwen2"
