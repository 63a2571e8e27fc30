"""How many bytes a capture will take, known from the configuration before a weight is read.

Counts what `LayerRecord.tensors` stores: queries on the kept rows, keys on every token, the
indexer's operands, the witness rows. A file's header is taken as HEADER bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

HEADER = 2048
FLOAT32, INT64 = 4, 8


@dataclass(frozen=True)
class Kept:
    """What a capture keeps of every layer.

    itemsize: bytes of a number of the model's dtype. values, witnesses: as asked for.
    """

    itemsize: int
    values: bool
    witnesses: int


def part_bytes(config: Any, kept: Kept, length: int, rows: int) -> int:
    """Bytes of one sample's part of one layer, the largest where a model's layers differ.

    config: a transformers configuration. length: tokens; rows: query rows that are kept.
    """
    return max(_layer_bytes(layer, kept, length, rows) for layer in _layers(config))


def _layer_bytes(text: Any, kept: Kept, length: int, rows: int) -> int:
    heads = text.num_attention_heads
    latent = getattr(text, "kv_lora_rank", None)
    if latent:
        dim = text.qk_nope_head_dim + text.qk_rope_head_dim
        keys = length * (latent + text.qk_rope_head_dim)
    else:
        dim = _head_dim(text)
        pair = 2 if kept.values else 1
        keys = pair * (getattr(text, "num_key_value_heads", None) or heads) * length * dim
    witnesses = min(rows, kept.witnesses)
    return (
        HEADER
        + kept.itemsize * (heads * rows * dim + keys)
        + INT64 * (rows + witnesses)
        + FLOAT32 * heads * witnesses * length
        + _indexer_bytes(text, kept.itemsize, length, rows)
    )


def shared_bytes(config: Any, kept: Kept) -> int:
    """Bytes of what all samples share of one layer: the up-projections of latent keys."""
    return max(_shared_bytes(layer, kept) for layer in _layers(config))


def _shared_bytes(text: Any, kept: Kept) -> int:
    latent = getattr(text, "kv_lora_rank", None)
    if not latent:
        return 0
    width = text.qk_nope_head_dim + (text.v_head_dim if kept.values else 0)
    return HEADER + int(kept.itemsize * text.num_attention_heads * width * latent)


def state_bytes(config: Any, itemsize: int, length: int) -> int:
    """Bytes of one prompt's hidden states between two layers."""
    text = config.get_text_config()
    streams = getattr(text, "hc_mult", None) or 1  # residual streams side by side
    return int(HEADER + itemsize * length * text.hidden_size * streams)


def _layers(config: Any) -> list[Any]:
    """The text configuration, or one a layer where some of its values differ by layer."""
    text = config.get_text_config()
    return list(getattr(text, "per_layer_config", None) or [text])


def _indexer_bytes(text: Any, itemsize: int, length: int, rows: int) -> int:
    heads, dim = getattr(text, "index_n_heads", None), getattr(text, "index_head_dim", None)
    if not heads or not dim:
        return 0
    budget = min(getattr(text, "index_topk", None) or length, length)
    operands = itemsize * dim * (heads * rows + length)
    return int(operands + FLOAT32 * rows * heads + INT64 * rows * budget)


def _head_dim(text: Any) -> int:
    return int(getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)
