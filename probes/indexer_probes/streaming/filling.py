"""Puts the bytes of a part into the model: on its device, scaled, fused as it wants them."""

from __future__ import annotations

from dataclasses import dataclass
from types import EllipsisType

import torch
from torch import Tensor

from indexer_probes.errors import ProbeError
from indexer_probes.streaming.fp8 import dequantise
from indexer_probes.streaming.parts import Parts
from indexer_probes.streaming.skeleton import Skeleton


@dataclass(frozen=True)
class Stored:
    """A weight on the host that becomes a tensor on the device at `[...]` and not before, so that
    no layer lies there twice, once as it was stored and once as it is used."""

    weight: Tensor
    scale: Tensor | None
    block: tuple[int, int]
    device: torch.device
    dtype: torch.dtype

    def __getitem__(self, whole: EllipsisType) -> Tensor:
        if self.scale is None:  # a copy on the CPU too: sums depend on where memory is aligned
            return self.weight.to(self.device, non_blocking=True, copy=True)
        weight = self.weight.to(self.device, non_blocking=True)
        scale = self.scale.to(self.device, non_blocking=True)
        return dequantise(weight, scale, self.block, self.dtype)


def fill(frame: Skeleton, parts: Parts, tensors: dict[str, Tensor]) -> None:
    """Sets these tensors, by checkpoint name, in the model; nothing refers to them afterwards
    where the device is not the host.

    Raises ProbeError when transformers cannot make the model's parameters of them.
    """
    scales = {name: scale.name for name, scale in parts.scales.items() if name in tensors}
    used = set(scales.values())
    stored = {
        name: Stored(
            tensor,
            tensors[scales[name]] if name in scales else None,
            parts.block,
            frame.device,
            frame.dtype,
        )
        for name, tensor in tensors.items()
        if name not in used
    }
    report = frame.load(stored)
    if frame.device.type == "cuda":
        torch.cuda.synchronize(frame.device)  # the copies from the pinned buffer are done
    if report.conversion_errors:
        raise ProbeError(f"{sorted(report.conversion_errors)[0]} cannot be made of the checkpoint")
