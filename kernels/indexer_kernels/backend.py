"""Where a function runs: Triton kernels for CUDA tensors, plain torch for the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from indexer_kernels.topk import KernelError

try:
    import triton
    import triton.language as tl
except ImportError:  # the plain-torch references need no triton
    triton = None
    tl = None

# TRITON_INTERPRET=1 decides when a kernel is defined, so it is read once, here.
INTERPRETED = triton is not None and bool(triton.knobs.runtime.interpret)
BACKENDS = ("triton", "torch")

__all__ = [
    "INTERPRETED", "common_device", "jit", "operand", "power_of_two", "tl", "triton", "use_triton",
]  # fmt: skip


def jit(function: Callable[..., Any]) -> Any:
    """triton.jit where triton is installed; elsewhere the bare function, which nothing calls."""
    return function if triton is None else triton.jit(function)


def use_triton(backend: str | None, *tensors: Tensor | None) -> bool:
    """Whether these tensors go to the Triton kernels.

    backend: "triton" or "torch" forces one; None takes Triton for CUDA tensors, torch for others.
    Raises KernelError when the tensors lie on several devices, the name is unknown, or Triton is
    forced where it cannot run (not installed, or CPU tensors outside Triton's interpreter).
    """
    device = common_device(*tensors)
    if backend is None:
        return device.type == "cuda" and triton is not None
    if backend not in BACKENDS:
        raise KernelError(f"backend = {backend!r}: expected one of {', '.join(BACKENDS)} or None")
    if backend == "torch":
        return False
    if triton is None:
        raise KernelError("backend = 'triton': triton is not installed")
    if device.type != "cuda" and not INTERPRETED:
        raise KernelError(
            f"backend = 'triton' cannot run on {device}: it needs CUDA tensors "
            "(or TRITON_INTERPRET=1 in the environment before the first import)"
        )
    return True


def common_device(*tensors: Tensor | None) -> torch.device:
    """The one device that all of these lie on. Raises KernelError when there are several."""
    devices = {tensor.device for tensor in tensors if tensor is not None}
    if len(devices) != 1:
        named = ", ".join(sorted(str(device) for device in devices))
        raise KernelError(f"operands lie on several devices ({named}); move them to one")
    return devices.pop()


def operand(tensor: Tensor) -> Tensor:
    """The tensor as kernels read it: last axis contiguous.

    The interpreter's dot misreads bfloat16, so there it is widened, which changes no value.
    """
    if INTERPRETED and tensor.dtype == torch.bfloat16:
        tensor = tensor.float()
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def power_of_two(size: int, least: int = 1) -> int:
    """The smallest power of two that is at least `size` and `least`."""
    return max(least, 1 << max(size - 1, 0).bit_length())
