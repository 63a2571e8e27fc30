"""Decode steps whose numbers do not depend on how many sequences are decoded side by side."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

ROWS = 16
"""A linear layer picks another algorithm for a few rows than for many, and another algorithm sums
in another order. From 16 rows on, a row's bits were the same beside any others (float32 and
bfloat16, one and two threads of an x86-64 CPU); so fewer are filled up with zeros. What works
element by element rounds the end of an odd width otherwise than its middle: widths that are
multiples of 32, as models have them, know no such end."""


def side_by_side(model: nn.Module, batch: int) -> int:
    """How many of `batch` sequences may be decoded together: one where experts share the tokens,
    since how many an expert gets decides how it multiplies."""
    experts = any(name.rpartition(".")[2] == "experts" for name, _ in model.named_modules())
    return 1 if experts else batch


@contextmanager
def same_bits(model: nn.Module) -> Iterator[None]:
    """Inside, no linear layer of the model multiplies fewer than ROWS rows.

    Up to ROWS rows cost what their weights cost to read, so the zeros are nearly free.
    """
    with ExitStack() as undo:
        for module in model.modules():
            if isinstance(module, nn.Linear):
                waiting: list[Tensor] = []
                undo.callback(module.register_forward_pre_hook(_fill(waiting)).remove)
                undo.callback(module.register_forward_hook(_cut(waiting)).remove)
        yield


def _fill(waiting: list[Tensor]) -> Any:
    def hook(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        flat = args[0].reshape(-1, args[0].shape[-1])
        if len(flat) >= ROWS:
            return None
        waiting.append(args[0])
        return (F.pad(flat, (0, 0, 0, ROWS - len(flat))),)

    return hook


def _cut(waiting: list[Tensor]) -> Any:
    def hook(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if not waiting:
            return None
        given = waiting.pop()
        rows = given.numel() // given.shape[-1]
        return output[:rows].view(*given.shape[:-1], output.shape[-1])

    return hook
