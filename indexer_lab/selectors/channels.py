"""A few channels, components or heads in place of all: how many there may be, and the largest."""

from __future__ import annotations

import torch
from torch import Tensor

from indexer_kernels.topk import KernelError, topk
from indexer_lab.errors import InputError
from indexer_probes.records import LayerRecord


def check_count(name: str, count: int) -> None:
    """Raises ValueError where nothing would be left."""
    if count < 1:
        raise ValueError(f"{name} = {count}; expected 1 or more")


def check_most(record: LayerRecord, selector: str, name: str, asked: int, most: int) -> None:
    """Raises InputError where a record has fewer than a selector's setting asks for."""
    if asked > most:
        raise InputError(
            f"selector {selector!r}: {name} = {asked}, and layer {record.layer} has {most}; "
            f"ask for at most {most}"
        )


def largest(record: LayerRecord, size: Tensor, count: int) -> Tensor:
    """bool like size [..., channel]: its `count` largest, the lowest first among equals.

    Raises InputError for NaN.
    """
    try:
        picked = topk(size, count)[1]
    except KernelError:
        raise InputError(f"layer {record.layer}: queries, keys or weights hold NaN") from None
    return torch.zeros_like(size, dtype=torch.bool).scatter_(-1, picked, True)
