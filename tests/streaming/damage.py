"""What can be wrong with a checkpoint: one function a damage, done to a copy of a published one."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from .published import INDEX

Damage = Callable[[Path], None]
EXPERT = "model.layers.1.mlp.experts.2.up_proj.weight"
QUERY = "model.layers.0.self_attn.q_a_proj.weight"
NORM = "model.layers.1.input_layernorm.weight"


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.safetensors"))


def shard_of(folder: Path, name: str) -> Path:
    return folder / json.loads((folder / INDEX).read_text())["weight_map"][name]


def gone(number: int) -> Damage:
    return lambda folder: shards(folder)[number].unlink()


def all_gone(folder: Path) -> None:
    for shard in shards(folder):
        shard.unlink()


def cut(keep: int) -> Damage:
    """The second shard with only so many of its bytes; negative: so many missing."""

    def damage(folder: Path) -> None:
        content = shards(folder)[1].read_bytes()
        shards(folder)[1].write_bytes(content[:keep])

    return damage


def longer(folder: Path) -> None:
    with shards(folder)[0].open("ab") as file:
        file.write(b"more")


def as_folder(folder: Path) -> None:
    shard = shards(folder)[0]
    shard.unlink()
    shard.mkdir()


def header(change: Callable[[dict[str, Any]], Any]) -> Damage:
    """The first shard with its header changed and its bytes left as they are."""

    def damage(folder: Path) -> None:
        file = shards(folder)[0]
        content = file.read_bytes()
        length = int.from_bytes(content[:8], "little")
        facts = json.loads(content[8 : 8 + length])
        new = json.dumps(change(facts)).encode()
        file.write_bytes(len(new).to_bytes(8, "little") + new + content[8 + length :])

    return damage


def first_tensor(**facts: Any) -> Damage:
    def change(header: dict[str, Any]) -> dict[str, Any]:
        name = next(name for name in header if name != "__metadata__")
        header[name] |= facts
        return header

    return header(change)


def no_json(folder: Path) -> None:
    content = shards(folder)[0].read_bytes()
    shards(folder)[0].write_bytes(content[:8] + b"?" + content[9:])


def index(change: Callable[[dict[str, Any]], Any]) -> Damage:
    def damage(folder: Path) -> None:
        content = json.loads((folder / INDEX).read_text())
        (folder / INDEX).write_text(json.dumps(change(content)))

    return damage


def placed(name: str, shard: Any) -> Damage:
    return index(lambda content: {**content, "weight_map": content["weight_map"] | {name: shard}})


def text(file: str, content: str) -> Damage:
    return lambda folder: (folder / file).write_text(content) and None


def tensors(change: Callable[[dict[str, Tensor]], object], name: str) -> Damage:
    """The shard that holds `name` written again with its tensors changed; the index follows."""

    def damage(folder: Path) -> None:
        file = shard_of(folder, name)
        held = load_file(file)
        change(held)
        save_file(held, file)
        content = json.loads((folder / INDEX).read_text())
        places = {k: v for k, v in content["weight_map"].items() if v != file.name or k in held}
        places |= dict.fromkeys(held, file.name)
        (folder / INDEX).write_text(json.dumps({**content, "weight_map": places}))

    return damage


def without(name: str) -> Damage:
    return tensors(lambda held: held.pop(name), name)


def replaced(name: str, change: Callable[[Tensor], Tensor]) -> Damage:
    return tensors(lambda held: held.update({name: change(held[name]).contiguous()}), name)


def config(**changes: Any) -> Damage:
    def damage(folder: Path) -> None:
        path = folder / "config.json"
        content = {**json.loads(path.read_text()), **changes}
        path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))

    return damage


def only_pickle(folder: Path) -> None:
    all_gone(folder)
    (folder / INDEX).unlink()
    (folder / "pytorch_model.bin").write_bytes(b"")


DAMAGED: dict[str, tuple[Damage, str]] = {
    "a shard is missing": (gone(1), "lacks 1 of 3 shards (first: model-00002-of-00003"),
    "every shard is missing": (all_gone, "lacks 3 of 3 shards"),
    "no safetensors at all": (only_pickle, "only safetensors can be streamed"),
    "no configuration": (lambda folder: (folder / "config.json").unlink(), "no config.json"),
    "a shard lost its last byte": (cut(-1), "model-00002-of-00003.safetensors is truncated"),
    "a shard ends in its header": (cut(100), "has 100 bytes and no whole header"),
    "a shard ends in its first number": (cut(5), "has 5 bytes and no whole header"),
    "a shard is empty": (cut(0), "has 0 bytes and no whole header"),
    "a shard goes on after its end": (longer, "and its header promises"),
    "a shard is a folder": (as_folder, "lacks 1 of 3 shards"),
    "a header is no JSON": (no_json, "its header is no JSON"),
    "a header is a list": (header(lambda facts: [1]), "its header is no table of tensors"),
    "a header lacks a place": (first_tensor(data_offsets=None), "says nothing usable of"),
    "a place is no number": (first_tensor(data_offsets=[0, "9"]), "no whole number"),
    "tensors overlap": (first_tensor(data_offsets=[4, 4], shape=[0]), "does not begin where"),
    "a shape does not fill its bytes": (first_tensor(shape=[3, 3]), "bytes, not"),
    "an unknown dtype": (first_tensor(dtype="F4"), "has dtype F4; known are"),
    "an index that is no JSON": (text(INDEX, "{"), "cannot be read as JSON"),
    "an index of nothing": (text(INDEX, "{}"), "holds no weight_map"),
    "an index that places nothing": (text(INDEX, '{"weight_map": {}}'), "holds no weight_map"),
    "an index with a number for a shard": (placed(QUERY, 7), f"names no shard for {QUERY}"),
    "a file beside the folder": (placed(QUERY, "../x.safetensors"), "outside the checkpoint's"),
    "a file from the root": (placed(QUERY, "/etc/passwd"), "'/etc/passwd', a file outside"),
    "a way out in the middle": (placed(QUERY, "a/../../b.safetensors"), "a file outside"),
    "the wrong shard": (
        placed(QUERY, "model-00003-of-00003.safetensors"),
        f"places {QUERY} in model-00003-of-00003.safetensors, which does not hold it",
    ),
    "a missing norm": (without(NORM), f"lack 1 tensors (first: {NORM})"),
    "a missing embedding": (without("model.embed_tokens.weight"), "model.embed_tokens.weight"),
    "a missing expert": (
        tensors(lambda held: (held.pop(EXPERT), held.pop(EXPERT + "_scale_inv")), EXPERT),
        "do not fit its config.json",
    ),
    "a weight of another shape": (
        replaced(NORM, lambda weight: weight[:-1]),
        f"{NORM} is (159,) on disk and (160,) by the configuration",
    ),
    "an expert of another shape": (
        replaced(EXPERT, lambda weight: weight[:-1]),
        "do not fit its config.json",
    ),
    "whole numbers for a weight": (
        replaced(NORM, lambda weight: weight.to(torch.int32)),
        f"{NORM} has dtype int32 and the model expects bfloat16",
    ),
    "scales are missing": (without(QUERY + "_scale_inv"), f"{QUERY}_scale_inv is missing"),
    "scales of another shape": (
        replaced(QUERY + "_scale_inv", lambda scale: scale[:, :1]),
        "(136, 160) in blocks of (128, 128) has scales of (2, 2)",
    ),
    "scales in whole numbers": (
        replaced(QUERY + "_scale_inv", lambda scale: scale.to(torch.int64)),
        "has dtype int64; expected one of float32",
    ),
    "scales of a weight that needs none": (
        replaced(QUERY, lambda weight: weight.to(torch.bfloat16)),
        f"{QUERY}_scale_inv belongs to no FP8 weight",
    ),
    "an FP8 vector": (
        tensors(
            lambda held: held.update(
                {NORM: held[NORM].to(torch.float8_e4m3fn), NORM + "_scale_inv": torch.ones(2)}
            ),
            NORM,
        ),
        "blocks need a matrix",
    ),
    "FP8 that the configuration hides": (config(quantization_config=None), "stored in FP8 and"),
    "another quantisation": (
        config(quantization_config={"quant_method": "gptq", "bits": 4}),
        "quantised by 'gptq'; streaming reads 'fp8'",
    ),
    "blocks of nothing": (
        config(quantization_config={"quant_method": "fp8", "weight_block_size": [0, 128]}),
        "weight_block_size is [0, 128], not two sizes",
    ),
    "other blocks": (
        config(quantization_config={"quant_method": "fp8", "weight_block_size": [64, 64]}),
        "in blocks of (64, 64) has scales of",
    ),
    "more layers configured": (config(num_hidden_layers=4), "which would be left random"),
    "fewer layers configured": (
        config(num_hidden_layers=1, num_nextn_predict_layers=0),
        "it has no place for",
    ),
    "another width": (config(hidden_size=128), "do not fit its config.json"),
    "other experts": (config(n_routed_experts=6), "do not fit its config.json"),
    "another family": (config(model_type="llama"), "which would be left random"),
    "no family": (config(model_type="deepseek_v23"), "no probe for model type 'deepseek_v23'"),
}
