"""The number formats that indexers and key caches are stored in, rounded to in plain torch.

Each function maps a tensor [..., dim] to `Quantised`: codes that hold exactly representable values
of the format as float32 (so a product of codes on any device is the product the hardware forms),
and one float32 scale per block of the last axis. Rounding is to nearest, ties to even.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from indexer_kernels.topk import KernelError

E4M3_MAX = 448.0
E2M1_MAX = 6.0
E4M3_FLOOR = 1e-4  # smallest amax that DeepSeek's act_quant scales by
E2M1_FLOOR = E2M1_MAX * 2.0**-126  # keeps the power-of-two scale a normal float32
TINY = 2.0**-100  # amax of an all-zero vector in the integer formats


@dataclass(frozen=True)
class Quantised:
    """A tensor in a narrow format.

    codes:  float32 [..., dim], values of the format before scaling.
    scales: float32 [..., ceil(dim / block)], one positive factor a block.
    block:  neighbours on the last axis that share a scale; the last block may be shorter.
    """

    codes: Tensor
    scales: Tensor
    block: int

    def dequantise(self) -> Tensor:
        """float32 [..., dim]: codes times their block's scale."""
        scales = self.scales.repeat_interleave(self.block, dim=-1)
        return self.codes * scales[..., : self.codes.shape[-1]]


def hadamard(x: Tensor) -> Tensor:
    """x rotated by Sylvester's Hadamard matrix over sqrt(dim): q.k is what it was before.

    x:       float [..., dim], dim a power of two.
    returns: [..., dim] in x's dtype, summed in float32 as the fast_hadamard_transform kernel does.
    Raises KernelError for another dim: Sylvester's construction has no such matrix.
    Source: `rotate_activation` of DeepSeek-V3.2-Exp's inference code, scale dim ** -0.5.
    """
    dim = x.shape[-1]
    if dim < 1 or dim & (dim - 1):
        raise KernelError(f"a Hadamard rotation needs a power of two for its dim, not {dim}")
    rotated = x.float()
    half = 1
    while half < dim:
        pairs = rotated.reshape(*x.shape[:-1], dim // (2 * half), 2, half)
        left, right = pairs[..., 0, :], pairs[..., 1, :]
        rotated = torch.stack((left + right, left - right), dim=-2)
        half *= 2
    return (rotated.reshape(x.shape) * dim**-0.5).to(x.dtype)


def e4m3(x: Tensor, block: int | None = None) -> Quantised:
    """8-bit floats (4 exponent, 3 mantissa bits, up to 448) with power-of-two (ue8m0) scales.

    x:     float [..., dim]. block: neighbours that share a scale, None for the whole vector.
    The scale is amax / 448 rounded up to a power of two, amax floored at 1e-4.
    Source: `act_quant` with scale_fmt "ue8m0" in DeepSeek-V3.2-Exp's inference code.
    """
    blocks = _blocks(x, block)
    scales = _power_of_two_at_least(_amax(blocks).clamp(min=E4M3_FLOOR) / E4M3_MAX)
    scaled = (blocks / scales).clamp(-E4M3_MAX, E4M3_MAX)  # the cast alone is free to give NaN
    return _quantised(x, scaled.to(torch.float8_e4m3fn).float(), scales)


def e2m1(x: Tensor, block: int | None = 32) -> Quantised:
    """4-bit floats (0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives) with ue8m0 block scales.

    x:     float [..., dim]. block: neighbours that share a scale, None for the whole vector.
    The scale is amax / 6 rounded up to a power of two, amax floored at 6 * 2**-126.
    Source: `fp4_act_quant` of DeepSeek-V4's inference code, blocks of 32.
    """
    blocks = _blocks(x, block)
    scales = _power_of_two_at_least(_amax(blocks).clamp(min=E2M1_FLOOR) / E2M1_MAX)
    return _quantised(x, _round_e2m1(blocks / scales), scales)


def integer(x: Tensor, bits: int, block: int | None = None) -> Quantised:
    """Symmetric integers, -(2**(bits-1) - 1) to 2**(bits-1) - 1, scaled by amax.

    x:     float [..., dim]. bits: 2 to 8. block: neighbours that share a scale, None for all.
    Raises KernelError for other bits.
    """
    if not 2 <= bits <= 8:
        raise KernelError(f"bits = {bits}: integers of 2 to 8 bits are supported")
    top = 2 ** (bits - 1) - 1
    blocks = _blocks(x, block)
    scales = _amax(blocks).clamp(min=TINY) / top
    return _quantised(x, (blocks / scales).round().clamp(-top, top), scales)


def sign(x: Tensor) -> Quantised:
    """One bit a value, +1 or -1 (zero counts as +1), scaled by the vector's mean magnitude.

    x: float [..., dim]. The mean is the least-squares scale of a sign code (XNOR-Net, eq. 6).
    """
    values = x.float()
    codes = torch.where(values < 0, -1.0, 1.0)
    return Quantised(codes, values.abs().mean(-1, keepdim=True), x.shape[-1])


def _round_e2m1(x: Tensor) -> Tensor:
    """The nearest of 0, 0.5, 1, 1.5, 2, 3, 4, 6 with x's sign; ties to the even mantissa.

    The grid's step is 0.5 below 2, 1 below 4 and 2 from there, and torch rounds halves to even,
    which within each span is the even mantissa.
    """
    size = x.abs().clamp(max=E2M1_MAX)
    step = torch.where(size < 2, 0.5, torch.where(size < 4, 1.0, 2.0))
    return torch.copysign((size / step).round() * step, x)


def _power_of_two_at_least(x: Tensor) -> Tensor:
    """The smallest power of two that is not under x (x > 0)."""
    mantissa, exponent = torch.frexp(x)  # x = mantissa * 2**exponent, 0.5 <= mantissa < 1
    return torch.ldexp(torch.ones_like(x), exponent - (mantissa == 0.5).int())


def _blocks(x: Tensor, block: int | None) -> Tensor:
    """float32 [..., blocks, block]: the last axis cut up, the last block filled with zeros."""
    dim = x.shape[-1]
    size = dim if block is None else block
    if size < 1:
        raise KernelError(f"block = {block} over dim {dim}: a block holds at least one value")
    fill = -dim % size
    return torch.nn.functional.pad(x.float(), (0, fill)).unflatten(-1, (-1, size))


def _amax(blocks: Tensor) -> Tensor:
    return blocks.abs().amax(-1, keepdim=True)


def _quantised(x: Tensor, codes: Tensor, scales: Tensor) -> Quantised:
    return Quantised(codes.flatten(-2)[..., : x.shape[-1]], scales.squeeze(-1), codes.shape[-1])
