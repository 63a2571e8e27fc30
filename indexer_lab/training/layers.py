"""A model's layers, compiled for the time of a training run.

The layers run the same code on the same shapes, so one of them is compiled and serves all; the
whole model as one graph would take the compiler as many times longer as it has layers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from transformers.modeling_layers import GradientCheckpointingLayer


@contextmanager
def compiled(model: nn.Module, wanted: bool = True) -> Iterator[None]:
    """Within the block every layer of a transformers model is compiled, one shape at a time."""
    layers: list[Any] = [m for m in model.modules() if isinstance(m, GradientCheckpointingLayer)]
    for layer in layers if wanted else []:
        layer.compile(dynamic=False)
    try:
        yield
    finally:
        for layer in layers:
            layer._compiled_call_impl = None
