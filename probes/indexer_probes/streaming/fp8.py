"""FP8 weights in blocks: each block of a matrix has one scale, `weight_scale_inv` beside `weight`.

The name is the published format's; the scale is what a stored number is multiplied with.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil
from typing import Any

import torch
from torch import Tensor

from indexer_probes.errors import ProbeError
from indexer_probes.streaming.headers import Entry, plain

SCALE = "_scale_inv"
BLOCK = (128, 128)
FLOAT8 = (torch.float8_e4m3fn, torch.float8_e5m2)
SCALES = (torch.float32, torch.bfloat16, torch.float16, torch.float8_e8m0fnu)


def dequantise(weight: Tensor, scale: Tensor, block: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """The matrix that an FP8 one stands for: each number times the scale of its block.

    weight: float8 [row, column]; scale: [row block, column block], the last ones may be partial.
    returns: dtype [row, column], the product taken in float32 and rounded once.
    """
    rows, columns = weight.shape
    wide = torch.zeros(
        scale.shape[0] * block[0],
        scale.shape[1] * block[1],
        dtype=torch.float32,
        device=weight.device,
    )
    wide[:rows, :columns] = weight  # whole blocks: a view of four axes meets a scale each
    blocks = wide.view(scale.shape[0], block[0], scale.shape[1], block[1])
    blocks *= scale.float()[:, None, :, None]
    return wide[:rows, :columns].to(dtype)


def block_of(quantisation: Mapping[str, Any]) -> tuple[int, int]:
    """The block that a `quantization_config` names.

    Raises ProbeError for a method other than FP8 in blocks.
    """
    method = quantisation.get("quant_method")
    if method != "fp8":
        raise ProbeError(
            f"the checkpoint is quantised by {method!r}; streaming reads 'fp8' in blocks and "
            "unquantised weights"
        )
    block = quantisation.get("weight_block_size")
    if block is None:
        return BLOCK
    pair = isinstance(block, list | tuple) and len(block) == 2
    if not pair or not all(type(size) is int and size > 0 for size in block):
        raise ProbeError(f"quantization_config: weight_block_size is {block!r}, not two sizes")
    return block[0], block[1]


def scales_of(entries: Mapping[str, Entry], block: tuple[int, int] | None) -> dict[str, Entry]:
    """The scale of every FP8 weight, by the weight's name.

    block: None when config.json announces no quantisation.
    Raises ProbeError for a scale that is missing, of another shape or dtype, or without a weight.
    """
    found: dict[str, Entry] = {}
    for name, entry in entries.items():
        if entry.dtype not in FLOAT8:
            continue
        if block is None:
            raise ProbeError(
                f"{entry.file}: {name} is stored in FP8 and config.json has no "
                "quantization_config; use the config.json that belongs to these weights"
            )
        scale = entries.get(name + SCALE)
        if scale is None:
            raise ProbeError(
                f"{entry.file}: {name} is stored in FP8 without its scales, {name + SCALE} is "
                "missing; fetch the complete checkpoint"
            )
        _refuse_misfit(entry, scale, block)
        found[name] = scale
    _refuse_orphan(entries, found)
    return found


def _refuse_misfit(weight: Entry, scale: Entry, block: tuple[int, int]) -> None:
    if len(weight.shape) != 2:
        raise ProbeError(
            f"{weight.file}: {weight.name} is FP8 of shape {weight.shape}; blocks need a matrix"
        )
    expected = (ceil(weight.shape[0] / block[0]), ceil(weight.shape[1] / block[1]))
    if scale.shape != expected:
        raise ProbeError(
            f"{scale.file}: {scale.name} is {scale.shape}; {weight.shape} in blocks of {block} "
            f"has scales of {expected}"
        )
    if scale.dtype not in SCALES:
        raise ProbeError(
            f"{scale.file}: {scale.name} has dtype {plain(scale.dtype)}; expected one of "
            f"{', '.join(map(plain, SCALES))}"
        )


def _refuse_orphan(entries: Mapping[str, Entry], found: Mapping[str, Entry]) -> None:
    used = {scale.name for scale in found.values()}
    for name, entry in entries.items():
        if name.endswith("weight" + SCALE) and name not in used:
            raise ProbeError(
                f"{entry.file}: {name} belongs to no FP8 weight; weights and scales are of "
                "different checkpoints"
            )
