"""Decode steps whose numbers do not depend on how many sequences are decoded side by side."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

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


class SameBits(TorchFunctionMode):
    """Inside, no linear layer sees fewer than ROWS rows.

    Up to ROWS rows cost what their weights cost to read, so the zeros are nearly free.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is not F.linear:
            return func(*args, **(kwargs or {}))
        given, *others = args
        flat = given.reshape(-1, given.shape[-1])
        missing = ROWS - len(flat)
        if missing <= 0:
            return func(*args, **(kwargs or {}))
        filled = F.pad(flat, (0, 0, 0, missing))
        result = func(filled, *others, **(kwargs or {}))[: len(flat)]
        return result.view(*given.shape[:-1], result.shape[-1])
