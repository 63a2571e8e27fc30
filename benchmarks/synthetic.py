"""Writes a DeepSeek-V3.2 checkpoint of random numbers in the published format, at any width.

Names and shapes are transformers' own, turned back from its fused parameters; nothing is in memory
but one stretch of random bytes, so that the real width can be written on any machine.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, DeepseekV32Config
from transformers.core_model_loading import revert_weight_conversion

BLOCK = 128
KEPT = ("embed_tokens", "lm_head", "norm", "mlp.gate.", "weights_proj")  # never quantised
STRETCH = 64 << 20
SMALL = {
    "vocab_size": 1024,
    "hidden_size": 512,
    "intermediate_size": 1024,
    "moe_intermediate_size": 256,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "q_lora_rank": 192,
    "kv_lora_rank": 64,
    "qk_rope_head_dim": 16,
    "qk_nope_head_dim": 32,
    "v_head_dim": 32,
    "n_routed_experts": 16,
    "n_group": 4,
    "topk_group": 2,
    "num_experts_per_tok": 4,
    "index_n_heads": 8,
    "index_head_dim": 32,
    "index_topk": 64,
}
WIDTHS: dict[str, dict[str, int]] = {"real": {}, "small": SMALL}
"""What differs from the configuration's defaults, which are the published model's."""

Facts = dict[str, tuple[str, tuple[int, ...]]]
SIZES = {"F8_E4M3": 1, "BF16": 2, "F32": 4}


def write_checkpoint(folder: Path, width: str, dense: int, sparse: int, shard: int) -> int:
    """A checkpoint of so many dense and sparse layers in shards of about `shard` bytes.

    returns: bytes written.
    """
    config = DeepseekV32Config(
        **WIDTHS[width],
        num_hidden_layers=dense + sparse,
        first_k_dense_replace=dense,
        dtype=torch.bfloat16,
    )
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    _announce_fp8(folder / "config.json")
    shards = _shards(_tensors(config), shard)
    places: dict[str, str] = {}
    for number, facts in enumerate(shards, 1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_shard(folder / name, facts, seed=number)
        places |= dict.fromkeys(facts, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def _announce_fp8(path: Path) -> None:
    facts = json.loads(path.read_text())
    facts["architectures"] = ["DeepseekV32ForCausalLM"]
    facts["quantization_config"] = {
        "activation_scheme": "dynamic",
        "fmt": "e4m3",
        "quant_method": "fp8",
        "weight_block_size": [BLOCK, BLOCK],
    }
    path.write_text(json.dumps(facts, indent=2))


def _tensors(config: DeepseekV32Config) -> Facts:
    """Name -> dtype and shape of every tensor of the published format."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    found: Facts = {}
    for name, tensor in sorted(revert_weight_conversion(model, model.state_dict()).items()):
        shape = tuple(tensor.shape)
        if "e_score_correction_bias" in name:
            found[name] = ("F32", shape)
        elif len(shape) == 2 and not any(kept in name for kept in KEPT):
            found[name] = ("F8_E4M3", shape)
            found[name + "_scale_inv"] = ("F32", tuple(-(-size // BLOCK) for size in shape))
        else:
            found[name] = ("BF16", shape)
    return found


def _shards(tensors: Facts, most: int) -> list[Facts]:
    shards: list[Facts] = [{}]
    size = 0
    for name, (dtype, shape) in tensors.items():
        if size > most:
            shards.append({})
            size = 0
        shards[-1][name] = (dtype, shape)
        size += _bytes(dtype, shape)
    return shards


def _bytes(dtype: str, shape: tuple[int, ...]) -> int:
    return SIZES[dtype] * int(torch.Size(shape).numel())


def _write_shard(path: Path, facts: Facts, seed: int) -> None:
    header, place = {}, 0
    for name, (dtype, shape) in facts.items():
        end = place + _bytes(dtype, shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [place, end]}
        place = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    noise = _noise(seed)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name, (dtype, shape) in facts.items():
            _write_tensor(file, name, dtype, shape, noise)


def _noise(seed: int) -> dict[str, bytes]:
    """A stretch of each dtype: FP8 codes up to 2 in size, small bfloat16 numbers."""
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(0, 256, (STRETCH,), dtype=torch.uint8, generator=generator) & 0xBF
    small = (torch.randn(STRETCH // 16, generator=generator) * 0.02).bfloat16()
    return {
        "F8_E4M3": codes.numpy().tobytes(),
        "BF16": small.view(torch.uint8).numpy().tobytes(),
    }


def _write_tensor(
    file: object, name: str, dtype: str, shape: tuple[int, ...], noise: dict[str, bytes]
) -> None:
    size = _bytes(dtype, shape)
    if dtype == "F32":  # scales that make a weight's numbers about 0.02 in size; no bias
        value = 0.0 if name.endswith("bias") else 0.03
        content = torch.full((size // 4,), value).numpy().tobytes()
    elif "norm" in name and name.endswith("weight"):
        content = torch.ones(size // 2, dtype=torch.bfloat16).view(torch.uint8).numpy().tobytes()
    else:
        content = noise[dtype]
    for start in range(0, size, len(content)):
        file.write(content[: size - start])  # type: ignore[attr-defined]
