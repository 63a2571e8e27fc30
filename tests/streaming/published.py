"""Checkpoints as they are published: FP8 in blocks of 128 x 128, shards and an index, and the layer
for multi-token prediction that comes after the last."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import DeepseekV32Config, DeepseekV32ForCausalLM, PreTrainedModel

BLOCK = 128
INDEX = "model.safetensors.index.json"
KEPT = ("embed_tokens", "lm_head", "norm", "mlp.gate.", "weights_proj")  # never quantised
SHAPE = {
    "vocab_size": 64,
    "hidden_size": 160,  # one whole block and a part of one
    "intermediate_size": 144,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 128,
    "initializer_range": 0.1,
    "moe_intermediate_size": 32,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "kv_lora_rank": 16,
    "q_lora_rank": 136,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 40,
    "v_head_dim": 8,
    "index_n_heads": 4,
    "index_head_dim": 16,
    "index_topk": 9,
    "first_k_dense_replace": 1,
    "num_nextn_predict_layers": 1,
}


def deepseek() -> PreTrainedModel:
    """A DeepSeek-V3.2 of random weights: one dense layer, one with experts."""
    torch.manual_seed(0)
    return DeepseekV32ForCausalLM(DeepseekV32Config(**SHAPE)).bfloat16()


def write_pair(folder: Path) -> tuple[Path, Path]:
    """The same model twice: `fp8` as published, and `bf16`, what it stands for, for transformers.

    The second is computed from the first one block after the other, by the format's definition.
    """
    fp8, bf16 = folder / "fp8", folder / "bf16"
    deepseek().save_pretrained(bf16)
    weights = load_file(bf16 / "model.safetensors")
    stored, meant = quantised(weights), dict(weights)
    for name in weights:
        if name + "_scale_inv" in stored:
            meant[name] = read_by_block(stored[name], stored[name + "_scale_inv"])
    save_file(meant, bf16 / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((bf16 / "config.json").read_text())
    for derived in ("layer_types", "mlp_layer_types"):  # a published configuration has neither
        del config[derived]
    config["quantization_config"] = {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "weight_block_size": [BLOCK, BLOCK],
    }
    write(fp8, stored | one_layer_more(stored), config, shards=3)
    return fp8, bf16


def write(folder: Path, tensors: dict[str, Tensor], config: dict, shards: int) -> None:
    """A checkpoint of so many shards; a weight and its scale may lie in different ones."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    names = [f"model-{number + 1:05d}-of-{shards:05d}.safetensors" for number in range(shards)]
    places = {tensor: names[i * shards // len(tensors)] for i, tensor in enumerate(sorted(tensors))}
    for shard in names:
        held = {name: tensors[name].contiguous() for name in places if places[name] == shard}
        save_file(held, folder / shard, metadata={"format": "pt"})
    size = sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": places}
    (folder / INDEX).write_text(json.dumps(index))


def quantised(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Every matrix of a linear layer as e4m3 with one float32 scale a block."""
    stored: dict[str, Tensor] = {}
    for name, weight in weights.items():
        if weight.ndim != 2 or any(kept in name for kept in KEPT):
            stored[name] = weight
            continue
        rows, columns = weight.shape
        scale = torch.empty(-(-rows // BLOCK), -(-columns // BLOCK))
        small = torch.empty(rows, columns, dtype=torch.float8_e4m3fn)
        for i in range(scale.shape[0]):
            for j in range(scale.shape[1]):
                block = _block(i, j)
                scale[i, j] = weight[block].float().abs().max() / 448
                small[block] = (weight[block].float() / scale[i, j]).to(torch.float8_e4m3fn)
        stored |= {name: small, name + "_scale_inv": scale}
    return stored


def read_by_block(weight: Tensor, scale: Tensor) -> Tensor:
    """bfloat16: each stored number times its block's scale."""
    meant = torch.empty(weight.shape, dtype=torch.bfloat16)
    for i in range(scale.shape[0]):
        for j in range(scale.shape[1]):
            meant[_block(i, j)] = (weight[_block(i, j)].float() * scale[i, j]).bfloat16()
    return meant


def one_layer_more(stored: dict[str, Tensor]) -> dict[str, Tensor]:
    """The layer that only predicts a further token, under the number after the last."""
    last = {name: tensor for name, tensor in stored.items() if ".layers.1." in name}
    more = {name.replace(".layers.1.", ".layers.2."): tensor for name, tensor in last.items()}
    more["model.layers.2.enorm.weight"] = stored["model.norm.weight"]
    more["model.layers.2.eh_proj.weight"] = torch.zeros(160, 320, dtype=torch.bfloat16)
    return {name: tensor.clone() for name, tensor in more.items()}


def _block(i: int, j: int) -> tuple[slice, slice]:
    return slice(i * BLOCK, (i + 1) * BLOCK), slice(j * BLOCK, (j + 1) * BLOCK)
